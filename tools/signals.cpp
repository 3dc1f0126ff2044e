#include "tools/signals.hpp"

#include <algorithm>
#include <atomic>
#include <poll.h>
#include <signal.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace cleave::tools {
namespace {

constexpr std::chrono::milliseconds leaving_time{2000};

std::atomic<int> signal_seen{0};
int wake_pipe[2] = {-1, -1};

void on_signal(int number) {
  if (signal_seen.exchange(number) != 0) _exit(128 + number);
  const char byte = 1;
  // The pipe only wakes wait_for_signal; a full one is as good.
  [[maybe_unused]] const auto written = write(wake_pipe[1], &byte, 1);
}

}  // namespace

void catch_signals() {
  if (wake_pipe[0] < 0 && pipe(wake_pipe) != 0) return;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_wanted() { return signal_seen.load() != 0; }

int wait_for_signal() {
  while (!stop_wanted()) {
    pollfd wake{wake_pipe[0], POLLIN, 0};
    poll(&wake, 1, -1);
  }
  return signal_seen.load();
}

std::chrono::milliseconds drain_patience(std::chrono::milliseconds whole) {
  return std::max(whole - leaving_time, std::chrono::milliseconds(0));
}

void drain_on_signal(std::function<void()> drain, std::chrono::milliseconds patience) {
  std::thread([drain = std::move(drain), patience] {
    const int number = wait_for_signal();
    drain();
    std::this_thread::sleep_for(patience);
    _exit(128 + number);  // computing, or writing, that nothing interrupts
  }).detach();            // the process ends before it, or by it
}

}  // namespace cleave::tools
