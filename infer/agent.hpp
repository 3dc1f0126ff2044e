#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "infer/executor.hpp"
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
  /// Called once with the bound "host:port".
  std::function<void(const std::string&)> on_listening;
  std::function<void(const std::string&)> log;
};

/// Serves one part: two threads (I/O here, compute inside) until stop() or SIGTERM's drain(). Throws std::system_error when the
/// port cannot be bound; a lost connection never ends it.
class Agent {
 public:
  Agent(const plan::Bundle& bundle, const plan::Plan& plan, std::unique_ptr<Engine> engine, AgentOptions options);
  ~Agent();
  /// Blocks until stopped.
  void run();
  /// Any thread: no new requests; run() returns when those admitted are done.
  void drain();
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cleave::infer
