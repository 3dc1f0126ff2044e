#include "infer/jobs.hpp"

#include <algorithm>
#include <utility>

#include "base/text.hpp"
#include "infer/batch.hpp"
#include "infer/draws.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using Seconds = std::chrono::duration<double>;
using Stage = Contribution::Stage;

/// What is admitted by some of those who compute together, and not by all, is offered again after a
/// random part of this; it doubles.
constexpr std::chrono::milliseconds first_pause = 20ms, longest_pause = 320ms;
/// A moment after which nobody is the first any more.
constexpr std::chrono::milliseconds least_pause = 2ms;

/// Time that is kept back for fusing and answering, so that the answer is there at the deadline.
std::chrono::milliseconds margin_of(std::chrono::milliseconds deadline) {
  return std::clamp(deadline / 10, std::chrono::milliseconds(1), std::chrono::milliseconds(20));
}

double credible_s(double said_s) {
  return std::clamp(said_s, 0.0, Seconds(longest_deadline).count());
}

}  // namespace

plan::Expectation expectation_of(const Request& request, const FleetPlan& plan,
                                 const std::string& device) {
  const auto& dims = request.input.dims;
  return plan::expectation(plan.plan(), device, dims.at(0), dims.size() > 1 ? dims[1] : 0);
}

std::vector<Contribution> contributions_of(const Request& request, const FleetPlan& plan,
                                           const Programs::Ranks& programs,
                                           const std::vector<std::string>& devices) {
  std::vector<Contribution> contributions(devices.size());
  for (std::size_t device = 0; device < devices.size(); ++device) {
    Contribution& contribution = contributions[device];
    const auto expected = expectation_of(request, plan, devices[device]);
    contribution.report.device = devices[device];
    contribution.report.predicted_s = expected.whole_s;
    contribution.predicted_compute_s = expected.compute_s;
    if (!plan.computes(programs, device)) continue;
    contribution.stage = Stage::waiting;
    contribution.tags = contribution.owed = plan.tags_from(programs, device);
    contribution.must_come = plan.must_come(programs, device);
  }
  return contributions;
}

Job::Job(Id id_, Request request_, std::function<void(Response)> on_done_, Time submitted_,
         Time deadline_)
    : id(id_),
      request(std::move(request_)),
      on_done(std::move(on_done_)),
      submitted(submitted_),
      deadline(deadline_),
      wakes_at_(deadline_),
      longest_pause_(first_pause) {}

net::Value Job::given(const plan::Input& input) const {
  return input.is_sampling ? value_of(*request.sampling, request.input.dims.at(0)) : request.input;
}

Job::Time Job::last_moment() const {
  return std::max(deadline - margin_of(request.deadline), launched_);
}

bool Job::has_answers() const {
  return std::any_of(
      contributions_.begin(), contributions_.end(),
      [](const Contribution& contribution) { return contribution.stage == Stage::received; });
}

void Job::launch(std::vector<Contribution> contributions, std::chrono::milliseconds least_wait,
                 Time now) {
  contributions_ = std::move(contributions);
  least_wait_ = least_wait;
  launched_ = now;
  running_ = true;
  for (Contribution& contribution : contributions_)
    if (contribution.is_open()) contribution.sent_at = now;
  wakes_at_ = request.require_all ? deadline : last_moment();
}

void Job::mark_sent(std::size_t device, std::uint64_t wire_bytes, Time now) {
  Contribution& contribution = contributions_.at(device);
  contribution.stage = Stage::sent;
  contribution.sent_at = now;
  contribution.report.sent_bytes += wire_bytes;
}

void Job::count_received(std::size_t device, std::uint64_t wire_bytes) {
  contributions_.at(device).report.received_bytes += wire_bytes;
}

bool Job::owes(std::size_t device, std::uint32_t tag) const {
  const Contribution& contribution = contributions_.at(device);
  return contribution.stage == Stage::sent &&
         std::find(contribution.owed.begin(), contribution.owed.end(), tag) !=
             contribution.owed.end();
}

void Job::take_value(std::size_t device, std::uint32_t tag) {
  auto& owed = contributions_.at(device).owed;
  owed.erase(std::find(owed.begin(), owed.end(), tag));
}

void Job::take_times(std::size_t device, double queued_s, double compute_s) {
  DeviceReport& report = contributions_.at(device).report;
  report.queued_s = credible_s(queued_s);
  report.compute_s = credible_s(compute_s);
}

void Job::mark_received(std::size_t device, Time now) {
  Contribution& contribution = contributions_.at(device);
  contribution.stage = Stage::received;
  contribution.decided_at = now;
  contribution.report.present = true;
  contribution.report.round_trip_s = Seconds(now - contribution.sent_at).count();
  // The first of a late company: the others get a moment.
  if (overdue_ && !std::exchange(given_a_moment_, true))
    wakes_at_ = std::min(last_moment(), now + least_wait_);
}

