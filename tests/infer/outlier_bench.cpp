// What one bad device costs: eight clients of a server over three devices, of which one is switched
// off, silent (it answers pings and no requests), or 200 ms late with each value. The clients begin
// before anybody knows, so that finding out is part of the figures.
//
//   ninja -C build/release outlier_bench && build/release/tests/infer/outlier_bench [REQUESTS]
//
// Exit code 3 where throughput falls below 80 %, or p99 rises above 2 times, of the same system
// with that device switched off.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "infer/server.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/infer/scripted_agent.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

constexpr int num_clients = 8;
constexpr auto computing = 2500us;  // on each device
constexpr auto lateness = 200ms;

/// Says what it is given, each a while later.
class Delayed {
 public:
  explicit Delayed(ScriptedAgent** agent) : agent_(agent), thread_([this] { run(); }) {}
  ~Delayed() {
    stopping_ = true;
    thread_.join();
  }
  void add(net::Message message) {
    const std::lock_guard lock(mutex_);
    due_.emplace_back(Clock::now() + lateness, std::move(message));
  }

 private:
  void run() {
    while (!stopping_) {
      std::this_thread::sleep_for(1ms);
      const std::lock_guard lock(mutex_);
      while (!due_.empty() && due_.front().first <= Clock::now()) {
        (*agent_)->say(std::move(due_.front().second));
        due_.pop_front();
      }
    }
  }
  ScriptedAgent** agent_;
  std::mutex mutex_;
  std::deque<std::pair<Clock::time_point, net::Message>> due_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

struct Figures {
  double requests_per_s = 0, p50_s = 0, p99_s = 0;
  int unanswered = 0;
};

Figures measure(Aggregator& aggregator, const plan::Bundle& bundle, int num_requests) {
  ServerOptions options;
  RunningServer server(aggregator, bundle, options);
  std::vector<std::vector<double>> seconds(num_clients);
  std::atomic<int> unanswered{0};
  std::vector<std::thread> threads;
  const auto began = Clock::now();
  for (int c = 0; c < num_clients; ++c)
    threads.emplace_back([&, c] {
      Client client(server.address());
      for (int i = c; i < num_requests; i += num_clients) {
        const auto asked = Clock::now();
        const auto response = ask(client, request_of(static_cast<std::uint8_t>(i)));
        unanswered += response.status != Status::answered;
        seconds[static_cast<std::size_t>(c)].push_back(
            std::chrono::duration<double>(Clock::now() - asked).count());
      }
    });
  for (auto& thread : threads) thread.join();
  const double took_s = std::chrono::duration<double>(Clock::now() - began).count();
  std::vector<double> sorted;
  for (const auto& of_client : seconds)
    sorted.insert(sorted.end(), of_client.begin(), of_client.end());
  std::sort(sorted.begin(), sorted.end());
  const auto quantile = [&](double share) {
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
  };
  return {static_cast<double>(sorted.size()) / took_s, quantile(0.5), quantile(0.99), unanswered};
}

Figures run(const std::string& cam, int num_requests) {
  const ScratchFolder folder("outlier_bench");
  const auto plan = fake_plan(std::chrono::duration<double>(computing).count());
  const auto bundle = write_bundle(folder.path(), plan);
  const RunningAgent hub(bundle, plan, "hub", computing), desk(bundle, plan, "desk", computing);
  ScriptedAgent* saying = nullptr;
  Delayed delayed(&saying);
  ScriptedAgent other([&](const net::Admit& admit) -> std::vector<net::Message> {
    if (cam == "late") delayed.add(value_for(admit, 1));
    return {};
  });
  saying = &other;
  AggregatorOptions options;
  options.hosts = {{"hub", hub.address()}, {"desk", desk.address()}, {"cam", other.address()}};
  if (cam == "off") {
    boost::asio::io_context io;
    options.hosts["cam"] = net::Listener(io, "127.0.0.1:0", false).address();
  }
  Aggregator aggregator(bundle, {plan}, std::make_unique<FakeEngine>(), std::move(options));
  aggregator.wait_for_agents(cam == "off" ? 2 : 3, 10s);
  return measure(aggregator, bundle, num_requests);
}

int run_all(int num_requests) {
  std::printf("%-7s %10s %9s %9s %11s %11s %11s\n", "cam", "requests/s", "p50", "p99", "unanswered",
              "throughput", "p99 times");
  Figures off;
  bool good = true;
  for (const std::string cam : {"off", "silent", "late"}) {
    const auto found = run(cam, num_requests);
    if (cam == "off") off = found;
    const double share = found.requests_per_s / off.requests_per_s, times = found.p99_s / off.p99_s;
    std::printf("%-7s %10.0f %6.1f ms %6.1f ms %11d %9.0f %% %11.2f\n", cam.c_str(),
                found.requests_per_s, found.p50_s * 1e3, found.p99_s * 1e3, found.unanswered,
                share * 100, times);
    good = good && share >= 0.8 && times <= 2 && found.unanswered == 0;
  }
  return good ? 0 : 3;
}

}  // namespace
}  // namespace cleave::infer

int main(int count, char** arguments) {
  const int requests = count > 1 ? std::atoi(arguments[1]) : 2000;
  if (requests < 1) {
    std::fprintf(stderr, "usage: outlier_bench [REQUESTS]\n");
    return 2;
  }
  return cleave::infer::run_all(requests);
}
