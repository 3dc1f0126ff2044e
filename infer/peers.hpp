#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "infer/service.hpp"
#include "net/mesh.hpp"

namespace cleave::infer {

/// Which of our requests a device has, and how many it takes at once: what it said when it joined;
/// after *busy* as many as it had then, one more for each 16 that end, and all again once it is
/// idle.
class Window {
 public:
  using Id = std::uint64_t;
  /// A new connection: nothing is there.
  void open(std::size_t offered);
  bool has_room() const { return outstanding_.size() < size_; }
  bool holds(Id id) const { return outstanding_.count(id) != 0; }
  /// Requests sent and not ended, canceled ones too.
  std::size_t outstanding() const { return outstanding_.size(); }
  void sent(Id id) { outstanding_.insert(id); }
  /// The device did not take it.
  void busy(Id id);
  /// The device holds nothing of it any more. `others_wait`: to be sent.
  void ended(Id id, bool others_wait);
  void clear() { outstanding_.clear(); }

 private:
  std::size_t offered_ = 1, size_ = 1;
  std::size_t ended_ = 0;  // since the size changed
  std::set<Id> outstanding_;
};

/// One agent as seen from the aggregator: dials it for ever, sends it requests as its window
/// allows, the oldest first, and hands on what it says. All calls on the I/O thread.
class Peer {
 public:
  using Id = std::uint64_t;
  struct Events {
    /// It joined, was lost, or drains: joined() says something else.
    std::function<void()> changed;
    /// What waited to be sent is forgotten.
    std::function<void(const std::string& why)> lost;
    /// What waits will not be sent.
    std::function<void()> draining;
    std::function<void(net::ValueMessage, std::uint64_t wire_bytes)> value;
    /// It did not take the request. True: it is to be offered again, before all others.
    std::function<bool(Id, std::uint64_t wire_bytes)> busy;
    /// No further value of the request will come.
    std::function<void(Id, const std::string& why)> ended;
    /// The request's turn has come: admit() it, or leave it.
    std::function<void(Id)> offer;
    std::function<void(const std::string&)> log;
  };
  Peer(boost::asio::io_context& io, net::DialOptions dial, Events events);
  void start() { dialer_->start(); }
  /// No event comes after it.
  void stop();

  const std::string& device() const { return device_; }
  const std::string& address() const { return address_; }
  /// There is a connection, and the agent takes new requests.
  bool joined() const { return dialer_->connection() && !draining_; }
  /// Why it is not joined; empty where it was never tried.
  const std::string& last_error() const { return last_error_; }
  /// Requests that it has or that wait to be sent.
  std::size_t queued() const { return window_.outstanding() + waiting_.size(); }
  AgentStatus status() const;

  /// The request waits to be offered.
  void enqueue(Id id) { waiting_.push_back(id); }
  /// Nobody wants it sent any more.
  void withdraw(Id id);
  /// Offers what waits, as much as the window takes.
  void offer();
  /// Returns the bytes sent.
  std::uint64_t admit(const net::Admit& admit);
  /// Tells the agent, where it has the request, that nobody waits for it.
  void cancel(Id id);
  void end_sequence(std::uint64_t sequence);
  void count_answer() { ++answered_; }

 private:
  void join(const net::Welcome& welcome);
  void lose(const std::string& why);
  void fail_to_dial(const std::string& why);
  void receive(net::Connection::Received received);
  void take_busy(Id id, std::uint64_t wire_bytes);
  void release(Id id);
  void log(const std::string& line) const { events_.log("[" + device_ + "] " + line); }

  std::string device_, address_;
  std::uint32_t epoch_;
  Events events_;
  std::shared_ptr<net::Dialer> dialer_;
  Window window_;
  std::deque<Id> waiting_;  // to be offered, oldest first
  boost::asio::steady_timer pause_;
  bool draining_ = false, stopped_ = false;
  std::string last_error_;
  std::int64_t answered_ = 0;
};

}  // namespace cleave::infer
