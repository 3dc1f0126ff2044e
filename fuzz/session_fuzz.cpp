// Sessions of a hostile peer with running agents and servers over plain C++ engines: greetings,
// requests, texts, frames that are damaged or cut, connections that end anywhere.
//
// A fuzzer of its own, because libFuzzer and clang 14's coroutines do not go together. Each session
// has a seed and is followed by a check: on a fresh connection whoever was spoken to answers
// correctly, nothing of the session is left in its queues and in its engines, and no exception
// has left a coroutine. What it says is decoded, and a hang is a failure too.
//
//   session_fuzz [--messages N] [--seed S]     sessions of the seeds S, S + 1 … until N were sent
//
// A failure names its seed: `--seed S` begins with that session. Threads take turns as they like,
// so a race may need several tries, and `S` may need those before it.
#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <optional>
#include <poll.h>
#include <random>
#include <set>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <boost/endian/conversion.hpp>

#include "base/crc32c.hpp"
#include "infer/agent.hpp"
#include "infer/aggregator.hpp"
#include "infer/machine.hpp"
#include "infer/server.hpp"
#include "net/mesh.hpp"
#include "optimizer/plan/program.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/optimizer/examples.hpp"

// The first report of a sanitizer ends the run, and names the seed.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() {
  return "halt_on_error=1:abort_on_error=1:print_stacktrace=1";
}
extern "C" const char* __tsan_default_options() { return "halt_on_error=1:abort_on_error=1"; }

namespace {

using namespace cleave;
using namespace cleave::infer;
using namespace std::chrono_literals;
using net::Message;
using Bytes = std::vector<std::byte>;

/// Of a message that has nothing else.
constexpr std::size_t longest_text = (1u << 20) - 4;
/// A machine that is busy with other things is slow, not broken.
constexpr auto patience = 30s;
constexpr auto hang = 120s;
constexpr auto longest_drain = 12s;

// Which session runs.

/// What was said to us, by kind.
std::array<std::atomic<std::uint64_t>, 64> num_heard{};
std::atomic<std::uint64_t> current_seed{0}, first_seed{0}, num_messages{0};

/// Only what a signal handler may call.
void name_seed() {
  char text[200];
  const int size = std::snprintf(
      text, sizeof text,
      "session_fuzz: failed: --seed %llu (began with --seed %llu --messages %llu)\n",
      static_cast<unsigned long long>(current_seed), static_cast<unsigned long long>(first_seed),
      static_cast<unsigned long long>(num_messages));
  if (size > 0) (void)!::write(STDERR_FILENO, text, static_cast<std::size_t>(size));
}

void on_abort(int) { name_seed(); }

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "session_fuzz: %s\n", what.c_str());
  std::abort();
}

void require(bool holds, const std::string& what) {
  if (!holds) fail(what);
}

/// Ends the process where no session ends for too long.
class Watchdog {
 public:
  Watchdog() {
    thread_ = std::thread([this] {
      std::unique_lock lock(mutex_);
      auto seen = current_seed.load();
      auto since = Clock::now();
      while (!changed_.wait_for(lock, 1s, [this] { return ended_; })) {
        if (current_seed != seen) {
          seen = current_seed;
          since = Clock::now();
        } else if (Clock::now() - since > hang) {
          fail("the session hangs");
        }
      }
    });
  }
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t any() { return engine_(); }
  /// 0..count−1.
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(engine_() % count); }
  bool chance(unsigned percent) { return below(100) < percent; }
  template <class T>
  T pick(std::initializer_list<T> items) {
    return *(items.begin() + below(items.size()));
  }

 private:
  std::mt19937_64 engine_;
};

/// No exception leaves a coroutine or a handler: whoever catches the last says so.
void check_line(base::LogLevel, const std::string& line) {
  const bool thrown = line.find("] connection: ") != std::string::npos ||
                      line.rfind("[agent] ", 0) == 0 || line.rfind("[aggregator] ", 0) == 0 ||
                      line.find("the callback threw") != std::string::npos;
  require(!thrown, "an exception was thrown: " + line.substr(0, 500));
}

// Frames.

template <class T>
void store(std::byte* at, T value) {
  boost::endian::endian_store<T, sizeof(T), boost::endian::order::little>(
      reinterpret_cast<unsigned char*>(at), value);
}

Bytes bytes_of(const Message& message) {
  auto frame = net::encode(message);
  frame.head.insert(frame.head.end(), frame.payload.data(),
                    frame.payload.data() + frame.payload.size());
  return std::move(frame.head);
}

/// Both checksums are those of what the bytes are.
void set_checksums(Bytes* frame) {
  if (frame->size() < net::header_bytes) return;
  store(frame->data() + 48,
        base::crc32c(frame->data() + net::header_bytes, frame->size() - net::header_bytes));
  store(frame->data() + 52, base::crc32c(frame->data(), 52));
}

/// One end of a connection, with blocking calls.
class Wire {
 public:
  explicit Wire(int descriptor) : descriptor_(descriptor) {
    const int on = 1;
    ::setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const timeval longest{30, 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest);
  }
  ~Wire() { close(); }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  /// Null where nobody listens.
  static std::unique_ptr<Wire> dial(const std::string& address) {
    const auto parsed = net::Address::parse(address);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(std::stoi(parsed.port)));
    ::inet_pton(AF_INET, parsed.host.c_str(), &to.sin_addr);
    const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(descriptor >= 0, "no socket is left");
    auto wire = std::make_unique<Wire>(descriptor);
    if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return {};
    return wire;
  }
  bool write(const Bytes& bytes) {
    std::size_t done = 0;
    while (is_open() && done < bytes.size()) {
      const auto count =
          ::send(descriptor_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) fail("nobody reads what is sent");
      if (count < 0) return false;
      done += static_cast<std::size_t>(count);
    }
    return is_open();
  }
  bool send(const Message& message) { return write(bytes_of(message)); }
  /// The next message that is no ping; nothing where the peer closed or `until` has passed.
  std::optional<Message> receive(Clock::time_point until) {
    while (true) {
      while (auto message = take())
        if (!std::holds_alternative<net::Ping>(*message)) return message;
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
      if (!is_open() || left <= 0 || !read(static_cast<int>(left))) return {};
    }
  }
  /// Decodes what has come, or comes in time, and forgets it.
  void skim(std::chrono::milliseconds wait) {
    while (is_open() && read(static_cast<int>(std::exchange(wait, 0ms).count()))) {
    }
    while (take()) {
    }
  }
  void shut() { ::shutdown(descriptor_, SHUT_WR); }
  /// The peer sees a reset.
  void cut() {
    const linger at_once{1, 0};
    if (is_open()) ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close();
  }
  void close() {
    if (is_open()) ::close(descriptor_);
    descriptor_ = -1;
  }
  bool is_open() const { return descriptor_ >= 0; }

  net::Role greeted_as = net::Role::aggregator;

 private:
  /// False: nothing came.
  bool read(int wait_ms) {
    pollfd waiting{descriptor_, POLLIN, 0};
    if (::poll(&waiting, 1, wait_ms) <= 0) return false;
    std::array<std::byte, 65536> some;
    const auto count = ::recv(descriptor_, some.data(), some.size(), 0);
    if (count <= 0) return close(), false;
    received_.insert(received_.end(), some.begin(), some.begin() + count);
    return true;
  }
  /// Whatever it was sent, it sends frames that can be read.
  std::optional<Message> take() {
    const std::size_t size = received_.size() - taken_;
    const std::byte* at = received_.data() + taken_;
    if (size < net::header_bytes) return {};
    const auto header = net::decode_header(at, {});
    require(bool(header), "a frame that was sent cannot be read");
    const auto rest = header->body_length + header->payload_length;
    if (size < net::header_bytes + rest) return {};
    at += net::header_bytes;
    const auto payload = net::Buffer::copy_of(at + header->body_length, header->payload_length);
    require(net::checksum_of(at, header->body_length, payload) == header->checksum,
            "a checksum that was sent is wrong");
    auto message = net::decode(*header, at, payload);
    require(bool(message), "a message that was sent cannot be read: kind " +
                               std::to_string(header->kind) + ", " +
                               (message ? "" : message.error().message()));
    ++num_heard.at(header->kind);
    taken_ += net::header_bytes + rest;
    if (taken_ == received_.size()) {
      received_.clear();
      taken_ = 0;
    }
    return std::move(*message);
  }

  int descriptor_;
  Bytes received_;
  std::size_t taken_ = 0;
};

