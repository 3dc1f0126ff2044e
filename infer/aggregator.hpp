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
  /// What each device sends of a step, where tokens are asked for.
  std::int64_t candidates = plan::usual_best;
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

}  // namespace cleave::infer
