#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/log.hpp"
#include "infer/aggregator.hpp"

namespace cleave::infer {

/// In a server's model_json beside the config: what the weights are, as plan::name_of says, by
/// plan; and which plan answers where none is named.
constexpr char plans_key[] = "cleave_plans", default_plan_key[] = "cleave_plan";

struct ServerOptions {
  std::string listen = "127.0.0.1:0";
  /// Listening beyond loopback needs this until there is TLS.
  bool insecure = false;
  /// Connections at once; one more is refused.
  std::size_t max_clients = 1024;
  /// For the requests of all clients together, from their arrival until they are computed; one that
  /// is larger, or finds no room within 5 s, is answered `overloaded`.
  std::uint64_t request_bytes = std::uint64_t{1} << 28;
  /// How long a server that drains waits for the next step of a text; at most `drain_patience`.
  std::chrono::milliseconds text_patience{30000};
  /// What is still open so long after drain() is answered `overloaded`, "draining".
  std::chrono::milliseconds drain_patience{28000};
  /// Called once with the bound "host:port", on the thread of run().
  std::function<void(const std::string&)> on_listening;
  /// On the I/O thread.
  base::Log log;
};

/// The native protocol in front of an aggregator (`cleave serve`), on the aggregator's I/O thread.
/// Ends before the aggregator.
class Server {
 public:
  /// Listens. Throws std::system_error where the port cannot be bound, std::invalid_argument beyond
  /// loopback.
  Server(Aggregator& aggregator, const plan::Bundle& bundle, ServerOptions options);
  ~Server();
  /// Accepts clients; blocks until drained or stopped.
  void run();
  /// Any thread: no new requests or texts; run() returns when those in flight are answered and the
  /// texts under way have ended or rest, or shortly (2 s) after `drain_patience`.
  void drain();
  /// Any thread: run() returns now; open requests are canceled.
  void stop();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cleave::infer
