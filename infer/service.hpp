#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "infer/executor.hpp"
#include "net/buffer.hpp"

namespace cleave::infer {

/// One question: pixels uint8 [B, c, h, w] (resized) or token ids int32 [B, N] (−1 fills up), and
/// how long the asker waits.
struct Request {
  net::Value input;
  /// Goes on with a text that is generated: its id is of new_sequence().
  Sequence sequence;
  std::chrono::milliseconds deadline{10000};
  /// Only an answer from every device counts. Refused at once while a device is ejected.
  bool require_all = false;
};

enum class Status : std::uint8_t {
  answered = 0,
  overloaded = 1,
  deadline = 2,
  no_device = 3,
  failed = 4,
  canceled = 5
};

struct DeviceReport {
  std::string device;
  bool present = false;
  double queued_s = 0, compute_s = 0;  // on the device
  double round_trip_s = 0;             // admit sent -> feature received, at the aggregator
  double predicted_s = 0;
  std::uint64_t sent_bytes = 0,
                received_bytes = 0;  // of this request, headers included, seen from the aggregator
  std::string why;                   // not present
};

struct Response {
  Status status = Status::answered;
  std::string message;
  net::Value output;  // logits [B, C], directions [B, D], or a language model's [B, T, V]
  std::vector<DeviceReport> devices;
  double queue_s = 0, fuse_s = 0, total_s = 0;
  /// total − slowest device's round trip: what the aggregator adds.
  double overhead_s = 0;
};

/// An aggregator or a connection to one: free of transport. submit() returns at once; `on_done`
/// comes on the I/O thread.
class Service {
 public:
  virtual ~Service() = default;
  virtual std::uint64_t submit(Request request, std::function<void(Response)> on_done) = 0;
  virtual void cancel(std::uint64_t id) = 0;
  /// An id for a text to be generated. A device that misses one of its requests is left out of the
  /// rest, and takes part in the next sequence again.
  virtual std::uint64_t new_sequence() = 0;
  /// Frees what the devices keep of it.
  virtual void end_sequence(std::uint64_t id) = 0;
};

/// One agent as the aggregator sees it.
struct AgentStatus {
  std::string device, address;
  bool connected = false;
  /// Why it is not connected; of one that is, why it is not asked: "ejected: late".
  std::string last_error;
  double memory_bytes = 0, round_trip_s = 0;
  std::int64_t queued = 0, answered = 0;
  /// "joined", "ejected: late", "draining", or "away".
  std::string state() const {
    if (connected) return last_error.empty() ? "joined" : last_error;
    return last_error == "draining" ? last_error : "away";
  }
};

}  // namespace cleave::infer
