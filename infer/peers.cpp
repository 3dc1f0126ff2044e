#include "infer/peers.hpp"

#include <algorithm>
#include <random>
#include <utility>
#include <variant>

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

/// When an agent that was busy is asked again though nothing of ours has ended there.
constexpr auto busy_pause = 10ms;
/// Requests that end on an agent that was busy before it is offered one more at a time.
constexpr std::size_t ended_before_one_more = 16;

}  // namespace

void Window::open(std::size_t offered) {
  offered_ = size_ = std::max<std::size_t>(1, offered);
  ended_ = 0;
  outstanding_.clear();
}

void Window::busy(Id id) {
  outstanding_.erase(id);
  size_ = std::max<std::size_t>(1, outstanding_.size());
  ended_ = 0;
}

void Window::ended(Id id, bool others_wait) {
  outstanding_.erase(id);
  if (outstanding_.empty() && !others_wait) size_ = offered_;
  if (size_ < offered_ && ++ended_ >= ended_before_one_more) {
    ++size_;
    ended_ = 0;
  }
}

Peer::Peer(boost::asio::io_context& io, net::DialOptions dial, Events events)
    : device_(dial.hello.device),
      address_(dial.address),
      epoch_(dial.hello.epoch),
      events_(std::move(events)),
      pause_(io) {
  net::Address::parse(address_);  // throws here, not on the I/O thread
  net::Dialer::Events heard;
  heard.joined = [this](const net::Welcome& welcome) { join(welcome); };
  heard.message = [this](net::Connection::Received received) { receive(std::move(received)); };
  heard.lost = [this](const std::string& why) { lose(why); };
  heard.failed = [this](const std::string& why) { fail_to_dial(why); };
  std::random_device seed;
  dialer_ = std::make_shared<net::Dialer>(io, std::move(dial), std::move(heard), seed());
}

void Peer::stop() {
  stopped_ = true;
  dialer_->stop();
}

AgentStatus Peer::status() const {
  AgentStatus agent;
  agent.device = device_;
  agent.address = address_;
  agent.connected = joined();
  agent.last_error = last_error_;
  agent.answered = answered_;
  if (const auto& connection = dialer_->connection()) {
    agent.memory_bytes = connection->last_pong().memory_bytes;
    agent.round_trip_s = connection->round_trip().count();
  }
  agent.queued = static_cast<std::int64_t>(queued());
  return agent;
}

void Peer::withdraw(Id id) { std::erase(waiting_, id); }

void Peer::offer() {
  while (joined() && !waiting_.empty() && window_.has_room()) {
    const auto id = waiting_.front();
    waiting_.pop_front();
    events_.offer(id);
  }
}

std::uint64_t Peer::admit(const net::Admit& admit) {
  const auto bytes = dialer_->connection()->send(admit);
  window_.sent(admit.request);
  return bytes;
}

void Peer::cancel(Id id) {
  if (!window_.holds(id) || !dialer_->connection()) return;
  net::Cancel cancel;
  cancel.request = id;
  cancel.epoch = epoch_;
  dialer_->connection()->send(cancel);
}

void Peer::end_sequence(std::uint64_t sequence) {
  if (!dialer_->connection()) return;
  net::EndSequence end;
  end.sequence = sequence;
  end.epoch = epoch_;
  dialer_->connection()->send(end);
}

void Peer::join(const net::Welcome& welcome) {
  draining_ = false;
  last_error_.clear();
  window_.open(welcome.max_requests);
  log("joined at " + address_);
  events_.changed();
}

void Peer::lose(const std::string& why) {
  last_error_ = why;
  window_.clear();
  waiting_.clear();
  pause_.cancel();
  if (!stopped_) log("lost: " + why);
  events_.changed();
  events_.lost(why);
}

void Peer::fail_to_dial(const std::string& why) {
  if (last_error_ != why) log(address_ + ": " + why + "; dialling on");
  last_error_ = why;
}

void Peer::receive(net::Connection::Received received) {
  auto& message = received.message;
  const auto id = net::envelope_of(message).request;
  const auto end = [&](const std::string& why) {
    release(id);
    events_.ended(id, why);
  };
  if (auto* value = std::get_if<net::ValueMessage>(&message)) {
    if (value->last) release(id);
    events_.value(std::move(*value), received.wire_bytes);
  } else if (std::holds_alternative<net::Busy>(message)) {
    take_busy(id, received.wire_bytes);
  } else if (std::holds_alternative<net::Done>(message)) {
    end("ended without a value");
  } else if (const auto* failed = std::get_if<net::Failed>(&message)) {
    end("failed: " + failed->text);
  } else if (const auto* abort = std::get_if<net::Abort>(&message)) {
    end("aborted: " + abort->text);
  } else if (std::holds_alternative<net::Drain>(message)) {
    draining_ = true;
    last_error_ = "draining";
    log("draining");
    events_.changed();
    events_.draining();
  } else if (!std::holds_alternative<net::Bye>(message)) {
    dialer_->connection()->close(net::Errc::unexpected_message);
  }
}

void Peer::take_busy(Id id, std::uint64_t wire_bytes) {
  window_.busy(id);
  if (events_.busy(id, wire_bytes)) waiting_.push_front(id);
  if (!joined()) return events_.draining();
  if (window_.outstanding() > 0 || waiting_.empty()) return;
  // Somebody else's requests fill the agent: nothing of ours will end there and tell.
  pause_.expires_after(busy_pause);
  pause_.async_wait([this](boost::system::error_code error) {
    if (!error) offer();
  });
}

/// The agent holds nothing of the request any more.
void Peer::release(Id id) {
  window_.ended(id, !waiting_.empty());
  offer();
}

}  // namespace cleave::infer
