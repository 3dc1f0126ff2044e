#include "infer/exchange.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

namespace cleave::infer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Between requests everybody sleeps: what is measured after a pause has the waking up in it.
constexpr std::chrono::milliseconds pause_between_requests{10};

/// Whose turn it is, between two threads.
class Turns {
 public:
  void give(int to) {
    {
      const std::lock_guard lock(mutex_);
      turn_ = to;
    }
    changed_.notify_all();
  }
  void wait_for(int turn) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return turn_ == turn; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int turn_ = 0;
};

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), std::string("[loopback] ") + what);
}

/// A socket that closes itself.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {
    if (fd_ < 0) fail("cannot open a socket");
  }
  ~Socket() { close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

  void send_all(const std::vector<std::byte>& bytes) const {
    for (std::size_t done = 0; done < bytes.size();) {
      const auto n = send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (n <= 0) fail("cannot send");
      done += static_cast<std::size_t>(n);
    }
  }
  /// False when the other side has closed.
  bool receive_all(std::vector<std::byte>& bytes) const {
    for (std::size_t done = 0; done < bytes.size();) {
      const auto n = recv(fd_, bytes.data() + done, bytes.size() - done, 0);
      if (n < 0) fail("cannot receive");
      if (n == 0) return false;
      done += static_cast<std::size_t>(n);
    }
    return true;
  }
  void send_at_once() const {
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }

 private:
  int fd_;
};

/// Median seconds one way for messages of this size, measured as half a round trip after a pause.
double one_way_seconds(const Socket& near, const Socket& far, std::size_t bytes, int round_trips) {
  std::thread echo([&far, bytes, round_trips] {
    std::vector<std::byte> message(bytes);
    for (int i = 0; i < round_trips && far.receive_all(message); ++i) far.send_all(message);
  });
  std::vector<double> seconds;
  std::vector<std::byte> message(bytes);
  for (int i = 0; i < round_trips; ++i) {
    std::this_thread::sleep_for(pause_between_requests);
    const auto start = Clock::now();
    near.send_all(message);
    near.receive_all(message);
    seconds.push_back(seconds_since(start) / 2);
  }
  echo.join();
  return median(seconds);
}

}  // namespace

double hand_over_seconds() {
  constexpr int round_trips = 50;
  Turns turns;
  std::thread other([&turns] {
    for (int i = 0; i < round_trips; ++i) {
      turns.wait_for(1);
      turns.give(0);
    }
  });
  std::vector<double> seconds;
  for (int i = 0; i < round_trips; ++i) {
    std::this_thread::sleep_for(pause_between_requests);
    const auto start = Clock::now();
    turns.give(1);
    turns.wait_for(0);
    seconds.push_back(seconds_since(start) / 2);
  }
  other.join();
  return median(seconds);
}

MessageCost message_cost() {
  const Socket listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* any_address = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener.fd(), any_address, size) < 0) fail("cannot bind");
  if (listen(listener.fd(), 1) < 0) fail("cannot listen");
  if (getsockname(listener.fd(), any_address, &size) < 0) fail("cannot name its port");
  const Socket near(socket(AF_INET, SOCK_STREAM, 0));
  if (connect(near.fd(), any_address, size) < 0) fail("cannot connect");
  const Socket far(accept(listener.fd(), nullptr, nullptr));
  near.send_at_once();
  far.send_at_once();

  // A feature and a picture: what travels. Both ends share the one-way time.
  constexpr std::size_t small = 1 << 10, large = 150 << 10;
  const double small_s = one_way_seconds(near, far, small, 50);
  const double large_s = one_way_seconds(near, far, large, 50);
  MessageCost cost;
  cost.seconds_per_byte =
      std::max(0.0, (large_s - small_s) / static_cast<double>(large - small)) / 2;
  cost.seconds = small_s / 2;
  return cost;
}

}  // namespace cleave::infer
