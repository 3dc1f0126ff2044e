#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "infer/service.hpp"
#include "net/stream_wrap.hpp"
#include "optimizer/plan/bundle.hpp"

namespace boost::asio {
class io_context;
}
namespace cleave::infer {

struct AggregatorOptions {
  /// device -> "host:port".
  std::map<std::string, std::string> hosts;
  /// Requests waiting (Q); beyond it the answer is `overloaded`.
  int max_queue = 64;
  /// Requests in flight at once, over all agents.
  int max_in_flight = 4;
  /// A device is late max(min_wait, lateness · its predicted time) after it was sent a request; the
  /// prediction is scaled by the batch and by the tokens, and those of our requests that it still
  /// has before this one are added (peers.hpp has the rule). The answer waits for nobody who is
  /// late, except for the first; without a prediction the deadline decides.
  double lateness = 3;
  std::chrono::milliseconds min_wait{50};
  /// The same where a text is generated: who is given up there is missing to its end.
  std::chrono::milliseconds min_wait_in_text{2000};
  /// On the I/O thread.
  base::Log log;
  /// Of the connections to agents.
  net::StreamWrap wrap_stream;
  /// The host that it dials from; empty: whichever the system takes.
  std::string dial_from;
  /// Throws std::invalid_argument.
  void check() const;
};

/// Fans out, waits, merges, answers. Dials the agents with back-off; one that starts late is
/// joined; one that dies or is late is an outcome: the answer comes from the rest and says so, and
/// no request is answered after its deadline. One that is late again and again is ejected: left out
/// at once, and asked again after probes, copies of requests, were answered in time. Requests with
/// require_all take at most half of the places in flight.
///
/// Owns its I/O thread and its compute thread. Thread-safe, except that drain() and the destructor,
/// which answers what is in flight with `canceled`, must not be called from a callback.
class Aggregator : public Service {
 public:
  /// The first of `plans` answers where a request names none; each device is told of those in which
  /// it takes part. Throws std::invalid_argument.
  Aggregator(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans,
             std::unique_ptr<Engine> fusion, AggregatorOptions options);
  ~Aggregator() override;
  /// Waits until `count` agents are joined (0: all), at most `timeout`. Returns how many are.
  int wait_for_agents(int count, std::chrono::milliseconds timeout);
  /// Waits until every agent is joined, or some are and the others were dialled in vain for half a
  /// second, at most `timeout`. Returns how many are joined.
  int wait_for_those_in_reach(std::chrono::milliseconds timeout);
  std::uint64_t submit(Request request, std::function<void(Response)> on_done) override;
  void cancel(std::uint64_t id) override;
  std::uint64_t new_sequence() override;
  void end_sequence(std::uint64_t id) override;
  std::vector<AgentStatus> status() const;
  /// No new requests; returns when those in flight are answered.
  void drain();

 private:
  friend class Server;  // its connections live on this I/O thread: no hand-over between client and
                        // aggregator
  boost::asio::io_context& io();
  /// The default one first.
  std::vector<const plan::Plan*> plans() const;
  /// Requests that it takes at once, in flight and waiting.
  std::size_t places() const;

  struct State;
  std::shared_ptr<State> state_;
};

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

/// A connection to a running server (`cleave infer --via`): many requests in flight over it.
class Client : public Service {
 public:
  /// `plan`: who answers requests that name none; empty: the server's default one. Throws
  /// std::runtime_error "[host:port] cannot connect: …" or when the handshake is refused.
  explicit Client(const std::string& address, std::string plan = {},
                  std::chrono::milliseconds timeout = std::chrono::seconds(5));
  ~Client() override;
  std::uint64_t submit(Request request, std::function<void(Response)> on_done) override;
  void cancel(std::uint64_t id) override;
  std::uint64_t new_sequence() override;
  void end_sequence(std::uint64_t id) override;
  /// Asks the server for its agents and plans. Throws std::runtime_error.
  ServiceStatus status();
  /// Teacher's config as JSON (input shape, labels), from the handshake.
  const std::string& model_json() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cleave::infer