bool Job::take_busy(std::size_t device, const std::string& why) {
  Contribution& contribution = contributions_.at(device);
  if (contribution.stage != Stage::sent) return false;
  contribution.report.why = why;
  contribution.stage = plan->is_coupled() ? Stage::returned : Stage::waiting;
  return true;
}

std::vector<std::size_t> Job::take_back() {
  std::vector<std::size_t> told;
  if (std::exchange(returning_, true)) return told;
  for (std::size_t device = 0; device < contributions_.size(); ++device) {
    Contribution& contribution = contributions_[device];
    if (contribution.stage == Stage::sent) told.push_back(device);
    if (contribution.stage == Stage::waiting) contribution.stage = Stage::returned;
  }
  return told;
}

bool Job::is_returned() const {
  return std::none_of(
      contributions_.begin(), contributions_.end(),
      [](const Contribution& contribution) { return contribution.stage == Stage::sent; });
}

std::chrono::milliseconds Job::pause(std::minstd_rand& random) {
  std::uniform_int_distribution<std::int64_t> moment(least_pause.count(), longest_pause_.count());
  longest_pause_ = std::min(2 * longest_pause_, longest_pause);
  return std::chrono::milliseconds(moment(random));
}

void Job::offer_again() {
  returning_ = false;
  for (Contribution& contribution : contributions_) {
    if (contribution.stage == Stage::none) continue;
    contribution.stage = Stage::waiting;
    contribution.owed = contribution.tags;
  }
}

bool Job::waits_in_vain() const {
  if (request.require_all || overdue_) return false;
  bool any = false;
  for (const Contribution& contribution : contributions_) {
    if (contribution.is_open() && !contribution.late) return false;
    any = any || contribution.is_open();
  }
  return any;
}

std::vector<std::size_t> Job::give_up(Time now) {
  std::vector<std::size_t> late;
  if (!has_answers()) {
    overdue_ = true;
    wakes_at_ = now < last_moment() ? last_moment() : deadline;
    return late;
  }
  wakes_at_ = deadline;
  for (std::size_t device = 0; device < contributions_.size(); ++device)
    if (contributions_[device].is_open() && !contributions_[device].must_come)
      late.push_back(device);
  return late;
}

std::vector<std::size_t> Job::late_devices(Time now) const {
  std::vector<std::size_t> late;
  if (!has_answers()) return late;
  for (std::size_t device = 0; device < contributions_.size(); ++device) {
    const Contribution& contribution = contributions_[device];
    const bool waited =
        contribution.report.predicted_s <= 0 && now - contribution.sent_at >= least_wait_;
    if (contribution.is_open() && !contribution.must_come && (contribution.late || waited))
      late.push_back(device);
  }
  return late;
}

bool Job::is_last_hope(std::size_t device) const {
  if (request.require_all || contributions_.at(device).must_come) return false;
  for (std::size_t other = 0; other < contributions_.size(); ++other) {
    const Contribution& contribution = contributions_[other];
    if (other != device && (contribution.is_open() || contribution.stage == Stage::received))
      return false;
  }
  return true;
}

Job::Loss Job::lose(std::size_t device, const std::string& why, Time now) {
  Contribution& contribution = contributions_.at(device);
  contribution.stage = Stage::lost;
  contribution.decided_at = now;
  contribution.report.why = why;
  const bool any = std::any_of(
      contributions_.begin(), contributions_.end(),
      [](const Contribution& other) { return other.is_open() || other.stage == Stage::received; });
  if (!any) return Loss::last;
  return contribution.must_come || request.require_all ? Loss::needed : Loss::bearable;
}

std::vector<std::uint32_t> Job::take_owed(std::size_t device) {
  return std::exchange(contributions_.at(device).owed, {});
}

bool Job::may_begin_again(std::size_t device) const {
  return !contributions_.at(device).must_come && !request.require_all && request.sequence.past == 0;
}

void Job::begin_again() {
  overdue_ = given_a_moment_ = false;
  wakes_at_ = last_moment();
  for (Contribution& contribution : contributions_) contribution.owed = contribution.tags;
}

void Job::reopen(std::size_t device, bool has_it, Time now) {
  Contribution& contribution = contributions_.at(device);
  contribution.report.why.clear();
  contribution.late = false;
  contribution.stage = has_it ? Stage::sent : Stage::waiting;
  if (!has_it) contribution.sent_at = now;
}

std::vector<std::string> Job::losses() const {
  std::vector<std::string> texts;
  for (const Contribution& contribution : contributions_)
    if (contribution.stage == Stage::lost && contribution.report.why != not_joined)
      texts.push_back("'" + contribution.report.device + "' " + contribution.report.why);
  return texts;
}

bool Job::was_refused() const {
  return std::any_of(
      contributions_.begin(), contributions_.end(),
      [](const Contribution& contribution) { return contribution.refused || contribution.wrong; });
}

