#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/log.hpp"
#include "infer/observation.hpp"
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
  std::size_t offered() const { return offered_; }

 private:
  std::size_t offered_ = 1, size_ = 1;
  std::size_t ended_ = 0;  // since the size changed
  std::set<Id> outstanding_;
};

/// What a request's part on one device is expected to take, and what it gets at least.
struct Expected {
  std::chrono::milliseconds least_wait{0};
  double predicted_s = 0;  // 0: nothing is predicted
};

/// When the open requests of one device are late.
///
/// A device computes one request at a time, so one that is well answers the last of a full window
/// later than a request alone takes; and one that is stuck must not gain time by what it owes.
///
/// The rule: a request is late max(least wait, lateness · (predicted time + that of the requests
/// ahead of it)) after its sending, or after the answer of one ahead of it, whichever came later.
/// Ahead are those sent before it that are open and not late themselves: one that was given up,
/// canceled or is late lengthens nobody's patience. So each answer in time gives all behind it a
/// patience of their own, and a device that falls silent is late with all that it has when the
/// oldest of them is. The time of a request that waits to be sent counts from its coming here,
/// because a device that still owes others may never be sent it.
class Patience {
 public:
  using Id = std::uint64_t;
  using Time = Clock::time_point;
  using Seconds = std::chrono::duration<double>;
  explicit Patience(double lateness) : lateness_(lateness) {}
  /// With a request that has nothing ahead.
  Seconds alone(const Expected& expected) const;
  /// Behind all others. Where nothing is predicted it is never late by itself.
  void add(Id id, Time now, const Expected& expected);
  /// Again, after *busy*: its time does not begin anew.
  void sent(Id id, Time now);
  void answered(Id id, Time now);
  /// Nobody waits for it any more.
  void remove(Id id);
  void clear() { entries_.clear(); }
  /// Those that have become late since the last call.
  std::vector<Id> take_late(Time now);
  /// When the next one is late, if nothing happens until then.
  std::optional<Time> next() const;

 private:
  struct Entry {
    Id id = 0;
    Time since;
    Expected expected;
    bool sent = false, late = false;
  };
  /// `ahead_s` is raised by the entry.
  std::optional<Time> late_at(const Entry& entry, double* ahead_s) const;
  Entry* find(Id id);

  double lateness_;
  std::vector<Entry> entries_;  // in the order of sending
};

/// Whether a device is asked: one that lets others wait is ejected, as Envoy's outlier detection
/// does.
///
/// After 3 requests in a row that went on without it because it was late, or 5 of its last 10, it
/// is to be ejected. Then it is probed, one probe at a time: the first after a pause of 1 s, after
/// a failed one the pause doubles up to 30 s, after one in time the next follows at once. After 3
/// in time together it is back. A device that is ejected again before it has answered 10 in time
/// goes on with twice the pause that it had.
class Standing {
 public:
  using Time = Clock::time_point;
  void in_time();
  /// True: it is to be ejected, if others are there.
  bool late();
  void eject(Time now);
  /// Without probes: nobody else is there.
  void reinstate();
  bool ejected() const { return ejected_; }
  bool wants_probe(Time now) const { return ejected_ && !probing_ && now >= probe_at_; }
  void probe_sent() { probing_ = true; }
  /// True: it is back.
  bool probe_in_time();
  void probe_failed(Time now);
  std::chrono::milliseconds pause() const { return pause_; }

 private:
  std::deque<bool> recent_;  // late?
  int late_in_a_row_ = 0, in_time_since_back_ = 0, probes_in_time_ = 0;
  bool ejected_ = false, probing_ = false;
  std::chrono::milliseconds pause_{0};
  Time probe_at_;
};

/// Sees that a device steadily computes longer than predicted: median of 20 answers above 3 times.
class Pace {
 public:
  /// How many times the predicted time it needs, once.
  std::optional<double> add(double compute_s, double predicted_s);

 private:
  std::deque<double> ratios_;
  bool told_ = false;
};

/// Why the part of an ejected device is missing.
constexpr char ejected_late[] = "ejected: late";

/// What a device is sent of a request, at once.
struct Offer {
  net::Admit admit;
  std::vector<net::ValueMessage> values;  // that the aggregator's program sends it
  /// Null: nobody is told when they were sent. Else of that program, and the device's rank there.
  std::shared_ptr<Observation> observation;
  std::int32_t rank = 0;
};

