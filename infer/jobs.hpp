#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "infer/observation.hpp"
#include "infer/served_plan.hpp"
#include "infer/service.hpp"

namespace cleave::infer {

class Batch;

// What an aggregator knows of the requests that are with it. No sockets, no timers and no threads:
// the caller says what time it is and does what it is told. Its I/O thread only.

/// Nobody waits longer for one answer.
constexpr std::chrono::milliseconds longest_deadline = std::chrono::hours(24);

/// Why the part of a device is missing that is not there.
constexpr char not_joined[] = "not joined";

/// One device's part in one request.
struct Contribution {
  enum class Stage {
    none,      // it has nothing to compute
    waiting,   // to be sent
    sent,      // its values are owed
    received,  // all of them
    lost,      // no more of them will come
    returned,  // the device does not have it, and the job is offered to all of them anew
  };
  bool is_open() const { return stage == Stage::waiting || stage == Stage::sent; }

  Stage stage = Stage::none;
  std::vector<std::uint32_t> tags;  // of its values
  std::vector<std::uint32_t> owed;  // of those that have not come
  bool must_come = false;           // one of its values may not be absent
  bool late = false;                // see Patience
  bool refused = false;             // the device says that it cannot compute the request
  bool wrong = false;               // what came is no value of its
  double predicted_compute_s = 0;   // 0: nothing is predicted
  bool tells_no_more = false;       // its account has come, or will not
  DeviceReport report;
  Clock::time_point sent_at, decided_at;  // decided: received or lost
};

/// What the plan predicts of a request on a device.
plan::Expectation expectation_of(const Request& request, const FleetPlan& plan,
                                 const std::string& device);

/// The contributions of a request that is to be sent, by device, none of them sent.
std::vector<Contribution> contributions_of(const Request& request, const FleetPlan& plan,
                                           const Programs::Ranks& programs,
                                           const std::vector<std::string>& devices);

/// One request until it is answered: who owes which part of it, who is waited for until when, and
/// what the answer says of the devices.
///
/// It waits for nobody who is late (see Patience), as long as one part has come, and never so long
/// that the answer would miss the deadline. Where all are late and nothing has come it is *overdue*
/// and waits for the first part; then the others get a moment, the least wait.
class Job {
 public:
  using Id = std::uint64_t;
  using Time = Clock::time_point;
  /// What a lost contribution leaves of the request.
  enum class Loss {
    bearable,  // it goes on without
    needed,    // it cannot be answered
    last,      // nobody else has a part or will send one
  };

  Job(Id id, Request request, std::function<void(Response)> on_done, Time submitted, Time deadline);

  const Id id;
  Request request;
  std::function<void(Response)> on_done;
  const Time submitted, deadline;
  Time arrived;               // on the I/O thread
  FleetPlan* plan = nullptr;  // with `programs`: before launch()
  std::shared_ptr<const Programs::Ranks> programs;
  std::int64_t best = 0;         // of the programs' shape: see plan::RequestShape
  bool from_kept = false;        // the same
  std::shared_ptr<Batch> batch;  // where it is a piece of one
  /// Of what the aggregator does itself, where the request is observed.
  std::shared_ptr<Observation> observation;
  /// What the request gives for an instruction of the aggregator's program.
  net::Value given(const plan::Input& input) const;
  /// When the request was submitted that it is, or is a piece of.
  Time begun_at() const;

  /// When it is looked at again, if nothing happens until then: see give_up().
  Time wakes_at() const { return wakes_at_; }

  // ---- on its way to the devices ----

  /// The contributions are to be sent; every device gets at least `least_wait`.
  void launch(std::vector<Contribution> contributions, std::chrono::milliseconds least_wait,
              Time now);
  bool is_running() const { return running_; }
  std::chrono::milliseconds least_wait() const { return least_wait_; }
  /// By device; none before launch(). A device's number beyond them throws std::out_of_range.
  const std::vector<Contribution>& contributions() const { return contributions_; }
  const Contribution& contribution(std::size_t device) const { return contributions_.at(device); }
  void mark_sent(std::size_t device, std::uint64_t wire_bytes, Time now);

  // ---- what devices answer ----

  void count_received(std::size_t device, std::uint64_t wire_bytes);
  bool owes(std::size_t device, std::uint32_t tag) const;
  /// A value has come, which the device owes.
  void take_value(std::size_t device, std::uint32_t tag);
  /// How long the device says that it queued and computed it. No more is believed than the longest
  /// deadline, so that sums stay numbers.
  void take_times(std::size_t device, double queued_s, double compute_s);
  /// All that the device owes has come.
  void mark_received(std::size_t device, Time now);
  void mark_refused(std::size_t device) { contributions_.at(device).refused = true; }
  void mark_wrong(std::size_t device) { contributions_.at(device).wrong = true; }
  /// The device did not take what it was sent. The contribution waits to be sent again, or is
  /// returned where devices compute together: take_back() is next. False: it had not been sent.
  bool take_busy(std::size_t device, const std::string& why);

  // ---- where devices compute together: what some have not admitted nobody is to have ----

