#include "tests/support/proxy.hpp"

#include <array>
#include <limits>
#include <mutex>
#include <random>
#include <set>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "net/mesh.hpp"

namespace cleave::testing {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto no_throw = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t piece_bytes = 16384;
constexpr auto never = std::numeric_limits<std::uint64_t>::max();

/// How many bytes pass before one of probability `p`.
std::uint64_t bytes_until(double p, std::mt19937_64& random) {
  if (p <= 0) return never;
  return p >= 1 ? 0 : std::geometric_distribution<std::uint64_t>(p)(random);
}

/// Both ends of one connection.
struct Link {
  explicit Link(asio::io_context& io) : near(io), far(io) {}
  void close() {
    error_code ignored;
    near.close(ignored);
    far.close(ignored);
  }
  tcp::socket near, far;
  int ended = 0;  // ways
};

/// What becomes of a piece: so many of its bytes go on, and then?
struct Fate {
  std::size_t passed = 0;
  bool cut = false, end = false;
};

}  // namespace

struct Proxy::State {
  /// One way's mischief, and where it stands.
  struct Lane {
    explicit Lane(std::uint64_t seed) : random(seed) {}
    void set(const Mischief& wanted) {
      mischief = wanted;
      seen = 0;
      next_flip = bytes_until(mischief.flip_probability, random);
      next_cut = bytes_until(mischief.cut_probability, random);
    }
    Mischief mischief;
    std::mt19937_64 random;
    std::uint64_t seen = 0;  // bytes since it was set
    std::uint64_t next_flip = never, next_cut = never;
  };

  State(const std::string& to, std::uint64_t seed)
      : target(net::Address::parse(to)), lanes{Lane(2 * seed), Lane(2 * seed + 1)} {}

  void start();
  asio::awaitable<void> serve(std::shared_ptr<Link> link);
  asio::awaitable<void> carry(std::shared_ptr<Link> link, Way way);
  asio::awaitable<error_code> pass(tcp::socket& to, Way way, std::span<const std::byte> bytes);
  asio::awaitable<void> sleep(std::chrono::milliseconds time);
  Fate decide(Way way, std::span<std::byte> piece);
  Lane& lane(Way way) { return lanes[way == Way::forth ? 0 : 1]; }
  Mischief mischief(Way way) {
    const std::lock_guard lock(mutex);
    return lane(way).mischief;
  }

  net::Address target;
  asio::io_context io;  // outlives what its coroutines hold
  net::Listener listener{io, "127.0.0.1:0", false};
  std::set<std::shared_ptr<Link>> links;
  mutable std::mutex mutex;
  std::array<Lane, 2> lanes;  // guarded, as the counts are
  Counts counts;
  std::thread thread;
};

void Proxy::State::start() {
  const auto accept = [this](tcp::socket socket) {
    auto link = std::make_shared<Link>(io);
    link->near = std::move(socket);
    net::spawn(io, serve(std::move(link)), {});
  };
  net::spawn(io, listener.run(accept), {});
  thread = std::thread([this] { net::run(io, {}); });
}

asio::awaitable<void> Proxy::State::serve(std::shared_ptr<Link> link) {
  const tcp::endpoint endpoint(asio::ip::make_address(target.host),
                               static_cast<std::uint16_t>(std::stoi(target.port)));
  auto connecting = link->far.async_connect(endpoint, no_throw);
  const auto [error] = co_await std::move(connecting);
  if (error) co_return link->close();
  error_code ignored;
  for (auto* socket : {&link->near, &link->far}) {
    socket->set_option(tcp::no_delay(true), ignored);
    // Whoever sends more than trickles on is to feel it.
    socket->set_option(tcp::socket::receive_buffer_size(65536), ignored);
  }
  links.insert(link);
  {
    const std::lock_guard lock(mutex);
    ++counts.connections;
    ++counts.open;
  }
  for (const auto way : {Way::forth, Way::back}) net::spawn(io, carry(link, way), {});
}

