// What is lost, hangs or is wrong while everything fails: the real programs on loopback, three
// agents and a server, asked by four clients, while agents are killed and started again or stopped
// for up to 3 s, and bits flip, links are cut and stall between all of them.
//
//   ninja -C build/dev chaos_bench && build/dev/tests/tools/chaos_bench [REQUESTS [SEED]]
//
// An answer is right where it is within 1e-4 of what this process computes beforehand for exactly
// the devices that the answer names as present. Exit code 3 where a request is lost (no answer of
// the server, though its client's connection holds), hangs (no answer 10 s after its deadline), is
// answered wrongly, or goes without a reason.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <signal.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "infer/engine.hpp"
#include "tests/support/proxy.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

using namespace std::chrono_literals;
using infer::Clock;
using testing::Mischief;
using testing::Proxy;
using Random = std::mt19937_64;

constexpr int num_clients = 4;
constexpr std::size_t num_images = 8, image_bytes = 64, num_classes = 3;
constexpr std::int64_t most_rows = 4;
constexpr std::size_t most_open = 4;  // requests of one client
constexpr double tolerance = 1e-4;
constexpr auto hung_after = 10s;

std::int64_t draw(Random& random, std::int64_t least, std::int64_t most) {
  return std::uniform_int_distribution<std::int64_t>(least, most)(random);
}

/// Some of the eight images, a row each.
net::Value images(const std::vector<std::size_t>& rows) {
  net::Value value;
  value.element = base::Element::u8;
  value.dims = {static_cast<std::int64_t>(rows.size()), 1, 8, 8};
  std::vector<std::uint8_t> bytes;
  for (const auto row : rows) {
    Random random(row);
    for (std::size_t i = 0; i < image_bytes; ++i)
      bytes.push_back(static_cast<std::uint8_t>(random()));
  }
  value.data = net::Buffer::copy_of(bytes.data(), bytes.size());
  return value;
}

std::vector<float> numbers_of(const net::Value& value) {
  std::vector<float> numbers(value.data.size() / sizeof(float));
  std::memcpy(numbers.data(), value.data.data(), numbers.size() * sizeof(float));
  return numbers;
}

/// The answer to each image from each set of devices.
class Expected {
 public:
  explicit Expected(const std::string& folder) {
    const plan::Bundle bundle(folder);
    const auto plan = bundle.plan();
    for (const auto& part : plan.parts) devices_.push_back(part.device);
    const auto engine = infer::local_engine(bundle, plan);
    engine->prepare();
    for (unsigned present = 1; present < 1u << devices_.size(); ++present) {
      std::vector<bool> absent;
      for (std::size_t rank = 0; rank < devices_.size(); ++rank)
        absent.push_back((present >> rank & 1u) == 0);
      for (std::size_t image = 0; image < num_images; ++image)
        logits_[{present, image}] =
            numbers_of(infer::run_locally(*engine, plan, images({image}), absent));
    }
  }
  const std::vector<std::string>& devices() const { return devices_; }
  /// Empty where the answer is right.
  std::string objection(const infer::Response& response,
                        const std::vector<std::size_t>& rows) const {
    unsigned present = 0;
    std::set<std::string> named;
    for (const auto& report : response.devices) {
      const auto at = std::find(devices_.begin(), devices_.end(), report.device);
      if (at == devices_.end() || !named.insert(report.device).second)
        return "names '" + report.device + "'";
      if (report.present) present |= 1u << (at - devices_.begin());
      if (!report.present && report.why.empty()) return "no reason for " + report.device;
    }
    if (named.size() != devices_.size()) return "does not name every device";
    if (present == 0) return "answered by nobody";
    const auto seen = numbers_of(response.output);
    if (seen.size() != rows.size() * num_classes)
      return "saw " + std::to_string(seen.size()) + " numbers";
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const double needed = logits_.at({present, rows[i / num_classes]})[i % num_classes];
      const double off = std::abs(static_cast<double>(seen[i]) - needed);
      if (!(off <= tolerance)) return "a number is off by " + std::to_string(off);
    }
    return {};
  }
  /// The least difference between the answers of two sets of devices: what a wrong set would show.
  double least_difference() const {
    double least = 1e9;
    for (const auto& [key, one] : logits_)
      for (const auto& [other_key, other] : logits_) {
        if (key.second != other_key.second || key.first >= other_key.first) continue;
        double most = 0;
        for (std::size_t i = 0; i < one.size(); ++i)
          most = std::max(most, static_cast<double>(std::abs(one[i] - other[i])));
        least = std::min(least, most);
      }
    return least;
  }

 private:
  std::vector<std::string> devices_;
  std::map<std::pair<unsigned, std::size_t>, std::vector<float>> logits_;
};

