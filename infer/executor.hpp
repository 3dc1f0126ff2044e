#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "infer/slots.hpp"
#include "net/buffer.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::infer {

using Clock = std::chrono::steady_clock;

/// Where the time of one request on one device went, from its admission to now: computing; nothing
/// of it ready, so that it waits for peers; and the rest, in which it is ready but behind others.
struct RunTimes {
  double queued_s = 0, compute_s = 0, wait_s = 0;
};

/// When instructions of a request ran.
struct Ran {
  enum class What {
    instruction,  // one
    stretch,      // from this one on, until values left or nothing was ready
    idle,         // nothing was ready, before this one or whatever came instead
  };
  What what = What::instruction;
  std::size_t instruction = 0, last = 0;  // the second: of a stretch
  Clock::time_point start, end;
};

/// The device's side of running programs: keeps each request's values, runs instructions when their
/// operands are there, interleaves requests oldest first, never blocks on a receive. Work is linear
/// in the program: what an instruction misses is counted. All calls on
/// the compute thread; no sockets, no libtorch; it decides by the time that the caller passes, and
/// looks at a clock only to fill RunTimes. Hooks are called from step() alone and may call back; a
/// value is freed after its last use.
class Executor {
 public:
  using RequestId = std::uint64_t;
  /// Any of them may be empty.
  struct Hooks {
    /// A value to hand to a peer. The buffer is not written again.
    std::function<void(RequestId, std::int32_t peer, std::uint32_t tag, const net::Value&,
                       const RunTimes&)>
        send;
    /// The program's output.
    std::function<void(RequestId, const net::Value&, const RunTimes&)> output;
    /// The request ended: the engine threw, an input or a value that must come has the wrong shape,
    /// or its sender `lost` was (else −1).
    std::function<void(RequestId, const std::string& error, std::int32_t lost)> failed;
    /// All instructions have run.
    std::function<void(RequestId, const RunTimes&)> finished;
    /// Before `finished`, of a request that is recorded.
    std::function<void(RequestId, std::vector<Ran>)> ran;
    /// The request ended at its deadline.
    std::function<void(RequestId)> dropped;
  };
  Executor(Engine& engine, Hooks hooks);
  ~Executor();

  /// `inputs` feed `input` instructions in order. Receives marked may_be_absent become absent at
  /// `absent_at`; at `deadline` the request is dropped. False: the id is in flight, nothing
  /// changed. `most_recorded`: so many entries of what ran are kept for Hooks::ran.
  bool admit(RequestId id, std::shared_ptr<const plan::Program> program,
             std::vector<net::Value> inputs, Clock::time_point absent_at,
             Clock::time_point deadline, const Sequence& sequence = {},
             std::size_t most_recorded = 0);
  /// Frees what the engine keeps of a sequence, once its requests in flight have ended.
  void forget(std::uint64_t sequence);
  /// A value that a peer sent. Unknown requests, a value that came twice and one that came after
  /// its receive was given up are ignored. Returns what is wrong with the value ("value f_1 from
  /// rank 1: saw f32 [1, 1, 5], needs f32 [1, 1, 96]"), else empty; a wrong one that may be absent
  /// counts as absent, any other fails its request.
  /// `arrived`: what the request waits from then on it waits behind others, and not for the value.
  std::string deliver(RequestId id, std::int32_t peer, std::uint32_t tag, net::Value value,
                      Clock::time_point arrived = Clock::now());
  /// The peer will not deliver any more to the request: its outstanding receives become absent now;
  /// where one must come, the request fails.
  void peer_lost(RequestId id, std::int32_t peer);
  /// Forgets the request; no hook is called for it any more.
  void cancel(RequestId id);

  /// Runs one instruction that is ready, oldest request first, sends before computing. False:
  /// nothing is ready.
  bool step(Clock::time_point now);
  /// When step() must be called again though nothing was delivered.
  std::optional<Clock::time_point> next_timer() const;
  std::size_t in_flight() const;

 private:
  struct Request;
  struct ByAge {
    bool operator()(const Request* a, const Request* b) const;
  };
  Request* find(RequestId id) const;
  std::unique_ptr<Request> take(Request& request);
  bool computes(std::uint64_t sequence) const;
  void sort_in(Request& request, Clock::time_point changed_at = Clock::now());
  void settle();
  void take_out(Request& request);
  void run(Request& request, std::size_t instruction);
  void compute(Request& request, std::size_t instruction);
  void hand_over(Request& request, const plan::Instruction& instruction);
  void fail(Request& request, const std::string& error, std::int32_t lost = -1);
  void finish(Request& request);

  Engine& engine_;
  Hooks hooks_;
  std::unordered_map<RequestId, std::unique_ptr<Request>> requests_;
  std::uint64_t admitted_ = 0;
  RequestId computed_last_ = 0;         // whose computing the engine may not have ended
  std::set<Request*, ByAge> runnable_;  // something is ready, or wrong, or all is done
  std::set<std::tuple<Clock::time_point, std::uint64_t, Request*>> timers_;  // one each
  std::set<std::uint64_t> ended_;  // sequences to forget after their requests
};

}  // namespace cleave::infer