/// What a plan's programs are called; compiled once for each shape.
class Digests {
 public:
  explicit Digests(plan::Plan plan) : plan_(std::move(plan)) {}
  std::string of(const net::Value& input) {
    const auto at = [&](std::size_t i) { return i < input.dims.size() ? input.dims[i] : 0; };
    const std::pair key(at(0), plan_.teacher.is_text() ? at(1) : 0);
    const std::lock_guard lock(mutex_);
    const auto known = known_.find(key);
    if (known != known_.end()) return known->second;
    try {
      return known_[key] = plan::compile(plan_, {key.first, key.second, 0}).at(0).digest;
    } catch (const std::invalid_argument&) {
      return std::string(64, 'd');
    }
  }

 private:
  plan::Plan plan_;
  std::mutex mutex_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::string> known_;
};

/// A plan, and what a peer must know of it.
struct Scene {
  explicit Scene(const std::string& name, const plan::Plan& made)
      : folder("session_" + name), plan(made), bundle(write_bundle(folder.path(), made)) {}
  bool is_text() const { return plan.teacher.is_text(); }
  /// Agents exchange values: whoever speaks to the second may be the first.
  bool is_shared() const { return plan::is_shared(plan); }
  /// A well-formed input.
  net::Value input(std::uint8_t seed) const {
    if (!is_text()) return pixels(seed);
    auto value = token_request(0ms).input;
    const std::int32_t id = seed % 20;
    value.data = net::Buffer::copy_of(&id, sizeof id);
    return value;
  }
  ScratchFolder folder;
  plan::Plan plan;
  plan::Bundle bundle;
  mutable Digests digests{plan};
  const plan::Program second = plan::compile(plan, {1, 1, 0}).at(1);  // of one image or token
};

/// Makes messages and frames, most of them nearly right.
class Forge {
 public:
  Forge(Random& random, const Scene& scene, net::Role role, std::string device)
      : random_(random), scene_(scene), role_(role), device_(std::move(device)) {}

