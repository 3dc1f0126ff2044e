#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "infer/service.hpp"

namespace cleave::infer {

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
