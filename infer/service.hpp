#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "infer/executor.hpp"
#include "infer/sampler.hpp"
#include "net/message.hpp"

namespace cleave::infer {

/// One question: pixels uint8 [B, c, h, w] (resized) or token ids int32 [B, N] (−1 fills up), and
/// how long the asker waits.
struct Request {
  net::Value input;
  /// Which plan answers, by its name; empty: the default one.
  std::string plan;
  /// Goes on with a text that is generated: its id is of new_sequence().
  Sequence sequence;
  /// The next token of each text of the sequence is wanted instead of logits.
  std::optional<Sampling> sampling;
  std::chrono::milliseconds deadline{10000};
  /// Only an answer from every device counts. Refused at once while a device is ejected.
  bool require_all = false;
  /// What the answer tells beside: see net::Account. It comes when the devices have told it.
  net::Observe observe = net::Observe::nothing;
};

enum class Status : std::uint8_t {
  answered = 0,
  overloaded = 1,
  deadline = 2,
  no_device = 3,
  failed = 4,
  canceled = 5
};

using net::AgentStatus;
using net::DeviceReport;
using net::PlanStatus;

struct Response {
  Status status = Status::answered;
  std::string message;
  /// Logits [B, C], directions [B, D], a language model's [B, T, V]; or tokens (choices_of).
  net::Value output;
  std::vector<DeviceReport> devices;
  net::Account aggregator;  // where the request is observed
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

/// Of a server.
struct ServiceStatus {
  std::vector<AgentStatus> agents;
  std::vector<PlanStatus> plans;  // the default one first
};

}  // namespace cleave::infer