  net::Hello hello() {
    net::Hello hello;
    hello.role = role_;
    hello.epoch = 1;
    hello.name = "fuzz";
    if (role_ == net::Role::client) return hello;
    hello.bundle = scene_.bundle.identity();
    hello.device = device_;
    if (scene_.is_shared() && random_.chance(40)) {
      hello.role = net::Role::agent;
      hello.name = scene_.plan.parts.front().device;
      return hello;
    }
    hello.origin = random_.chance(95) ? 1 + random_.below(scene_.is_shared() ? 3 : 1000) : 0;
    return hello;
  }
  net::Hello wrong_hello() {
    auto wrong = hello();
    switch (random_.below(5)) {
      case 0:
        wrong.bundle = text();
        break;
      case 1:
        wrong.device = text();
        break;
      case 2:
        wrong.role = random_.pick({net::Role::agent, net::Role::client, net::Role::aggregator});
        break;
      case 3:
        wrong.name = text();
        break;
      default:
        wrong.epoch = number32();
    }
    return wrong;
  }
  /// How many of a hundred frames do not belong here or are damaged: one of them ends a connection.
  void set_wildness(unsigned percent) { wildness_ = percent; }
  Message message(net::Role greeted_as) {
    if (random_.chance(wildness_)) return any();
    if (greeted_as == net::Role::agent)
      return random_.chance(95) ? Message(value()) : Message(ping());
    const bool client = role_ == net::Role::client;
    const auto which = random_.below(100);
    if (which < 65) return client ? Message(infer()) : Message(admit());
    if (which < 75) return envelope(net::Cancel{});
    if (which < 84) return envelope(net::EndSequence{});
    if (which < 85) return routes();
    if (which < 87 && !client) return plan();
    if (which < 90) return ping();
    if (which < 95) return pong();
    if (client) return envelope(net::StatusRequest{});
    auto abort = envelope(net::Abort{});
    abort.text = text();
    return abort;
  }
  net::Done done() {
    auto done = envelope(net::Done{});
    done.compute_s = real();
    done.account.told = random_.chance(80);
    done.account.wait_s = real();
    done.account.flops = real();
    for (auto i = random_.below(4); i > 0; --i)
      done.account.links.push_back({text().substr(0, 100'000), random_.any(), random_.any()});
    for (auto i = random_.below(4); i > 0; --i)
      done.account.happenings.push_back({net::Happening::What::send, text().substr(0, 100'000),
                                         text().substr(0, 100'000), real(), real(), random_.any()});
    return done;
  }
  net::Observe observe() {
    return random_.chance(80) ? net::Observe::nothing
                              : random_.pick({net::Observe::account, net::Observe::trace});
  }
  /// Of any kind.
  Message any() {
    switch (random_.below(20)) {
      case 0:
        return random_.chance(50) ? hello() : wrong_hello();
      case 1: {
        auto welcome = envelope(net::Welcome{});
        welcome.bundle = scene_.bundle.identity();
        welcome.device = device_;
        welcome.max_requests = number32();
        welcome.memory_bytes = real();
        return welcome;
      }
      case 2: {
        auto refused = envelope(net::Refused{});
        refused.text = text();
        return refused;
      }
      case 3:
        return envelope(net::Busy{});
      case 4: {
        auto value = envelope(net::ValueMessage{});
        value.queued_s = real();
        value.compute_s = real();
        value.wait_s = real();
        value.tensor = tensor();
        return value;
      }
      case 5:
        return done();
      case 6: {
        auto failed = envelope(net::Failed{});
        failed.text = text();
        return failed;
      }
      case 7:
        return envelope(net::Cancel{});
      case 8: {
        auto abort = envelope(net::Abort{});
        abort.text = text();
        return abort;
      }
      case 9:
        return ping();
      case 10:
        return pong();
      case 11:
        return envelope(net::StatusRequest{});
      case 12: {
        auto reply = envelope(net::StatusReply{});
        reply.agents.resize(random_.below(4));
        for (auto& agent : reply.agents) agent.last_error = text();
        return reply;
      }
      case 13: {
        auto answer = envelope(net::InferAnswer{});
        answer.status = static_cast<std::uint8_t>(random_.any());
        answer.text = text();
        if (random_.chance(50)) answer.tensor = tensor();
        return answer;
      }
      case 14:
        return envelope(net::Drain{});
      case 15:
        return envelope(net::Bye{});
      case 16:
        return random_.chance(50) ? Message(admit()) : Message(infer());
      case 17:
        return plan();
      case 18: {
        auto reply = envelope(net::PlanReply{});
        reply.digest = random_.chance(50) ? told(scene_.plan).digest : text();
        reply.refusal = text();
        return reply;
      }
      default:
        return envelope(net::EndSequence{});
    }
  }
  /// A frame of `message`, as it is or damaged.
  Bytes frame(const Message& message) {
    Bytes frame;
    try {
      frame = bytes_of(message);
    } catch (const std::invalid_argument&) {
      frame = bytes_of(net::Cancel{});  // what it would say is longer than may be said
    }
    if (random_.chance(wildness_)) random_.chance(30) ? distort_dims(&frame) : damage(&frame);
    return frame;
  }
  /// Bytes change, come or go; half of the frames say that this is as it should be.
  void damage(Bytes* frame) {
    const auto fixed = random_.chance(50);
    const bool in_front = random_.chance(70);
    const auto place = [&] {
      const auto size = in_front ? std::min<std::size_t>(frame->size(), 200) : frame->size();
      return random_.below(size);
    };
    switch (random_.below(5)) {
      case 0:
        for (auto flips = 1 + random_.below(8); flips > 0; --flips)
          (*frame)[place()] ^= static_cast<std::byte>(1u << random_.below(8));
        break;
      case 1: {
        Bytes field(8);
        store(field.data(), number());
        const auto at = place();
        const auto size = std::min<std::size_t>(1 + random_.below(8), frame->size() - at);
        std::copy_n(field.begin(), size, frame->begin() + static_cast<std::ptrdiff_t>(at));
        break;
      }
      case 2:
        frame->resize(place());
        break;
      case 3:
        frame->insert(frame->begin() + static_cast<std::ptrdiff_t>(place()), 1 + random_.below(20),
                      static_cast<std::byte>(random_.any()));
        break;
      default: {
        const auto at = static_cast<std::ptrdiff_t>(place());
        const auto size = std::min<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(random_.below(16)),
                                                   std::ssize(*frame) - at);
        frame->erase(frame->begin() + at, frame->begin() + at + size);
      }
    }
    if (fixed) set_checksums(frame);
  }
  Bytes garbage() {
    Bytes bytes(1 + random_.below(300));
    for (auto& byte : bytes) byte = static_cast<std::byte>(random_.any());
    return bytes;
  }

  template <class M>
  M envelope(M message) {
    message.request = random_.chance(95) ? 1 + random_.below(6) : number();
    message.epoch = random_.chance(95) ? 1 : number32();
    message.sequence = random_.chance(80) ? random_.below(5) : number();
    message.tag = random_.chance(50) ? static_cast<std::uint32_t>(random_.below(4)) : number32();
    message.last = random_.chance(50);
    return message;
  }
  std::uint64_t number() {
    return random_.pick<std::uint64_t>({0, 1, 2, 7, 255, 65536, std::uint64_t{1} << 31,
                                        (std::uint64_t{1} << 32) - 1, std::uint64_t{1} << 62,
                                        std::uint64_t{1} << 63, ~std::uint64_t{0}, random_.any()});
  }
  std::uint32_t number32() { return static_cast<std::uint32_t>(number()); }
  std::int64_t integer() { return static_cast<std::int64_t>(number()); }
  double real() {
    return random_.pick<double>({0, 1, -1, 1e-300, 1e308, -1e308,
                                 std::numeric_limits<double>::quiet_NaN(),
                                 std::numeric_limits<double>::infinity()});
  }
  std::string text() {
    switch (random_.below(7)) {
      case 0:
        return {};
      case 1:
        return "\x1b[2J\r\n\t\b" + std::string(1, '\0') + "\x7f";
      case 2:
        return "\xff\xfe\xc3(\xe2\x82";
      case 3:
        return std::string(random_.chance(10) ? longest_text : 1500 + random_.below(6000), 'x');
      case 4: {  // cut where a letter is not over
        std::string letters;
        for (auto count = random_.below(3000); count > 0; --count) letters += "ä€";
        return letters;
      }
      case 5: {
        std::string letters(random_.below(100), ' ');
        for (auto& letter : letters) letter = static_cast<char>(random_.any());
        return letters;
      }
      default:
        return "some words";
    }
  }

 private:
  net::Value tensor() {
    net::Value value;
    if (random_.chance(scene_.is_text() ? 70 : 60)) {
      value = scene_.input(static_cast<std::uint8_t>(random_.any()));
      if (scene_.is_text()) {
        value.dims = random_.chance(70) ? std::vector<std::int64_t>{1, 1}
                                        : std::vector<std::int64_t>{
                                              random_.pick<std::int64_t>({1, 2, 64, 65, 200}),
                                              random_.pick<std::int64_t>({1, 2, 5, 100})};
      } else if (random_.chance(30)) {
        value.dims[0] = random_.pick<std::int64_t>({2, 3, 64, 65, 200});
      }
    } else {
      const auto large = random_.chance(4) ? random_.pick<std::int64_t>({4096, 65536, 100000}) : 3;
      const std::int64_t most = std::numeric_limits<std::int64_t>::max();
      value.dims = random_.pick<std::vector<std::int64_t>>({{},
                                                            {1},
                                                            {0},
                                                            {7},
                                                            {1, 0},
                                                            {0, 1},
                                                            {1, 1, 1},
                                                            {0, 1, 8, 8},
                                                            {1, 1, 8, 7},
                                                            {1, 3, 8, 8},
                                                            {1, 1, 8, 8, 1},
                                                            {1, 1, 1, 1, 1, 1, 1, 1},
                                                            {most, 0},
                                                            {0, most},
                                                            {most / 8, 0, 8, 8},
                                                            {1, 4096},
                                                            {1, 4097},
                                                            {2, 4096},
                                                            {large},
                                                            {large, 1},
                                                            {large, 1, 8, 8}});
      value.element = random_.chance(70)
                          ? (scene_.is_text() ? base::Element::i32 : base::Element::u8)
                          : static_cast<base::Element>(1 + random_.below(9));
    }
    const Bytes bytes(static_cast<std::size_t>(std::max<std::int64_t>(0, bytes_in(value))),
                      static_cast<std::byte>(random_.any()));
    value.data = net::Buffer::copy_of(bytes.data(), bytes.size());
    return value;
  }
  /// Of dims whose product may be beyond 63 bits, where one of them is 0.
  static std::int64_t bytes_in(const net::Value& value) {
    const bool empty = std::find(value.dims.begin(), value.dims.end(), 0) != value.dims.end();
    return empty ? 0 : value.bytes();
  }
  template <class M>
  void add_sequence(M* message) {
    if (random_.chance(scene_.is_text() ? 25 : 85)) message->sequence = 0;
    const auto small = static_cast<std::int64_t>(random_.below(4));
    message->past = random_.chance(60) ? (random_.chance(50) ? 0 : small) : integer();
    message->capacity =
        random_.chance(70) ? random_.pick<std::int64_t>({1, 8, 200, 4096}) : integer();
    if (random_.chance(5)) message->past = -1 - static_cast<std::int64_t>(random_.below(1000));
  }
  std::uint32_t deadline_ms() {
    return random_.pick<std::uint32_t>({0, 1, 20, 1000, 5000, 5000, 5000, ~std::uint32_t{0}});
  }
  net::Ping ping() {
    auto ping = envelope(net::Ping{});
    ping.stamp = number();
    return ping;
  }
  /// Of a request that may be there, as the device of the first rank sends it to the second.
  net::ValueMessage value() {
    auto value = envelope(net::ValueMessage{});
    value.origin = random_.chance(90) ? 1 + random_.below(3) : number();
    std::vector<const plan::ValueInfo*> awaited;
    std::vector<std::uint32_t> tags;
    for (const auto& instruction : scene_.second.instructions)
      if (const auto* receive = std::get_if<plan::Receive>(&instruction)) {
        awaited.push_back(&scene_.second.values.at(static_cast<std::size_t>(receive->result)));
        tags.push_back(receive->tag);
      }
    const auto which = random_.below(awaited.size());
    if (random_.chance(90)) value.tag = tags[which];
    value.tensor = tensor();
    if (random_.chance(80)) {
      value.tensor.element = base::Element::f32;
      value.tensor.dims = awaited[which]->dims;
      const std::vector<float> numbers(static_cast<std::size_t>(value.tensor.count()), 1);
      value.tensor.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
    }
    return value;
  }
  net::Pong pong() {
    auto pong = envelope(net::Pong{});
    pong.stamp = number();
    // What is not finite ends the connection.
    pong.memory_bytes = random_.chance(wildness_) ? real() : 1e9;
    pong.queued = integer();
    return pong;
  }
  /// Nobody of this plan dials another agent; what is said of them is read all the same.
  net::Routes routes() {
    auto routes = envelope(net::Routes{});
    for (std::uint64_t i = random_.below(4); i > 0; --i)
      routes.routes.push_back({random_.chance(50) ? device_ : text(), text()});
    return routes;
  }
  /// The scene's plan, or one that is not the scene's, or none.
  net::PlanMessage plan() {
    auto message = envelope(told(scene_.plan));
    if (random_.chance(20)) message.digest = text();
    if (random_.chance(20)) message.json = text();
    if (random_.chance(20)) {
      auto other = scene_.plan;
      other.seed = random_.below(1000);
      other.name = random_.chance(50) ? "other" : other.name;
      other.shape.batch = 1 + static_cast<std::int64_t>(random_.below(9));
      message = told(other);
    }
    return message;
  }
  net::Admit admit() {
    auto admit = envelope(net::Admit{});
    admit.plan = random_.chance(98) ? plan_digest_ : text();
    const net::Value input = tensor();
    if (input.dims.size() > 1) {
      admit.batch = random_.chance(95) ? input.dims[0] : integer();
      admit.tokens = random_.chance(95) ? input.dims[1] : integer();
    }
    admit.digest = random_.chance(95) ? scene_.digests.of(input) : text();
    admit.deadline_ms = deadline_ms();
    admit.observe = observe();
    add_sequence(&admit);
    return admit;
  }
  net::InferRequest infer() {
    auto request = envelope(net::InferRequest{});
    if (random_.chance(5)) request.plan = random_.chance(50) ? scene_.plan.name : text();
    request.tensor = tensor();
    request.deadline_ms = deadline_ms();
    request.require_all = random_.chance(10);
    request.observe = observe();
    add_sequence(&request);
    return request;
  }
  /// Says other dims of the tensor than those of its bytes.
  void distort_dims(Bytes* frame) {
    const std::size_t dims = net::header_bytes + 8;
    const bool has_tensor = frame->size() > dims && ((*frame)[10] & std::byte{1}) != std::byte{0};
    if (!has_tensor) return;
    const auto count = static_cast<std::size_t>((*frame)[net::header_bytes + 2]);
    if (random_.chance(20) || count == 0)
      (*frame)[net::header_bytes + random_.below(3)] = static_cast<std::byte>(random_.any());
    else
      store(frame->data() + dims + 8 * random_.below(count), number());
    set_checksums(frame);
  }

  Random& random_;
  const Scene& scene_;
  const std::string plan_digest_ = told(scene_.plan).digest;
  net::Role role_;
  std::string device_;
  unsigned wildness_ = 20;
};

// Those who are spoken to.

/// The sequences that engines keep, by the engine that keeps them.
class Books {
 public:
  void begin(const void* engine, std::uint64_t sequence) {
    const std::lock_guard lock(mutex_);
    kept_.emplace(engine, sequence);
  }
  bool has(const void* engine, std::uint64_t sequence) const {
    const std::lock_guard lock(mutex_);
    return kept_.count({engine, sequence}) != 0;
  }
  void forget(const void* engine, std::uint64_t sequence) {
    const std::lock_guard lock(mutex_);
    kept_.erase({engine, sequence});
  }
  void close(const void* engine) {
    const std::lock_guard lock(mutex_);
    std::erase_if(kept_, [engine](const auto& kept) { return kept.first == engine; });
  }
  std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return kept_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::set<std::pair<const void*, std::uint64_t>> kept_;
};

/// Keeps sequences as the one with libtorch does.
class KeepingEngine : public FakeEngine {
 public:
  KeepingEngine(std::shared_ptr<Books> books, std::chrono::microseconds time)
      : FakeEngine(time), books_(std::move(books)) {}
  ~KeepingEngine() override { books_->close(this); }
  KeepingEngine(const KeepingEngine&) = delete;
  KeepingEngine& operator=(const KeepingEngine&) = delete;
  net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    if (!std::holds_alternative<plan::Lengths>(instruction))
      return FakeEngine::compute(instruction, program, operands, sequence);
    if (sequence.id != 0 && sequence.past == 0) {
      const auto tokens = operands.at(0)->dims.at(1);
      require(sequence.capacity >= tokens && sequence.capacity <= 4096,
              "an engine is asked to keep " + std::to_string(sequence.capacity) + " tokens");
      books_->begin(this, sequence.id);
    } else if (sequence.id != 0 && !books_->has(this, sequence.id)) {
      throw std::runtime_error("[engine] saw other tokens so far");
    }
    return FakeEngine::compute(instruction, program, operands, sequence);
  }
  void forget(std::uint64_t sequence) override { books_->forget(this, sequence); }

 private:
  std::shared_ptr<Books> books_;
};

std::unique_ptr<Engine> keeping_engine(const std::shared_ptr<Books>& books) {
  return std::make_unique<KeepingEngine>(books, 100us);
}

/// Of well-formed requests.
constexpr std::uint64_t calm_origin = 4242;

/// Whom a session is with.
class Target {
 public:
  Target(const Scene& where, net::Role as, std::string whom)
      : scene(where), role(as), device(std::move(whom)) {}
  virtual ~Target() = default;
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;
  virtual const std::string& address() const = 0;
  /// A session of this seed begins.
  virtual void begin(std::uint64_t /*seed*/) {}
  /// Empty where a well-formed request is answered on a fresh connection and nothing is left of
  /// others, else what there was. A wrong answer is a failure.
  virtual std::string look(Random& random) = 0;
  virtual void drain() = 0;
  virtual void join() = 0;
  /// After join(); a drained one then takes at most `patience`.
  virtual void restart(std::chrono::milliseconds patience) = 0;
  /// Its messages.
  virtual std::vector<Message> request(std::uint64_t id) const = 0;

  /// After a session.
  void check(Random& random) {
    const auto until = Clock::now() + patience;
    for (auto seen = look(random); !seen.empty(); seen = look(random)) {
      require(Clock::now() < until, name() + ": " + seen);
      std::this_thread::sleep_for(2ms);
    }
  }
  std::string name() const {
    return std::string(scene.is_shared() ? "shared "
                       : scene.is_text() ? "text "
                                         : "image ") +
           (role == net::Role::client ? "server" : "agent");
  }
  /// A connection whose handshake is done; null where it is refused.
  std::unique_ptr<Wire> greet() const {
    auto wire = Wire::dial(address());
    if (!wire) return {};
    Random unused(0);
    auto hello = Forge(unused, scene, role, device).hello();
    if (role == net::Role::aggregator) {
      hello.role = role;
      hello.origin = calm_origin;
    }
    wire->send(hello);
    const auto answer = wire->receive(Clock::now() + patience);
    if (!answer || !std::holds_alternative<net::Welcome>(*answer)) return {};
    if (role != net::Role::aggregator) return wire;
    wire->send(told(scene.plan));
    const auto reply = wire->receive(Clock::now() + patience);
    if (!reply || !std::holds_alternative<net::PlanReply>(*reply)) return {};
    require(std::get<net::PlanReply>(*reply).refusal.empty(), "the scene's plan is refused");
    return wire;
  }

  const Scene& scene;
  const net::Role role;
  const std::string device;

 protected:
  /// The next message of this kind, or nothing and what came instead.
  template <class M>
  static std::optional<M> receive(Wire* wire, std::string* instead) {
    const auto message = wire->receive(Clock::now() + patience);
    if (message && std::holds_alternative<M>(*message)) return std::get<M>(*message);
    *instead = "no " + std::string(net::name_of(M::kind)) + ", but ";
    *instead += message ? net::name_of(net::kind_of(*message)) : "the end or nothing";
    if (message && std::holds_alternative<net::Failed>(*message))
      *instead += ": " + std::get<net::Failed>(*message).text;
    return {};
  }
  net::Value random_input(Random& random) const {
    return scene.input(static_cast<std::uint8_t>(random.any()));
  }
  static void expect_number(const net::Value& value, float expected) {
    require(value.present && value.data.size() >= sizeof(float) && first_number(value) == expected,
            "a well-formed request is answered wrongly");
  }
  /// A well-formed request of the scene's plan, to an agent.
  Asked calm_admit(std::uint64_t id, const net::Value& input) const {
    Asked admit;
    admit.request = id;
    admit.epoch = 1;
    admit.deadline_ms = 20000;
    admit.tensor = input;
    admit.batch = input.dims.at(0);
    admit.tokens = input.dims.at(1);
    admit.plan = told(scene.plan).digest;
    admit.digest = scene.digests.of(input);
    return admit;
  }
  static std::vector<Message> messages_of(const Asked& asked) { return {asked, asked.input()}; }
  /// What an agent still has, or what came instead of an answer; empty where it is idle.
  static std::string admitted_of_nobody(Wire* wire) {
    std::string instead;
    wire->send(net::Ping{});
    const auto pong = receive<net::Pong>(wire, &instead);
    if (!pong || pong->queued == 0) return instead;
    return std::to_string(pong->queued) + " requests of nobody are admitted";
  }
  static std::string kept(const Books& books) {
    const auto count = books.size();
    return count == 0 ? "" : "engines keep " + std::to_string(count) + " sequences of nobody";
  }
};

class AgentTarget : public Target {
 public:
  explicit AgentTarget(const Scene& where) : Target(where, net::Role::aggregator, "cam") {
    restart(1s);
  }
  const std::string& address() const override { return agent_->address(); }
  void drain() override { agent_->drain(); }
  void join() override { agent_->join(); }
  void restart(std::chrono::milliseconds drain_patience) override {
    agent_.reset();
    auto options = RunningAgent::options_for(device);
    options.sequence_rest = 20ms;
    // Either time or the end of the session frees what is kept.
    if (std::exchange(idles_, !idles_)) options.sequence_idle = 200ms;
    options.drain_patience = drain_patience;
    options.log = check_line;
    // Two whole texts at once.
    if (scene.is_text()) options.memory_bytes = resident_memory_bytes() + 2e9;
    agent_ =
        std::make_unique<RunningAgent>(scene.bundle, scene.plan, options, keeping_engine(books_));
  }
  std::vector<Message> request(std::uint64_t id) const override {
    return messages_of(admit(id, scene.input(1), 0, 0));
  }
  std::string look(Random& random) override {
    const auto wire = greet();
    if (!wire) return "no connection";
    std::string instead = admitted_of_nobody(wire.get());
    if (!instead.empty()) return instead;
    if (auto some = kept(*books_); !some.empty()) return some;
    const auto sequence = scene.is_text() ? 1 + random.below(3) : 0;
    for (std::int64_t past = 0; past < (scene.is_text() ? 3 : 1); ++past) {
      const auto input = random_input(random);
      for (const Message& message : messages_of(admit(7, input, sequence, past)))
        wire->send(message);
      const auto value = receive<net::ValueMessage>(wire.get(), &instead);
      if (!value) return instead;
      require(value->request == 7 && value->epoch == 1 && value->last, "a value is not the last");
      expect_number(value->tensor, feature_of(input, 2));
    }
    return {};
  }

 private:
  Asked admit(std::uint64_t id, const net::Value& input, std::uint64_t sequence,
              std::int64_t past) const {
    Asked admit = calm_admit(id, input);
    admit.sequence = sequence;
    admit.past = past;
    admit.capacity = 4096;
    return admit;
  }
  std::shared_ptr<Books> books_ = std::make_shared<Books>();
  std::unique_ptr<RunningAgent> agent_;
  bool idles_ = false;
};

/// The second of two agents that exchange values.
class SharedAgentTarget : public Target {
 public:
  explicit SharedAgentTarget(const Scene& where)
      : Target(where, net::Role::aggregator, where.plan.parts.at(1).device) {
    restart(1s);
  }
  const std::string& address() const override { return agent_->address(); }
  void drain() override { agent_->drain(); }
  void join() override { agent_->join(); }
  void restart(std::chrono::milliseconds drain_patience) override {
    agent_.reset();
    auto options = RunningAgent::options_for(device);
    options.drain_patience = drain_patience;
    options.log = check_line;
    options.waiting_bytes = 100'000;
    agent_ = std::make_unique<RunningAgent>(scene.bundle, scene.plan, options);
  }
  std::vector<Message> request(std::uint64_t id) const override {
    return messages_of(calm_admit(id, scene.input(1)));
  }
  std::string look(Random&) override {
    const auto wire = greet();
    if (!wire) return "no connection";
    std::string instead = admitted_of_nobody(wire.get());
    if (!instead.empty()) return instead;
    const auto link = Wire::dial(address());
    if (!link) return "no link";
    net::Hello hello;
    hello.role = net::Role::agent;
    hello.bundle = scene.bundle.identity();
    hello.device = device;
    hello.name = scene.plan.parts.front().device;
    link->send(hello);
    if (!receive<net::Welcome>(link.get(), &instead)) return instead;
    for (const Message& message : request(7)) wire->send(message);
    for (const auto& instruction : scene.second.instructions) {
      const auto* receive = std::get_if<plan::Receive>(&instruction);
      if (!receive || receive->peer != 0) continue;
      net::ValueMessage value;
      value.origin = calm_origin;
      value.request = 7;
      value.tag = receive->tag;
      value.tensor.dims = scene.second.values.at(static_cast<std::size_t>(receive->result)).dims;
      const std::vector<float> numbers(static_cast<std::size_t>(value.tensor.count()), 1);
      value.tensor.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
      link->send(value);
    }
    const auto done = receive<net::Done>(wire.get(), &instead);
    if (!done) return instead;
    require(done->request == 7, "another request is done");
    return {};
  }

 private:
  std::unique_ptr<RunningAgent> agent_;
};

/// An agent that says what it likes, unless it is told to be calm.
class HostileAgent {
 public:
  HostileAgent(const Scene& scene, std::string device) : scene_(scene), device_(std::move(device)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    require(::bind(listener_, reinterpret_cast<const sockaddr*>(&at), size) == 0 &&
                ::listen(listener_, 4) == 0 &&
                ::getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &size) == 0,
            "cannot listen");
    address_ = "127.0.0.1:" + std::to_string(ntohs(at.sin_port));
    thread_ = std::thread([this] { run(); });
  }
  ~HostileAgent() {
    stopping_ = true;
    thread_.join();
    ::close(listener_);
  }
  HostileAgent(const HostileAgent&) = delete;
  HostileAgent& operator=(const HostileAgent&) = delete;
  const std::string& address() const { return address_; }
  /// 0: calm.
  void behave(std::uint64_t seed) { seed_ = seed; }

 private:
  void run() {
    while (!stopping_) {
      pollfd waiting{listener_, POLLIN, 0};
      if (::poll(&waiting, 1, 20) <= 0) continue;
      const int descriptor = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (descriptor < 0) continue;
      Wire wire(descriptor);
      serve(wire);
    }
  }
  void serve(Wire& wire) {
    while (!stopping_ && wire.is_open()) {
      const auto message = wire.receive(Clock::now() + 20ms);
      if (const auto seed = seed_.load(); seed != began_) {
        began_ = seed;
        if (seed != 0) random_ = Random(seed);
      }
      if (!message) continue;
      if (std::holds_alternative<net::Hello>(*message))
        greet(wire);
      else if (const auto* plan = std::get_if<net::PlanMessage>(&*message))
        serve_plan(wire, *plan);
      else if (const auto* admit = std::get_if<net::Admit>(&*message))
        admitted_[admit->request] = *admit;
      else if (const auto* input = std::get_if<net::ValueMessage>(&*message);
               input && admitted_.count(input->request) != 0)
        answer(wire, admitted_.extract(input->request).mapped(), input->tensor);
      else if (began_ != 0 && random_.chance(5))
        wire.write(forge_.frame(forge_.any()));
    }
  }
  void greet(Wire& wire) {
    net::Welcome welcome;
    welcome.epoch = 1;
    welcome.bundle = scene_.bundle.identity();
    welcome.device = device_;
    welcome.max_requests = 4;
    if (random_.chance(20)) {  // also when it is calm: sessions are shorter than dialling again
      switch (random_.below(4)) {
        case 0:
          welcome.max_requests = forge_.number32();
          break;
        case 1:
          wire.write(forge_.garbage());
          return;
        case 2: {
          net::Refused refused;
          refused.text = random_.chance(30) ? std::string(longest_text, 'x') : forge_.text();
          wire.send(refused);
          return;
        }
        default:
          wire.write(forge_.frame(forge_.any()));
          return;
      }
    }
    wire.send(welcome);
  }
  void serve_plan(Wire& wire, const net::PlanMessage& plan) {
    net::PlanReply reply;
    reply.digest = plan.digest;
    if (began_ != 0 && random_.chance(10)) {
      if (random_.chance(50)) reply.refusal = "x" + forge_.text();
      if (random_.chance(50)) reply.digest = forge_.text();
      wire.write(forge_.frame(reply));
      return;
    }
    wire.send(reply);
  }
  void answer(Wire& wire, const net::Admit& admit, const net::Value& input) {
    net::ValueMessage value;
    value.request = admit.request;
    value.epoch = admit.epoch;
    value.tag = 2;
    value.last = true;
    value.tensor.dims = {admit.batch, 1, 8};
    const std::vector<float> numbers(static_cast<std::size_t>(value.tensor.count()),
                                     feature_of(input, 2));
    value.tensor.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
    if (began_ % 8 == 1) value.queued_s = value.compute_s = value.wait_s = 1e308;
    if (began_ == 0 || random_.chance(60)) {
      wire.send(value);
      return;
    }
    const auto about_it = [&](auto message) {
      message.request = admit.request;
      message.epoch = admit.epoch;
      message.last = random_.chance(70);
      return message;
    };
    switch (random_.below(14)) {
      case 0:  // says nothing
        return;
      case 1:
        value.tensor.dims.push_back(1);
        break;
      case 2:
        value.tensor.element = base::Element::i32;
        break;
      case 3: {
        const float none = std::numeric_limits<float>::quiet_NaN();
        value.tensor.dims = {1, 1, 1};
        value.tensor.data = net::Buffer::copy_of(&none, sizeof none);
        break;
      }
      case 4:
        value.tag = forge_.number32();
        break;
      case 5:
        value.epoch = forge_.number32();
        break;
      case 6:
        value.queued_s = value.compute_s = value.wait_s =
            random_.pick<double>({1e308, -1e308, -1, 1e-300});
        break;
      case 7:  // twice
        wire.send(value);
        break;
      case 8:
        value.last = false;
        break;
      case 9:
        wire.send(about_it(net::Busy{}));
        return;
      case 10:
        wire.send(about_it(forge_.done()));
        return;
      case 11: {
        auto failed = about_it(net::Failed{});
        failed.text = forge_.text();
        wire.write(forge_.frame(failed));
        return;
      }
      case 12: {
        auto other = about_it(net::ValueMessage{});
        other.request += std::uint64_t{1} << 40;
        other.tensor = value.tensor;
        wire.send(other);
        break;
      }
      default:
        // Nothing with a number that could be believed.
        wire.write(random_.chance(20) ? forge_.garbage() : forge_.frame(forge_.any()));
        if (random_.chance(30)) wire.cut();
        return;
    }
    wire.send(value);
  }

  const Scene& scene_;
  const std::string device_;
  int listener_ = -1;
  std::string address_;
  std::atomic<std::uint64_t> seed_{0};
  std::atomic<bool> stopping_{false};
  std::uint64_t began_ = 0;                       // the rest belongs to the thread
  std::map<std::uint64_t, net::Admit> admitted_;  // whose input has not come
  Random random_{0};
  Forge forge_{random_, scene_, net::Role::aggregator, device_};
  std::thread thread_;
};

/// A server over two agents that are well and one that is, or is not.
class ServerTarget : public Target {
 public:
  ServerTarget(const Scene& where, bool hostile) : Target(where, net::Role::client, "") {
    AggregatorOptions options;
    for (const auto& part : scene.plan.parts) {
      if (hostile && part.device == "cam") {
        hostile_ = std::make_unique<HostileAgent>(scene, "cam");
        options.hosts["cam"] = hostile_->address();
        continue;
      }
      auto settings = RunningAgent::options_for(part.device);
      settings.log = check_line;
      agents_.push_back(std::make_unique<RunningAgent>(scene.bundle, scene.plan, settings,
                                                       keeping_engine(books_)));
      options.hosts[part.device] = agents_.back()->address();
    }
    options.min_wait = 100ms;
    options.min_wait_in_text = 1000ms;
    options.log = check_line;
    aggregator_ = std::make_unique<Aggregator>(scene.bundle, std::vector{scene.plan},
                                               std::make_unique<FakeEngine>(), options);
    require(aggregator_->wait_for_agents(0, 20s) == 3, "the agents do not join");
    restart(1s);
  }
  const std::string& address() const override { return server_->address(); }
  void begin(std::uint64_t seed) override {
    if (!hostile_) return;
    // The last session has cost it its connection, perhaps.
    if (seed % 4 == 0) eventually([this] { return aggregator_->status()[2].connected; }, 200ms);
    hostile_->behave(seed + 1);
  }
  void drain() override { server_->drain(); }
  void join() override { server_->join(); }
  void restart(std::chrono::milliseconds drain_patience) override {
    server_.reset();
    ServerOptions options;
    options.drain_patience = drain_patience;
    options.text_patience = 300ms;
    options.log = check_line;
    server_ = std::make_unique<RunningServer>(*aggregator_, scene.bundle, options);
  }
  std::vector<Message> request(std::uint64_t id) const override {
    return {infer(id, scene.input(1), 0, 0)};
  }
  std::string look(Random& random) override {
    if (hostile_) hostile_->behave(0);
    const auto wire = greet();
    if (!wire) return "no connection";
    std::string instead;
    if (auto some = kept(*books_); !some.empty()) return some;
    wire->send(net::StatusRequest{});
    const auto status = receive<net::StatusReply>(wire.get(), &instead);
    if (!status) return instead;
    require(status->agents.size() == 3, "the status is not of three agents");
    for (const auto& agent : status->agents) {
      if (hostile_ && agent.device == "cam") continue;
      if (!agent.connected) return "'" + agent.device + "' is away: " + agent.last_error;
      if (agent.queued != 0)
        return "'" + agent.device + "' has " + std::to_string(agent.queued) + " requests of nobody";
    }
    const auto sequence = scene.is_text() ? 1 + random.below(3) : 0;
    for (std::int64_t past = 0; past < (scene.is_text() ? 3 : 1); ++past) {
      const auto input = random_input(random);
      wire->send(infer(9, input, sequence, past));
      const auto answer = receive<net::InferAnswer>(wire.get(), &instead);
      if (!answer) return instead;
      require(answer->request == 9 && answer->last, "an answer is of another request");
      if (answer->status != 0) return "no answer: " + answer->text;
      std::vector<std::int32_t> present;
      for (std::size_t p = 0; p < answer->devices.size(); ++p)
        if (answer->devices[p].present) present.push_back(static_cast<std::int32_t>(p));
      expect_number(answer->tensor, expected_answer(input, present));
      if (present.size() < agents_.size()) return "a device that is well is missing";
    }
    return {};
  }

 private:
  static net::InferRequest infer(std::uint64_t id, const net::Value& input, std::uint64_t sequence,
                                 std::int64_t past) {
    net::InferRequest request;
    request.request = id;
    request.deadline_ms = 20000;
    request.sequence = sequence;
    request.past = past;
    request.capacity = 8;
    request.tensor = input;
    return request;
  }
  std::shared_ptr<Books> books_ = std::make_shared<Books>();
  std::vector<std::unique_ptr<RunningAgent>> agents_;
  std::unique_ptr<HostileAgent> hostile_;
  std::unique_ptr<Aggregator> aggregator_;
  std::unique_ptr<RunningServer> server_;
};

// Sessions.

using Wires = std::vector<std::unique_ptr<Wire>>;

/// Connects, and greets in one way or another.
std::unique_ptr<Wire> open(Random& random, const Target& target, Forge* forge) {
  auto wire = Wire::dial(target.address());
  if (!wire) return {};
  const auto way = random.below(100);
  if (way < 85) {
    const auto hello = forge->hello();
    wire->send(hello);
    wire->greeted_as = hello.role;
    if (hello.role == net::Role::aggregator && random.chance(95))
      wire->send(told(target.scene.plan));
  } else if (way < 92) {
    wire->write(forge->frame(forge->wrong_hello()));
  } else if (way < 96) {
    wire->write(forge->garbage());
  }
  num_messages += way < 96;
  return wire;
}

/// One more thing happens on one of the connections.
void act(Random& random, const Target& target, Forge* forge, std::unique_ptr<Wire>* wire) {
  const auto what = random.below(1000);
  if (what < 5) {
    (*wire)->shut();
  } else if (what < 15 || (!(*wire)->is_open() && what < 800)) {
    if (what < 10) (*wire)->cut();
    *wire = open(random, target, forge);
    if (!*wire) return;
  } else if (what < 20) {
    (*wire)->write(forge->garbage());
  } else if (what < 30) {
    std::this_thread::sleep_for(std::chrono::milliseconds(random.below(30)));
  } else {
    if ((*wire)->write(forge->frame(forge->message((*wire)->greeted_as)))) ++num_messages;
  }
  if (random.chance(80)) (*wire)->skim(random.chance(10) ? 5ms : 0ms);
}

/// Nothing new is begun, and what was has its end.
void drain(Random& random, Target* target, Wires* wires) {
  const auto last = target->greet();
  target->drain();
  constexpr std::uint64_t late = 777777;
  bool told = false;
  while (last) {
    const auto message = last->receive(Clock::now() + patience);
    if (!message) break;
    require(!told || net::envelope_of(*message).request != late ||
                std::holds_alternative<net::Busy>(*message) ||
                (std::holds_alternative<net::InferAnswer>(*message) &&
                 std::get<net::InferAnswer>(*message).status ==
                     static_cast<std::uint8_t>(Status::overloaded)),
            target->name() + ": one that drains takes a request");
    if (!std::holds_alternative<net::Drain>(*message) || std::exchange(told, true)) break;
    for (const Message& piece : target->request(late)) last->send(piece);
  }
  if (last) last->close();
  wires->clear();
  const auto since = Clock::now();
  target->join();
  require(Clock::now() - since < longest_drain, target->name() + ": drains without anybody there");
  target->restart(random.chance(50) ? 200ms : 25s);
}

void play(std::uint64_t seed, Target* target) {
  Random random(seed);
  target->begin(seed);
  Forge forge(random, target->scene, target->role, target->device);
  forge.set_wildness(random.pick({0u, 2u, 20u}));
  Wires wires;
  for (auto count = 1 + random.below(4); count > 0; --count)
    if (auto wire = open(random, *target, &forge)) wires.push_back(std::move(wire));
  for (auto count = random.below(40); count > 0 && !wires.empty(); --count) {
    auto& wire = wires[random.below(wires.size())];
    if (wire) act(random, *target, &forge, &wire);
  }
  if (random.below(100) == 0) drain(random, target, &wires);
  // Some stay until everything was heard, others go with their requests open.
  for (auto& wire : wires) {
    if (!wire) continue;
    if (random.chance(50) && wire->send(net::Ping{})) {
      std::optional<Message> message;
      do message = wire->receive(Clock::now() + 100ms);
      while (message && !std::holds_alternative<net::Pong>(*message));
      wire->skim(1ms);
    }
    if (random.chance(30)) wire->cut();
  }
  wires.clear();
  target->check(random);
}

std::size_t num_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

std::optional<std::uint64_t> number_after(const std::vector<std::string>& words,
                                          const std::string& option) {
  const auto at = std::find(words.begin(), words.end(), option);
  if (at == words.end() || at + 1 == words.end()) return {};
  return std::stoull(*(at + 1));
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  const auto most = number_after(words, "--messages").value_or(2000);
  first_seed = current_seed = number_after(words, "--seed").value_or(1);
  std::signal(SIGABRT, on_abort);
  const Watchdog watchdog;

  const Scene images("image", fake_plan());
  const Scene texts("text", fake_text_plan());
  std::vector<std::unique_ptr<Target>> targets;
  for (const auto* scene : {&images, &texts}) {
    targets.push_back(std::make_unique<AgentTarget>(*scene));
    targets.push_back(std::make_unique<ServerTarget>(*scene, false));
    targets.push_back(std::make_unique<ServerTarget>(*scene, true));
  }
  auto heads = examples::tensor_plan(fake_teacher(), 2);
  heads.teacher_digest = std::string(64, 'a');
  const Scene shared("shared", heads);
  targets.push_back(std::make_unique<SharedAgentTarget>(shared));
  const auto descriptors = num_descriptors();
  std::uint64_t sessions = 0;
  for (; num_messages < most; ++sessions, ++current_seed) {
    const auto seed = current_seed.load();
    play(seed, targets[Random(~seed).below(targets.size())].get());
    if (sessions % 64 == 0)
      require(eventually([&] { return num_descriptors() <= descriptors + 16; }, patience),
              "connections are left open");
  }
  std::printf("session_fuzz: %llu messages in %llu sessions, seeds from %llu\n",
              static_cast<unsigned long long>(num_messages),
              static_cast<unsigned long long>(sessions),
              static_cast<unsigned long long>(first_seed));
  std::printf("heard:");
  for (std::size_t kind = 0; kind < num_heard.size(); ++kind)
    if (num_heard[kind] > 0)
      std::printf(" %llu %s", static_cast<unsigned long long>(num_heard[kind]),
                  std::string(net::name_of(static_cast<net::Kind>(kind))).c_str());
  std::printf("\n");
  return 0;
}