std::string Job::text_of_deadline() const {
  if (!running_) return "[queue] the deadline passed before its turn";
  std::vector<std::string> missing;
  for (const Contribution& contribution : contributions_)
    if (contribution.is_open() || contribution.stage == Stage::returned)
      missing.push_back(
          "'" + contribution.report.device + "'" +
          (contribution.report.why.empty() ? "" : " (busy: " + contribution.report.why + ")"));
  return "[deadline] " + std::to_string(request.deadline.count()) + " ms passed" +
         (missing.empty() ? "" : " without " + base::joined(missing, ", "));
}

Job::Time Job::begun_at() const { return batch ? batch->submitted() : submitted; }

void Job::hold(net::Value output, double fuse_s, Time now) {
  held_ = Held{std::move(output), fuse_s, now};
}

void Job::take_account(std::size_t device, net::Account account) {
  Contribution& contribution = contributions_.at(device);
  contribution.tells_no_more = true;
  contribution.report.account = std::move(account);
}

bool Job::is_told() const {
  return held_ && observation->is_complete() &&
         std::none_of(
             contributions_.begin(), contributions_.end(), [](const Contribution& contribution) {
               const bool may_tell =
                   contribution.stage == Stage::sent || contribution.stage == Stage::received;
               return may_tell && !contribution.tells_no_more;
             });
}

Response Job::response(Status status, Time now) const {
  if (held_) {
    status = Status::answered;
    now = held_->at;
  }
  // Who computes together has computed it together.
  const bool together = status == Status::answered && plan != nullptr && plan->is_coupled();
  Response response;
  response.status = status;
  if (held_) {
    response.output = held_->output;
    response.fuse_s = held_->fuse_s;
    response.aggregator = observation->account();
    move_clock(response.aggregator, -seconds_of(begun_at()));
  }
  response.total_s = Seconds(now - submitted).count();
  response.queue_s = Seconds((running_ ? launched_ : now) - arrived).count();
  double slowest_s = 0;
  for (const Contribution& contribution : contributions_) {
    if (contribution.stage == Stage::none) continue;
    response.devices.push_back(contribution.report);
    if (together) response.devices.back().present = true;
    // Waiting for a device that is late is its time, not ours.
    const auto until = contribution.is_open() ? now : contribution.decided_at;
    slowest_s = std::max(slowest_s, Seconds(until - contribution.sent_at).count());
  }
  response.overhead_s = std::max(0.0, response.total_s - response.queue_s - slowest_s);
  return response;
}

void Jobs::add(std::shared_ptr<Job> job) {
  const Id id = job->id;
  jobs_[id] = std::move(job);
}

std::shared_ptr<Job> Jobs::remove(Id id) {
  auto job = jobs_.at(id);
  jobs_.erase(id);
  if (!job->is_running())
    if (const auto waiting = std::find(queue_.begin(), queue_.end(), id); waiting != queue_.end())
      queue_.erase(waiting);
  return job;
}

Job* Jobs::find(Id id) const {
  const auto at = jobs_.find(id);
  return at == jobs_.end() ? nullptr : at->second.get();
}

Job* Jobs::find_running(Id id) const {
  Job* job = find(id);
  return job && job->is_running() ? job : nullptr;
}

std::vector<Jobs::Id> Jobs::with_stage(std::size_t device, Contribution::Stage stage) const {
  std::vector<Id> ids;
  for (const auto& [id, job] : jobs_)
    if (job->is_running() && job->contribution(device).stage == stage) ids.push_back(id);
  return ids;
}

std::vector<Jobs::Id> Jobs::with_open(std::size_t device) const {
  std::vector<Id> ids;
  for (const auto& [id, job] : jobs_)
    if (job->is_running() && job->contribution(device).is_open()) ids.push_back(id);
  return ids;
}

bool Jobs::has_place() const { return in_flight_ < options_.max_in_flight; }

bool Jobs::is_full() const {
  return !has_place() && queue_.size() >= static_cast<std::size_t>(options_.max_queue);
}

bool Jobs::has_place_for(const Job& job) const {
  return !job.request.require_all || in_flight_for_all_ < std::max(1, options_.max_in_flight / 2);
}

std::shared_ptr<Job> Jobs::take_next() {
  if (!has_place()) return nullptr;  // before looking through a long queue
  const auto next = std::find_if(queue_.begin(), queue_.end(),
                                 [this](Id id) { return has_place_for(*jobs_.at(id)); });
  if (next == queue_.end()) return nullptr;
  const Id id = *next;
  queue_.erase(next);
  return jobs_.at(id);
}

void Jobs::take_place(const Job& job) {
  ++in_flight_;
  in_flight_for_all_ += job.request.require_all;
}

void Jobs::free_place(const Job& job) {
  --in_flight_;
  in_flight_for_all_ -= job.request.require_all;
}

}  // namespace cleave::infer
