#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "infer/executor.hpp"
#include "net/stream_wrap.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::infer {

struct AgentOptions {
  std::string device;
  std::string listen = "127.0.0.1:0";
  /// Listening beyond loopback needs this until there is TLS.
  bool insecure = false;
  /// Requests admitted at once (W).
  int max_requests = 4;
  /// Process memory this device gives; a program whose peak does not fit is refused. 0: no limit.
  double memory_bytes = 0;
  /// A text that is being generated and that nobody went on with for so long is forgotten.
  std::chrono::milliseconds sequence_idle = std::chrono::minutes(10);
  /// One that nobody went on with for so long may be forgotten to make room for another.
  std::chrono::milliseconds sequence_rest = std::chrono::seconds(10);
  /// What other agents may send here before their requests are admitted.
  std::uint64_t waiting_bytes = std::uint64_t{64} << 20;
  /// What is still admitted so long after drain() fails as "draining".
  std::chrono::milliseconds drain_patience = std::chrono::seconds(28);
  /// Called once with the bound "host:port", on the thread of run().
  std::function<void(const std::string&)> on_listening;
  /// On the thread of run().
  base::Log log;
  net::StreamWrap wrap_stream;
  /// The host that it dials other agents from; empty: whichever the system takes.
  std::string dial_from;
  /// Throws std::invalid_argument.
  void check() const;
};

/// Serves a device's part of a bundle to whichever aggregator connects, also to several, and to the
/// next when one dies: every plan that it is sent whose weights it holds. Where programs exchange
/// values, agents link to each other where an aggregator
/// says that they are, and every message's role, rank and request are checked.
///
/// Two threads: I/O in run(), computing inside. A request is admitted when fewer than W are and its
/// peak, with the keys and values of a sequence that begins, fits in the memory given beside what
/// is admitted and kept. Else the sequences that rested longest are forgotten, which is logged, and
/// told to whoever goes on with them; where that is not enough the answer is *busy* if other
/// requests hold the room, and *failed* if not. A lost connection ends its requests and sequences,
/// nothing more.
class Agent {
 public:
  /// `plans`: those whose weights the engine holds. Listens, and returns when the engine is
  /// prepared. Throws std::system_error where the port cannot be bound, std::invalid_argument where
  /// a plan has no such device or an option is out of range, and what the engine throws.
  Agent(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans,
        std::unique_ptr<Engine> engine, AgentOptions options);
  ~Agent();
  /// Blocks until stopped or drained.
  void run();
  /// Any thread: no new requests; run() returns when those admitted are done, or shortly (2 s)
  /// after `drain_patience`.
  void drain();
  /// Any thread: run() returns now.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cleave::infer
