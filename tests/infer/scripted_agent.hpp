#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "net/mesh.hpp"

namespace cleave::infer {

/// An agent that says what the test tells it to, in answer to each admission.
class ScriptedAgent {
 public:
  using Script = std::function<std::vector<net::Message>(const net::Admit&)>;
  using Heard = std::function<void(const net::Message&)>;
  /// `heard` is told of everything that is no admission.
  explicit ScriptedAgent(Script script, Heard heard = {})
      : script_(std::move(script)), heard_(std::move(heard)) {
    net::spawn(io_, listener_.run([this](boost::asio::ip::tcp::socket socket) {
      net::spawn(io_,
                 serve(std::make_shared<net::Connection>(io_, net::tcp_stream(std::move(socket)),
                                                         net::ConnectionOptions{})),
                 {});
    }),
               {});
    thread_ = std::thread([this] { io_.run(); });
  }
  ~ScriptedAgent() {
    io_.stop();
    thread_.join();
  }
  std::string address() const { return listener_.address(); }
  /// Something later than in answer to an admission.
  void say(net::Message message) {
    boost::asio::post(io_, [this, message = std::move(message)] { connection_->send(message); });
  }

 private:
  boost::asio::awaitable<void> serve(std::shared_ptr<net::Connection> connection) {
    connection_ = connection;
    while (true) {
      auto receiving = connection->receive();
      auto received = co_await std::move(receiving);
      if (!received) co_return;
      if (const auto* hello = std::get_if<net::Hello>(&received->message)) {
        net::Welcome welcome;
        welcome.bundle = hello->bundle;
        welcome.device = hello->device;
        welcome.max_requests = 4;
        connection->send(welcome);
      } else if (const auto* plan = std::get_if<net::PlanMessage>(&received->message)) {
        net::PlanReply reply;
        reply.digest = plan->digest;
        connection->send(reply);
      } else if (const auto* admit = std::get_if<net::Admit>(&received->message)) {
        for (const auto& message : script_(*admit)) connection->send(message);
      } else if (heard_) {
        heard_(received->message);
      }
    }
  }
  Script script_;
  Heard heard_;
  boost::asio::io_context io_;
  net::Listener listener_{io_, "127.0.0.1:0", false};
  std::shared_ptr<net::Connection> connection_;
  std::thread thread_;
};

/// Admissions that wait for the test to answer them, oldest first.
class Admitted {
 public:
  void add(const net::Admit& admit) {
    const std::lock_guard lock(mutex_);
    open_.push_back(admit);
    most_ = std::max(most_, open_.size());
    ++count_;
  }
  std::optional<net::Admit> take() {
    const std::lock_guard lock(mutex_);
    if (open_.empty()) return {};
    auto first = std::move(open_.front());
    open_.pop_front();
    return first;
  }
  int count() const {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  /// The most that were open at once.
  std::size_t most() const {
    const std::lock_guard lock(mutex_);
    return most_;
  }

 private:
  mutable std::mutex mutex_;
  std::deque<net::Admit> open_;
  std::size_t most_ = 0;
  int count_ = 0;
};

inline net::ValueMessage value_for(const net::Admit& admit, float number, std::int64_t width = 8) {
  net::ValueMessage value;
  value.request = admit.request;
  value.epoch = admit.epoch;
  value.tag = 2;
  value.last = true;
  value.tensor.dims = {1, 1, width};
  const std::vector<float> numbers(static_cast<std::size_t>(width), number);
  value.tensor.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
  return value;
}

inline net::Busy busy_for(const net::Admit& admit) {
  net::Busy busy;
  busy.request = admit.request;
  busy.epoch = admit.epoch;
  busy.last = true;
  return busy;
}

}  // namespace cleave::infer