/// What became of the requests.
class Tally {
 public:
  void count(const std::string& what) {
    const std::lock_guard lock(mutex_);
    ++counts_[what];
  }
  /// Something that must not be.
  void fault(const std::string& what, const std::string& detail) {
    count(what);
    const std::lock_guard lock(mutex_);
    if (++told_ <= 20) std::fprintf(stderr, "%s: %s\n", what.c_str(), detail.c_str());
  }
  int of(const std::string& what) const {
    const std::lock_guard lock(mutex_);
    const auto at = counts_.find(what);
    return at == counts_.end() ? 0 : at->second;
  }
  std::map<std::string, int> starting_with(const std::string& start) const {
    const std::lock_guard lock(mutex_);
    std::map<std::string, int> found;
    for (const auto& [what, count] : counts_)
      if (what.rfind(start, 0) == 0) found[what.substr(start.size())] = count;
    return found;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, int> counts_;
  int told_ = 0;
};

/// An agent that is killed, stopped and started again, on one port; and the proxy before it.
class Victim {
 public:
  Victim(std::string bundle, std::string device, const Scratch& scratch, std::uint64_t seed,
         Tally* tally)
      : bundle_(std::move(bundle)),
        device_(std::move(device)),
        log_(scratch / (device_ + ".log")),
        random_(seed),
        tally_(tally) {
    start("127.0.0.1:0");
    proxy_ = std::make_unique<Proxy>(address_, seed);
  }
  Proxy& proxy() { return *proxy_; }
  const std::string& device() const { return device_; }
  /// A process ends with the thread that started it, so that this one goes on until all is asked.
  void torment(const std::atomic<bool>& over) {
    while (!over) {
      std::this_thread::sleep_for(std::chrono::milliseconds(draw(random_, 200, 6000)));
      if (over) return;
      if (draw(random_, 0, 1) == 0) {
        kill(process_->id(), SIGSTOP);
        std::this_thread::sleep_for(std::chrono::milliseconds(draw(random_, 50, 3000)));
        kill(process_->id(), SIGCONT);
        tally_->count("did: stopped an agent for a while");
      } else {
        kill(process_->id(), SIGKILL);
        process_->wait();
        std::this_thread::sleep_for(std::chrono::milliseconds(draw(random_, 0, 1000)));
        start(address_);
        tally_->count("did: killed an agent");
      }
    }
  }

 private:
  void start(const std::string& listen) {
    for (int tries = 0;; ++tries) {
      Process::Options options;
      options.words = {CLEAVE_PROGRAM, "agent", bundle_, "--device", device_, "--listen", listen};
      options.log = log_;
      process_ = std::make_unique<Process>(options);
      try {
        const std::string line = process_->read_line(60s);
        address_ = line.substr(line.rfind(' ') + 1);
        return;
      } catch (const std::exception& error) {
        if (tries >= 20) throw;  // its port may be another's for a moment
        std::fprintf(stderr, "again: %s\n", error.what());
        std::this_thread::sleep_for(200ms);
      }
    }
  }
  std::string bundle_, device_, log_, address_;
  Random random_;
  Tally* tally_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<Proxy> proxy_;
};

/// Bits that flip now and then, links that are cut or stall; the first `num_agents` lead to agents.
/// A client's link is never so slow that the client itself gives an answer up.
void torment_links(const std::vector<Proxy*>& links, std::size_t num_agents, std::uint64_t seed,
                   const std::atomic<bool>& over, Tally* tally) {
  Random random(seed);
  while (!over) {
    std::this_thread::sleep_for(std::chrono::milliseconds(draw(random, 20, 400)));
    const auto which = static_cast<std::size_t>(draw(random, 0, std::ssize(links) - 1));
    const bool to_agent = which < num_agents;
    const auto way = draw(random, 0, 1) == 0 ? Proxy::Way::forth : Proxy::Way::back;
    Mischief mischief;
    switch (draw(random, 0, 9)) {
      case 0:
        mischief.cut_after = static_cast<std::uint64_t>(draw(random, 0, 1000));
        break;
      case 1:
        mischief.end_after = static_cast<std::uint64_t>(draw(random, 0, 1000));
        break;
      case 2:
        mischief.delay = std::chrono::milliseconds(draw(random, 1, to_agent ? 60 : 10));
        tally->count("did: delayed a link");
        break;
      case 3:
        mischief.bytes_per_ms = static_cast<std::size_t>(draw(random, to_agent ? 1 : 50, 100));
        tally->count("did: let a link trickle");
        break;
      default:
        mischief.flip_at = static_cast<std::uint64_t>(draw(random, 0, 1000));
    }
    links[which]->set(way, mischief);
    if (mischief.delay.count() == 0 && mischief.bytes_per_ms == 0) continue;
    std::this_thread::sleep_for(std::chrono::milliseconds(draw(random, 50, 1000)));
    links[which]->set(way, {});
  }
}

/// One client's requests, and its connection, which is made again where it died.
class Asker {
 public:
  Asker(const std::string& address, const Expected& expected, std::uint64_t seed, Tally* tally)
      : address_(address), expected_(expected), random_(seed), tally_(tally) {}

