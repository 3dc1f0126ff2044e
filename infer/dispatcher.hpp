#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/log.hpp"
#include "infer/compute.hpp"
#include "infer/jobs.hpp"
#include "infer/roster.hpp"
#include "infer/sequences.hpp"

namespace cleave::infer {

/// Brings the jobs that run to the agents and what they answer to the compute thread; gives up who
/// is lost or late, and ends jobs that cannot be answered any more. It does what Job, Sequences and
/// Roster say, and owns the jobs' timers. All calls on the I/O thread.
class Dispatcher {
 public:
  using Id = Job::Id;
  struct Options {
    /// A device has at least this long before it is late; the second where a text is generated.
    std::chrono::milliseconds min_wait{0}, min_wait_in_text{0};
    std::uint32_t epoch = 0;
    /// Of the numbers that vary the pauses before a job is offered again.
    std::uint32_t seed = 0;
  };
  struct Hooks {
    /// The job is over, without an output: removes it and calls forget().
    std::function<void(Id, Status, const std::string& message)> end;
    /// A device has told what it did for a job that is observed, or never will.
    std::function<void(Id)> told;
    /// A number that no job has.
    std::function<Id()> new_id;
    base::Log log;
  };
  /// What it works on, until the I/O thread ends.
  struct Parts {
    boost::asio::io_context& io;
    Jobs& jobs;
    Sequences& sequences;
    Roster& roster;
    Compute& compute;
  };
  Dispatcher(const Parts& parts, const Options& options, Hooks hooks);

  /// What is done where the device's agent says something.
  Peer::Events events_of(std::size_t device);
  /// Wakes for the job at its time, until forget().
  void watch(const Job& job);
  /// Sends the job, which has its plan and programs, to its devices; it takes a place. It may have
  /// ended when this returns.
  void launch(Job& job);
  /// Sends copies of the job to ejected devices whose turn it is.
  void probe_with(const Job& job);
  /// No probes any more.
  void drain() { draining_ = true; }
  /// The job is over: whoever still works on it is told. `computed`: the compute thread is done
  /// with it.
  void forget(const Job& job, bool computed);

 private:
  struct Timers {
    explicit Timers(boost::asio::io_context& io) : wake(io), retry(io) {}
    boost::asio::steady_timer wake, retry;
  };

  // What agents say.
  void take_value(std::size_t device, net::ValueMessage message, const Arrival& arrival);
  void take_account(Job& job, std::size_t device, net::Account account);
  bool take_busy(std::size_t device, Id id, const std::string& why, std::uint64_t wire_bytes);
  void take_done(std::size_t device, Id id, const net::Done& done);
  void take_ended(std::size_t device, Id id, const std::string& why, bool refused);
  void take_late(std::size_t device, const std::vector<Id>& ids);
  void take_lost(std::size_t device, const std::string& why);
  void take_whole_contribution(Job& job, std::size_t device);

  // What they are sent.
  std::chrono::milliseconds least_wait_of(const Request& request) const;
  std::string why_left_out(const Job& job, std::size_t device) const;
  void enqueue(const Job& job, std::size_t device);
  void send_admit(std::size_t device, Id id);
  Offer offer_of(const Job& job, Id id, std::size_t device) const;
  void fuse(const Job& job);
  void deliver_absent(Job& job, std::size_t device);
  void take_back(Job& job);
  void offer_again_if_returned(Job& job);
  void offer_again(Id id);

  // Who is given up.
  void timer_fired(Id id);
  void give_up_if_in_vain(Id id);
  void give_up(Job& job, Clock::time_point now);
  void go_on_without(Id id, std::size_t device, const std::string& why);
  void lose_all(std::size_t device, Contribution::Stage stage, const std::string& why);
  bool lose(Id id, std::size_t device, const std::string& why);
  bool ask_ejected(Job& job);
  void count_late(const std::vector<std::size_t>& devices);
  void give_up_ejected(std::size_t device);
  void log_left(std::size_t device, Sequences::Id text, const std::string& why) const;

  boost::asio::io_context& io_;
  Jobs& jobs_;
  Sequences& sequences_;
  Roster& roster_;
  Compute& compute_;
  Options options_;
  Hooks hooks_;
  std::minstd_rand random_;
  std::map<Id, Timers> timers_;
  bool draining_ = false;
};

}  // namespace cleave::infer
