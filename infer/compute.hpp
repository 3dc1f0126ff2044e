#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "infer/executor.hpp"
#include "optimizer/plan/plan.hpp"

namespace cleave::infer {

/// The compute thread: an executor that runs whenever something is ready, and otherwise sleeps. The
/// other threads hand it requests and values and get events back; the engine is prepared, used and
/// freed on it alone. Once idle for a second it gives the system the memory that large requests
/// took.
class Compute {
 public:
  using RequestId = Executor::RequestId;
  struct Event {
    enum class What { send, output, failed, finished, dropped };
    What what = What::finished;
    RequestId id = 0;
    std::int32_t peer = -1;  // send; failed: who was lost, or −1
    std::uint32_t tag = 0;   // send
    net::Value value;        // send, output
    RunTimes times;          // send, output, finished
    std::string text;        // failed
    std::vector<Ran> ran;    // finished, of one that is recorded
  };
  /// Called on the compute thread with what one step brought, in order.
  using OnEvents = std::function<void(std::vector<Event>)>;

  /// Starts the thread and waits until the engine is prepared; throws what prepare() throws.
  Compute(std::unique_ptr<Engine> engine, OnEvents on_events);
  /// Ends after the instruction that runs.
  ~Compute();

  /// Any thread.
  void admit(RequestId id, std::shared_ptr<const plan::Program> program,
             std::vector<net::Value> inputs, Clock::time_point deadline,
             const Sequence& sequence = {}, std::size_t most_recorded = 0);
  /// Frees what the engine keeps of a sequence, after what was admitted before.
  void forget(std::uint64_t sequence);
  void deliver(RequestId id, std::int32_t peer, std::uint32_t tag, net::Value value);
  /// No value of the request comes from this rank any more: where one must, it fails.
  void peer_lost(RequestId id, std::int32_t peer);
  /// Answered by `dropped`, once nothing of the request is held any more.
  void cancel(RequestId id);

 private:
  using Task = std::function<void(Executor&)>;
  void post(RequestId id, Task task);
  void work(Executor& executor);
  void rest();
  void perform(Executor& executor, RequestId id, const Task& task);
  Executor::Hooks hooks();
  void hand_over_events();

  OnEvents on_events_;
  std::vector<Event> events_;  // compute thread only
  std::vector<Ran> ran_;       // of what finishes next; compute thread only
  double rested_bytes_ = 0;    // resident when it last rested; compute thread only
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::pair<RequestId, Task>> inbox_;  // guarded
  bool stopping_ = false;                          // guarded
  std::thread thread_;
};

}  // namespace cleave::infer