  void run(int num_requests) {
    for (int i = 0; i < num_requests; ++i) {
      wait_until_open_are_fewer_than(most_open);
      connect();
      submit(i);
      // A burst now and then, else about as much as three tiny devices bear.
      if (draw(random_, 0, 3) != 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(draw(random_, 0, 60)));
    }
    wait_until_open_are_fewer_than(1);
    client_.reset();
    for (const auto& one : open_)
      if (!one->answered) tally_->fault("lost", one->text + ": its client ended without a word");
  }

 private:
  struct Open {
    std::string text;
    Clock::time_point deadline;
    std::vector<std::size_t> rows;
    bool require_all = false;
    bool answered = false, hung = false;  // guarded
  };

  void connect() {
    while (!client_ || dead_) {
      client_.reset();
      dead_ = false;
      try {
        client_ = std::make_unique<infer::Client>(address_);
        tally_->count("did: connected a client");
      } catch (const std::runtime_error&) {
        tally_->count("did: connected a client in vain");
        std::this_thread::sleep_for(10ms);
      }
    }
  }

  void submit(int number) {
    const auto one = std::make_shared<Open>();
    for (std::int64_t left = draw(random_, 1, most_rows); left > 0; --left)
      one->rows.push_back(static_cast<std::size_t>(draw(random_, 0, num_images - 1)));
    infer::Request request;
    request.input = images(one->rows);
    request.deadline = std::chrono::milliseconds(
        draw(random_, 0, 9) == 0 ? draw(random_, 1, 50) : draw(random_, 100, 5000));
    request.require_all = one->require_all = draw(random_, 0, 9) == 0;
    one->deadline = Clock::now() + request.deadline;
    one->text = address_ + " request " + std::to_string(number) + ", " +
                std::to_string(request.deadline.count()) + " ms";
    {
      const std::lock_guard lock(mutex_);
      open_.push_back(one);
    }
    client_->submit(std::move(request),
                    [this, one](const infer::Response& response) { take(*one, response); });
  }

  /// The client's thread.
  void take(Open& one, const infer::Response& response) {
    judge(one, response);
    const std::lock_guard lock(mutex_);
    if (one.answered) tally_->fault("answered twice", one.text);
    one.answered = true;
    changed_.notify_all();
  }

  void judge(const Open& one, const infer::Response& response) {
    if (response.status == infer::Status::answered) {
      const auto wrong = expected_.objection(response, one.rows);
      if (!wrong.empty()) return tally_->fault("wrong", one.text + ": " + wrong);
      const bool whole = std::all_of(response.devices.begin(), response.devices.end(),
                                     [](const auto& report) { return report.present; });
      if (!whole && one.require_all)
        return tally_->fault("wrong", one.text + ": in part, and it wanted all");
      tally_->count(whole ? "answered in full" : "answered in part");
      for (const auto& report : response.devices)
        if (!report.present) tally_->count("absent: " + family(report.why));
    } else if (contains(response.message, "connection lost: ")) {
      dead_ = true;
      tally_->count("told: the connection is lost");
      tally_->count("connection: " + family(response.message.substr(address_.size() + 3)));
    } else if (contains(response.message, "no answer by the deadline")) {
      tally_->fault("lost", one.text + ": " + response.message);  // the client's own words
    } else if (response.message.empty()) {
      tally_->fault("without a reason", one.text);
    } else {
      tally_->count("refused with a reason");
      tally_->count("refusal: " + family(response.message));
    }
  }

  /// A reason without what differs from one to the next.
  static std::string family(const std::string& reason) {
    std::string text;
    for (const char c : reason) {
      if (c >= '0' && c <= '9') {
        if (text.empty() || text.back() != '#') text += '#';
      } else {
        text += c;
      }
    }
    return text.substr(0, 120);
  }

