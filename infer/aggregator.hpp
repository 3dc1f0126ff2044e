#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "infer/service.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::infer {

struct AggregatorOptions {
  /// device -> "host:port".
  std::map<std::string, std::string> hosts;
  /// Requests waiting (Q); beyond it the answer is `overloaded`.
  int max_queue = 64;
  /// Requests in flight at once, over all agents.
  int max_in_flight = 4;
  /// A late device is waited for until min(deadline, lateness · its predicted time), at least min_wait.
  double lateness = 3;
  std::chrono::milliseconds min_wait{50};
  std::function<void(const std::string&)> log;
};

/// Fans out, waits, merges, answers. Dials the agents with back-off; one that starts late is joined; one that dies is an
/// outcome. Owns its I/O thread and its compute thread. Thread-safe.
class Aggregator : public Service {
 public:
  Aggregator(const plan::Bundle& bundle, const plan::Plan& plan, std::unique_ptr<Engine> fusion, AggregatorOptions options);
  ~Aggregator() override;
  /// Waits until `count` agents are joined (0: all), at most `timeout`. Returns how many are.
  int wait_for_agents(int count, std::chrono::milliseconds timeout);
  std::uint64_t submit(Request request, std::function<void(Response)> on_done) override;
  void cancel(std::uint64_t id) override;
  std::vector<AgentStatus> status() const;
  /// No new requests; returns when those in flight are answered.
  void drain();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

struct ServerOptions {
  std::string listen = "127.0.0.1:0";
  bool insecure = false;
  std::function<void(const std::string&)> on_listening;
  std::function<void(const std::string&)> log;
};

/// The native protocol in front of an aggregator (`cleave serve`). run() blocks until drain() or stop().
class Server {
 public:
  Server(Aggregator& aggregator, const plan::Bundle& bundle, ServerOptions options);
  ~Server();
  void run();
  void drain();
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A connection to a running server (`cleave infer --via`): many requests in flight over it.
class Client : public Service {
 public:
  /// Throws std::runtime_error "[host:port] cannot connect: …" or when the handshake is refused.
  explicit Client(const std::string& address, std::chrono::milliseconds timeout = std::chrono::seconds(5));
  ~Client() override;
  std::uint64_t submit(Request request, std::function<void(Response)> on_done) override;
  void cancel(std::uint64_t id) override;
  /// Asks the server for its agents. Throws std::runtime_error.
  std::vector<AgentStatus> status();
  /// Teacher's config as JSON (input shape, labels), from the handshake.
  const std::string& model_json() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cleave::infer
