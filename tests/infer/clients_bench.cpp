// Many clients of a running server, each asking again as soon as it has its answer.
//
//   ninja -C build/release clients_bench
//   build/release/tests/infer/clients_bench HOST:PORT DIMS [REQUESTS [CLIENTS]]
//
// DIMS is one image, "1x1x28x28". recipes/clients starts agents and a server for it. Exit code 3
// where a request is not answered in full.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "tests/infer/asking.hpp"

namespace cleave::infer {
namespace {

int run(const std::string& address, const net::Value& image, int num_requests, int num_clients) {
  std::atomic<int> next{0};
  std::mutex mutex;
  std::vector<double> latency_ms;
  int partial = 0, failed = 0;
  const auto ask_on = [&] {
    Client client(address);
    while (next++ < num_requests) {
      const auto start = Clock::now();
      const auto response = ask(client, image);
      const std::chrono::duration<double, std::milli> took = Clock::now() - start;
      const std::lock_guard lock(mutex);
      latency_ms.push_back(took.count());
      if (response.status != Status::answered) {
        if (failed++ == 0) std::fprintf(stderr, "%s\n", response.message.c_str());
      } else {
        partial += std::any_of(response.devices.begin(), response.devices.end(),
                               [](const DeviceReport& device) { return !device.present; });
      }
    }
  };
  const auto start = Clock::now();
  std::vector<std::thread> clients;
  for (int i = 0; i < num_clients; ++i) clients.emplace_back(ask_on);
  for (auto& client : clients) client.join();
  const std::chrono::duration<double> took = Clock::now() - start;
  std::sort(latency_ms.begin(), latency_ms.end());
  const auto at = [&](double share) {
    return latency_ms[static_cast<std::size_t>(share * static_cast<double>(latency_ms.size() - 1))];
  };
  std::printf(
      "%d clients, %zu requests: %.0f requests/s, median %.1f ms, p99 %.1f ms, %d in part, "
      "%d failed\n",
      num_clients, latency_ms.size(), static_cast<double>(latency_ms.size()) / took.count(),
      at(0.5), at(0.99), partial, failed);
  return partial == 0 && failed == 0 ? 0 : 3;
}

}  // namespace
}  // namespace cleave::infer

int main(int argc, char** argv) {
  const int num_requests = argc > 3 ? std::atoi(argv[3]) : 50000;
  const int num_clients = argc > 4 ? std::atoi(argv[4]) : 64;
  if (argc < 3 || num_requests < 1 || num_clients < 1) {
    std::fprintf(stderr, "usage: clients_bench HOST:PORT DIMS [REQUESTS [CLIENTS]]\n");
    return 2;
  }
  return cleave::infer::run(argv[1], cleave::infer::image_of(argv[2]), num_requests, num_clients);
}