  /// Is being taken back from all.
  bool is_returning() const { return returning_; }
  /// The devices that were sent it and are to be told; none where they were told before.
  std::vector<std::size_t> take_back();
  void mark_returned(std::size_t device) {
    contributions_.at(device).stage = Contribution::Stage::returned;
  }
  /// Nobody has it.
  bool is_returned() const;
  /// How long to wait until offer_again(): a random part of a bound that doubles each time.
  std::chrono::milliseconds pause(std::minstd_rand& random);
  /// Waits to be sent to all that have a contribution.
  void offer_again();

  // ---- who is given up ----

  /// See Patience.
  void mark_late(std::size_t device) { contributions_.at(device).late = true; }
  /// It waits for late devices alone, and need not: give_up() is next.
  bool waits_in_vain() const;
  /// The devices that are to be lost as late, because others have answered. None where nobody has:
  /// then it is overdue. Changes wakes_at().
  std::vector<std::size_t> give_up(Time now);
  /// Against whom it counts that the job goes on without it: those beyond their patience, not those
  /// for whom the asker's deadline was too short; and nobody where nobody came.
  std::vector<std::size_t> late_devices(Time now) const;
  /// Nobody but the device has answered or is waited for, and it may be absent.
  bool is_last_hope(std::size_t device) const;
  /// The device's part will not come.
  Loss lose(std::size_t device, const std::string& why, Time now);
  /// The values that the device does not owe any more.
  std::vector<std::uint32_t> take_owed(std::size_t device);
  /// After the last loss, that of `device`: others may be asked instead. A later step of a text is
  /// nothing for who missed the one before.
  bool may_begin_again(std::size_t device) const;
  /// Every value is owed again, and nobody is waited for until reopen().
  void begin_again();
  /// A lost contribution waits to be sent. `has_it`: the device was sent it before, and still
  /// answers.
  void reopen(std::size_t device, bool has_it, Time now);

  // ---- where it is observed: the answer is held until all have told what they did ----

  void hold(net::Value output, double fuse_s, Time now);
  bool is_held() const { return held_.has_value(); }
  void take_account(std::size_t device, net::Account account);
  /// It will not come.
  void forgo_account(std::size_t device) { contributions_.at(device).tells_no_more = true; }
  /// The answer is held and there is nothing to wait for.
  bool is_told() const;

  // ---- the answer ----

  /// "'hub' failed: no such file" of each that was there and will send nothing.
  std::vector<std::string> losses() const;
  /// One that is there has nothing to say to it.
  bool was_refused() const;
  /// That the deadline has passed, and who is missing.
  std::string text_of_deadline() const;
  /// With times and devices; where it was held the answer, whatever the status says; else without
  /// message and output.
  Response response(Status status, Time now) const;

 private:
  bool has_answers() const;
  /// To give up who has not come and still answer by the deadline.
  Time last_moment() const;

  struct Held {
    net::Value output;
    double fuse_s = 0;
    Time at;
  };
  std::optional<Held> held_;
  std::vector<Contribution> contributions_;
  std::chrono::milliseconds least_wait_{0};
  Time launched_, wakes_at_;
  bool running_ = false;
  bool returning_ = false;
  bool overdue_ = false;         // all were late and nothing had come
  bool given_a_moment_ = false;  // then the first came
  std::chrono::milliseconds longest_pause_;
};

/// The requests that are with an aggregator, and which of them may run: as many at once as there
/// are places, the oldest first. Those that wait for every device take at most half of the places:
/// one device could stop them all.
class Jobs {
 public:
  using Id = Job::Id;
  struct Options {
    int max_in_flight = 4;  // places
    int max_queue = 64;     // jobs that wait while there is no place
  };
  explicit Jobs(const Options& options) : options_(options) {}

  // ---- by id ----

  void add(std::shared_ptr<Job> job);
  /// Also from the queue; its place is taken until free_place(). Throws std::out_of_range where
  /// there is none.
  std::shared_ptr<Job> remove(Id id);
  /// Null where there is none.
  Job* find(Id id) const;
  /// Null where there is none, or it was not launched.
  Job* find_running(Id id) const;
  bool empty() const { return jobs_.empty(); }
  /// Of any; there is one.
  Id first() const { return jobs_.begin()->first; }
  /// Those running whose contribution of the device is in that stage.
  std::vector<Id> with_stage(std::size_t device, Contribution::Stage stage) const;
  std::vector<Id> with_open(std::size_t device) const;

  // ---- places and the queue ----

  /// No place and no room in the queue.
  bool is_full() const;
  std::size_t num_queued() const { return queue_.size(); }
  void queue(Id id) { queue_.push_back(id); }
  /// Takes the first that may run from the queue; null where none may.
  std::shared_ptr<Job> take_next();
  /// With its launch().
  void take_place(const Job& job);
  /// Of one that was launched.
  void free_place(const Job& job);

 private:
  bool has_place() const;
  /// Where there is a place.
  bool has_place_for(const Job& job) const;

  Options options_;
  std::map<Id, std::shared_ptr<Job>> jobs_;
  std::deque<Id> queue_;
  int in_flight_ = 0, in_flight_for_all_ = 0;  // the second: with require_all
};

}  // namespace cleave::infer