  void wait_until_open_are_fewer_than(std::size_t count) {
    std::unique_lock lock(mutex_);
    while (true) {
      while (!open_.empty() && (open_.front()->answered || open_.front()->hung)) open_.pop_front();
      const auto waiting = std::count_if(
          open_.begin(), open_.end(), [](const auto& one) { return !one->answered && !one->hung; });
      if (static_cast<std::size_t>(waiting) < count) return;
      changed_.wait_for(lock, 100ms);
      for (const auto& one : open_)
        if (!one->answered && !one->hung && Clock::now() > one->deadline + hung_after) {
          one->hung = true;
          tally_->fault("hung", one->text);
        }
    }
  }

  std::string address_;
  const Expected& expected_;
  Random random_;
  Tally* tally_;
  std::atomic<bool> dead_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Open>> open_;
  std::unique_ptr<infer::Client> client_;  // ends first
};

int report(const Tally& tally, int num_requests, double took_s, const std::vector<Proxy*>& links) {
  Proxy::Counts all;
  for (const auto* link : links) {
    const auto counts = link->counts();
    all.flipped_bits += counts.flipped_bits;
    all.cuts += counts.cuts;
    all.connections += counts.connections;
  }
  std::printf("%d requests in %.0f s\n", num_requests, took_s);
  int sum = 0;
  for (const std::string what : {"answered in full", "answered in part", "refused with a reason",
                                 "told: the connection is lost"}) {
    std::printf("%8d  %s\n", tally.of(what), what.c_str());
    sum += tally.of(what);
  }
  bool good = sum == num_requests;
  for (const std::string what : {"lost", "hung", "wrong", "without a reason", "answered twice"}) {
    std::printf("%8d  %s\n", tally.of(what), what.c_str());
    good = good && tally.of(what) == 0;
  }
  std::printf("\n%8llu  flipped bits, %llu cuts, %llu connections\n",
              static_cast<unsigned long long>(all.flipped_bits),
              static_cast<unsigned long long>(all.cuts),
              static_cast<unsigned long long>(all.connections));
  for (const std::string kind : {"did: ", "absent: ", "connection: ", "refusal: "})
    for (const auto& [what, count] : tally.starting_with(kind))
      std::printf("%8d  %s%s\n", count, kind.c_str(), what.c_str());
  return good ? 0 : 3;
}

int run(int num_requests, std::uint64_t seed) {
  infer::set_threads(1);
  const Scratch scratch;
  make_tiny_bundle(scratch);
  const std::string bundle = scratch / "bundle";
  const Expected expected(bundle);
  std::printf("the answers of two sets of devices differ by %.1e or more\n",
              expected.least_difference());
  std::fflush(stdout);
  Tally tally;
  std::vector<std::unique_ptr<Victim>> victims;
  std::vector<Proxy*> links;
  std::map<std::string, std::string> hosts;
  for (const auto& device : expected.devices()) {
    victims.push_back(std::make_unique<Victim>(bundle, device, scratch, ++seed, &tally));
    links.push_back(&victims.back()->proxy());
    hosts[device] = links.back()->address();
  }
  plan::write_hosts(hosts, scratch / "hosts.toml");
  auto [server, address] = start_server(bundle, scratch);
  std::vector<std::unique_ptr<Proxy>> before_server;
  std::vector<std::unique_ptr<Asker>> askers;
  for (int c = 0; c < num_clients; ++c) {
    before_server.push_back(std::make_unique<Proxy>(address, ++seed));
    links.push_back(before_server.back().get());
    askers.push_back(
        std::make_unique<Asker>(before_server.back()->address(), expected, ++seed, &tally));
  }

  std::atomic<bool> over{false};
  std::vector<std::thread> tormentors, asking;
  const auto began = Clock::now();
  for (auto& victim : victims) tormentors.emplace_back([&] { victim->torment(over); });
  tormentors.emplace_back(
      [&, links_seed = ++seed] { torment_links(links, victims.size(), links_seed, over, &tally); });
  for (int c = 0; c < num_clients; ++c) {
    const int share = num_requests / num_clients + (c < num_requests % num_clients ? 1 : 0);
    asking.emplace_back([&, c, share] { askers[static_cast<std::size_t>(c)]->run(share); });
  }
  for (auto& thread : asking) thread.join();
  const double took_s = std::chrono::duration<double>(Clock::now() - began).count();
  over = true;
  for (auto& thread : tormentors) thread.join();
  if (!server->is_running())
    tally.fault("lost", "the server itself: " + base::read_text(scratch / "serve.log"));
  return report(tally, num_requests, took_s, links);
}

}  // namespace
}  // namespace cleave::tools

int main(int count, char** arguments) {
  const int requests = count > 1 ? std::atoi(arguments[1]) : 10'000;
  if (requests < 1) {
    std::fprintf(stderr, "usage: chaos_bench [REQUESTS [SEED]]\n");
    return 2;
  }
  return cleave::tools::run(requests, count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
}