/// Until the sender ends, and then tells the receiver.
asio::awaitable<void> Proxy::State::carry(std::shared_ptr<Link> link, Way way) {
  auto& from = way == Way::forth ? link->near : link->far;
  auto& to = way == Way::forth ? link->far : link->near;
  std::vector<std::byte> piece(piece_bytes);
  error_code ignored;
  bool told = false;
  while (true) {
    auto reading = from.async_read_some(asio::buffer(piece), no_throw);
    const auto [error, count] = co_await std::move(reading);
    if (error) {
      if (error != asio::error::eof) link->close();
      break;
    }
    const auto fate = decide(way, std::span(piece).first(count));
    const std::span<const std::byte> passed = std::span(piece).first(told ? 0 : fate.passed);
    if (const auto delay = mischief(way).delay; delay.count() > 0) {
      auto waiting = sleep(delay);
      co_await std::move(waiting);
    }
    auto passing = pass(to, way, passed);
    if (co_await std::move(passing) || fate.cut) {
      link->close();
      break;
    }
    if (fate.end && !std::exchange(told, true)) to.shutdown(tcp::socket::shutdown_send, ignored);
  }
  to.shutdown(tcp::socket::shutdown_send, ignored);
  if (++link->ended < 2) co_return;
  link->close();
  links.erase(link);
  const std::lock_guard lock(mutex);
  --counts.open;
}

/// All at once, or as slowly as the way is told at that moment.
asio::awaitable<error_code> Proxy::State::pass(tcp::socket& to, Way way,
                                               std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t at_once = mischief(way).bytes_per_ms;
    const std::size_t size = at_once == 0 ? bytes.size() : std::min(at_once, bytes.size());
    auto writing = asio::async_write(to, asio::buffer(bytes.data(), size), no_throw);
    const auto [error, count] = co_await std::move(writing);
    if (error) co_return error;
    bytes = bytes.subspan(size);
    {
      const std::lock_guard lock(mutex);
      ++counts.writes;
      counts.passed_bytes += size;
    }
    if (at_once == 0) continue;
    auto waiting = sleep(std::chrono::milliseconds(1));
    co_await std::move(waiting);
  }
  co_return error_code();
}

asio::awaitable<void> Proxy::State::sleep(std::chrono::milliseconds time) {
  asio::steady_timer timer(io, time);
  auto waiting = timer.async_wait(no_throw);
  co_await std::move(waiting);
}

/// Flips bits in place.
Fate Proxy::State::decide(Way way, std::span<std::byte> piece) {
  const std::lock_guard lock(mutex);
  auto& on = lane(way);
  const auto& wanted = on.mischief;
  Fate fate;
  const auto ends_within = [&](std::optional<std::uint64_t> after) {
    return after && *after >= on.seen && *after <= on.seen + piece.size();
  };
  std::size_t size = piece.size();
  if (ends_within(wanted.cut_after)) {
    size = static_cast<std::size_t>(*wanted.cut_after - on.seen);
    fate.cut = true;
  }
  if (on.next_cut < size) {
    size = static_cast<std::size_t>(on.next_cut);
    fate.cut = true;
  }
  if (ends_within(wanted.end_after) && *wanted.end_after - on.seen <= size) {
    size = static_cast<std::size_t>(*wanted.end_after - on.seen);
    fate.end = true;
  }
  for (std::size_t i = 0; i < size; ++i) {
    bool flips = on.seen + i == wanted.flip_at;
    if (on.next_flip == i) {
      flips = true;
      on.next_flip += 1 + bytes_until(wanted.flip_probability, on.random);
    }
    if (!flips) continue;
    piece[i] ^= std::byte{1} << (on.random() % 8);
    ++counts.flipped_bits;
  }
  on.seen += piece.size();
  if (on.next_flip != never) on.next_flip -= std::min<std::uint64_t>(on.next_flip, piece.size());
  if (fate.cut) {
    ++counts.cuts;
    if (on.next_cut != never) on.next_cut = bytes_until(wanted.cut_probability, on.random);
    on.mischief.cut_after.reset();
  } else if (on.next_cut != never) {
    on.next_cut -= piece.size();
  }
  if (fate.end) on.mischief.end_after.reset();
  if (!wanted.swallows) {
    fate.passed = size;
  } else {
    counts.swallowed_bytes += size;
  }
  return fate;
}

Proxy::Proxy(const std::string& target, std::uint64_t seed)
    : state_(std::make_unique<State>(target, seed)) {
  state_->start();
}

Proxy::~Proxy() {
  state_->io.stop();
  state_->thread.join();
}

const std::string& Proxy::address() const { return state_->listener.address(); }

void Proxy::set(Way way, const Mischief& mischief) {
  const std::lock_guard lock(state_->mutex);
  state_->lane(way).set(mischief);
}

void Proxy::cut() {
  asio::post(state_->io, [state = state_.get()] {
    for (const auto& link : state->links) link->close();
    const std::lock_guard lock(state->mutex);
    state->counts.cuts += state->links.size();
  });
}

Proxy::Counts Proxy::counts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->counts;
}

}  // namespace cleave::testing
