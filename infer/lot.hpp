#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "net/message.hpp"

namespace cleave::infer {

/// Who asked, and which of their requests.
struct RequestName {
  std::uint64_t origin = 0, request = 0;
  bool operator<(const RequestName& other) const {
    return std::pair(origin, request) < std::pair(other.origin, other.request);
  }
};

/// How a value came.
struct Arrival {
  std::chrono::steady_clock::time_point began{}, ended{};  // its frame's header, and its end
  std::uint64_t wire_bytes = 0;
};
/// Of what a connection has just received.
template <class Received>
Arrival arrival_of(const Received& received) {
  return {received.began, std::chrono::steady_clock::now(), received.wire_bytes};
}

/// Where values of peers wait whose request is not admitted here yet; bounded in bytes and time, so
/// that reading never stops. No clock and no sockets.
class Lot {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Options {
    std::uint64_t most_bytes = std::uint64_t{64} << 20;  // of all requests
    std::chrono::milliseconds most_time = std::chrono::seconds(10);
  };
  struct Waiting {
    std::string from;  // a device
    net::ValueMessage message;
    Arrival arrival;
  };
  explicit Lot(const Options& options) : options_(options) {}
  Lot() : Lot(Options()) {}

  /// Where it has no room, all that waits for the request goes: see overflowed().
  void add(const RequestName& name, const std::string& from, net::ValueMessage message, Time now,
           const Arrival& arrival = {});
  /// What came for a request that is admitted now, in order.
  std::vector<Waiting> take(const RequestName& name);
  /// Some of what came for it is lost. Forgotten with take(), or in time.
  bool overflowed(const RequestName& name) const;
  /// Forgets what waited too long.
  void expire(Time now);
  /// When expire() has something to do.
  std::optional<Time> next() const;
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t most_bytes() const { return options_.most_bytes; }

 private:
  struct Entry {
    std::vector<Waiting> values;
    std::uint64_t bytes = 0;
    Time since;
    bool overflowed = false;
  };
  void erase(std::map<RequestName, Entry>::iterator at);

  Options options_;
  std::map<RequestName, Entry> entries_;
  std::uint64_t bytes_ = 0;
};

}  // namespace cleave::infer