/// One agent as seen from the aggregator: dials it for ever, sends it requests as its window
/// allows, the oldest first, and hands on what it says; knows when they are late, and whether it is
/// ejected. All calls on the I/O thread.
class Peer {
 public:
  using Id = std::uint64_t;
  struct Events {
    /// It joined, was lost, drains, or was not reached: joined() or out_of_reach() may say
    /// something else.
    std::function<void()> changed;
    /// What waited to be sent is forgotten.
    std::function<void(const std::string& why)> lost;
    /// What waits will not be sent.
    std::function<void()> draining;
    std::function<void(net::ValueMessage, const Arrival&)> value;
    /// It did not take the request. True: it is to be offered again, before all others.
    std::function<bool(Id, const std::string& why, std::uint64_t wire_bytes)> busy;
    /// All that the request has there was computed.
    std::function<void(Id, const net::Done&)> done;
    /// No further value of the request will come; `refused`: the agent says that it cannot be
    /// computed.
    std::function<void(Id, const std::string& why, bool refused)> ended;
    /// The request's turn has come: admit() it, or leave it.
    std::function<void(Id)> offer;
    /// Late from now on. They stay here until they are withdrawn.
    std::function<void(const std::vector<Id>&)> late;
    base::Log log;
  };
  /// The plans in which it takes part, and where others are, where that is set, are said to it
  /// whenever there is a connection.
  Peer(boost::asio::io_context& io, net::DialOptions dial, double lateness, Events events,
       std::vector<net::PlanMessage> plans, std::optional<net::Routes> routes = {});
  void start();
  /// No event comes after it.
  void stop();

  const std::string& device() const { return device_; }
  const std::string& address() const { return address_; }
  /// There is a connection, the agent has answered to all plans and serves one of them, and it
  /// takes new requests.
  bool joined() const { return is_open() && unanswered_.empty() && !served_.empty(); }
  /// It is joined and serves the plan of that digest.
  bool serves(const std::string& plan) const { return joined() && served_.count(plan) != 0; }
  /// Of one that is joined: what it said of a plan that it does not serve.
  std::string refusal(const std::string& plan) const {
    const auto found = refusals_.find(plan);
    return found == refusals_.end() ? "" : found->second;
  }
  bool ejected() const { return standing_.ejected(); }
  /// By how much its clock is ahead of ours, as far as that is known.
  double clock_ahead_s() const;
  /// Not joined, and dialled in vain for half a second or more.
  bool out_of_reach() const { return out_of_reach_; }
  /// Why it is not joined; empty where it was never tried.
  const std::string& last_error() const { return last_error_; }
  /// Requests that it has or that wait to be sent.
  std::size_t queued() const { return window_.outstanding() + waiting_.size(); }
  AgentStatus status() const;

  /// The request waits to be offered.
  void enqueue(Id id, const Expected& expected);
  /// It was sent the request and has not ended it.
  bool has(Id id) const { return window_.holds(id); }
  /// Nobody waits for it any more.
  void withdraw(Id id);
  /// Offers what waits, as much as the window takes.
  void offer();
  /// Returns the bytes sent.
  std::uint64_t admit(const Offer& offer);
  /// Tells the agent, where it has the request, that nobody waits for it.
  void cancel(Id id);
  void end_sequence(std::uint64_t sequence);
  /// The whole of a request's part came, and was used.
  void answered(Id id, double compute_s, double predicted_compute_s);

  /// A request went on without it because it was late. True: it is to be ejected.
  bool count_late() { return standing_.late(); }
  void eject();
  void reinstate();
  bool wants_probe() const { return joined() && standing_.wants_probe(Clock::now()); }
  /// Sends the copy of a request; the values of `tags` are waited for and thrown away. Part of
  /// nobody's request, answers or bytes.
  void probe(const Offer& offer, std::vector<std::uint32_t> tags, const Expected& expected);

 private:
  bool is_open() const { return dialer_->connection() && !draining_; }
  std::uint64_t send(const Offer& offer);
  void take_reply(const net::PlanReply& reply);
  struct Probe {
    Id id = 0;
    std::vector<std::uint32_t> tags;  // not yet received
    Clock::time_point late_at;
  };
  void join(const net::Welcome& welcome);
  void lose(const std::string& why);
  void fail_to_dial(const std::string& why);
  void receive(net::Connection::Received received);
  void take_busy(Id id, const std::string& why, std::uint64_t wire_bytes);
  void release(Id id);
  void take_probe(const net::Message& message);
  void fail_probe(const std::string& why);
  void come_back();
  void watch();
  void look_at_clock();
  void notice(const std::string& line) const {
    events_.log(base::LogLevel::notice, "[" + device_ + "] " + line);
  }
  void detail(const std::string& line) const {
    events_.log(base::LogLevel::detail, "[" + device_ + "] " + line);
  }

  std::string device_, address_;
  std::uint32_t epoch_;
  Events events_;
  std::shared_ptr<net::Dialer> dialer_;
  Window window_;
  std::deque<Id> waiting_;  // to be offered, oldest first
  Patience patience_;
  Standing standing_;
  Pace pace_;
  std::optional<Probe> probe_;
  boost::asio::steady_timer pause_, lateness_timer_;
  std::optional<Clock::time_point> watched_;  // when lateness_timer_ fires
  bool excused_ = false;                      // we were late ourselves
  bool draining_ = false, stopped_ = false, out_of_reach_ = false;
  Clock::time_point dialling_since_;
  std::string last_error_;
  std::int64_t answered_ = 0;
  std::vector<net::PlanMessage> plans_;
  std::optional<net::Routes> routes_;
  std::set<std::string> unanswered_, served_;    // digests, on this connection
  std::map<std::string, std::string> refusals_;  // of the others
};

}  // namespace cleave::infer
