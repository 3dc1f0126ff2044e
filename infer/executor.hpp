#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/buffer.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::infer {

using Clock = std::chrono::steady_clock;

/// Runs compute instructions. Called on the compute thread only; a handful of methods, so that tests and testbed can wrap it
/// (paced, delayed, plain C++).
class Engine {
 public:
  virtual ~Engine() = default;
  /// sub_model and fuse. Throws std::runtime_error (libtorch's text without backtrace).
  virtual net::Value run(const plan::Instruction& instruction, const plan::Program& program,
                         const std::vector<const net::Value*>& operands) = 0;
  /// Called once on the compute thread before the first run: thread count, warm-up.
  virtual void prepare() {}
};

/// Ends each compute instruction at start + thread CPU time · factor, so that a fast core is honest about being slow.
std::unique_ptr<Engine> paced(std::unique_ptr<Engine> engine, double factor);
/// Adds a fixed delay to each run: a slow phone, in a test or in `cleave bench`.
std::unique_ptr<Engine> with_delay(std::unique_ptr<Engine> engine, std::chrono::microseconds delay);

/// What became of one request on one device.
struct RunTimes {
  double queued_s = 0, compute_s = 0, wait_s = 0;
};

/// The device's side of running programs: keeps each request's values, runs instructions when their operands are there,
/// interleaves requests oldest first, never blocks on a receive. All calls on the compute thread; no sockets, no clock of its
/// own (the caller passes now), no libtorch.
class Executor {
 public:
  using RequestId = std::uint64_t;
  struct Hooks {
    /// A value to hand to a peer. The buffer is not written again.
    std::function<void(RequestId, std::int32_t peer, std::uint32_t tag, const net::Value&, const RunTimes&)> send;
    /// The program's output.
    std::function<void(RequestId, const net::Value&, const RunTimes&)> output;
    /// The request ended by an exception of the engine.
    std::function<void(RequestId, const std::string& error)> failed;
    /// All instructions have run.
    std::function<void(RequestId)> finished;
  };
  Executor(Engine& engine, Hooks hooks);
  ~Executor();

  /// `inputs` feed `input` instructions in order. Receives marked may_be_absent become absent at `absent_at`; at `deadline` the
  /// request is dropped.
  void admit(RequestId id, std::shared_ptr<const plan::Program> program, std::vector<net::Value> inputs, Clock::time_point absent_at,
             Clock::time_point deadline);
  /// A value that a peer sent. Unknown requests are ignored (a late feature).
  void deliver(RequestId id, std::int32_t peer, std::uint32_t tag, net::Value value);
  /// The peer will not deliver any more: its outstanding receives become absent now.
  void peer_lost(std::int32_t peer);
  void cancel(RequestId id);

  /// Runs one instruction that is ready, oldest request first. False: nothing is ready.
  bool step(Clock::time_point now);
  /// When step() must be called again though nothing was delivered.
  std::optional<Clock::time_point> next_timer() const;
  std::size_t in_flight() const;

 private:
  struct Request;
  Engine& engine_;
  Hooks hooks_;
  std::map<RequestId, std::unique_ptr<Request>> requests_;
};

}  // namespace cleave::infer
