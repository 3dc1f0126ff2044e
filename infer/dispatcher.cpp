#include "infer/dispatcher.hpp"

#include <algorithm>
#include <utility>

#include "base/text.hpp"

namespace cleave::infer {

using boost::system::error_code;
using Stage = Contribution::Stage;

Dispatcher::Dispatcher(const Parts& parts, const Options& options, Hooks hooks)
    : io_(parts.io),
      jobs_(parts.jobs),
      sequences_(parts.sequences),
      roster_(parts.roster),
      compute_(parts.compute),
      options_(options),
      hooks_(std::move(hooks)),
      random_(options.seed) {}

Peer::Events Dispatcher::events_of(std::size_t device) {
  Peer::Events events;
  events.changed = [this] { roster_.count_joined(); };
  events.lost = [this, device](const std::string& why) { take_lost(device, why); };
  events.draining = [this, device] { lose_all(device, Stage::waiting, "draining"); };
  events.value = [this, device](net::ValueMessage message, const Arrival& arrival) {
    take_value(device, std::move(message), arrival);
  };
  events.busy = [this, device](Id id, const std::string& why, std::uint64_t wire_bytes) {
    return take_busy(device, id, why, wire_bytes);
  };
  events.done = [this, device](Id id, const net::Done& done) { take_done(device, id, done); };
  events.ended = [this, device](Id id, const std::string& why, bool refused) {
    take_ended(device, id, why, refused);
  };
  events.offer = [this, device](Id id) { send_admit(device, id); };
  events.late = [this, device](const std::vector<Id>& ids) { take_late(device, ids); };
  events.log = hooks_.log;
  return events;
}

void Dispatcher::take_value(std::size_t device, net::ValueMessage message, const Arrival& arrival) {
  Job* job = jobs_.find_running(message.request);
  // Late: of a request that is answered, or of another epoch.
  if (!job || message.epoch != options_.epoch) return;
  if (!job->plan->has(device)) return;
  job->count_received(device, arrival.wire_bytes);
  if (!job->owes(device, message.tag)) return;
  if (job->observation)
    job->observation->received(job->plan->rank(device), roster_[device].device(), message.tag,
                               arrival);
  if (const auto wrong = job->plan->objection(*job->programs, device, message.tag, message.tensor);
      !wrong.empty()) {
    job->mark_wrong(device);
    return go_on_without(job->id, device, wrong);
  }
  job->take_value(device, message.tag);
  const Id id = job->id;
  if (message.last) job->forgo_account(device);  // nothing comes behind it
  job->take_times(device, message.queued_s, message.compute_s);
  compute_.deliver(job->id, job->plan->rank(device), message.tag, std::move(message.tensor));
  if (job->contribution(device).owed.empty()) take_whole_contribution(*job, device);
  hooks_.told(id);
}

/// True: the request still wants the device's part.
bool Dispatcher::take_busy(std::size_t device, Id id, const std::string& why,
                           std::uint64_t wire_bytes) {
  Job* job = jobs_.find_running(id);
  if (!job) return false;
  job->count_received(device, wire_bytes);
  if (!job->take_busy(device, why)) return false;
  if (job->contribution(device).stage == Stage::waiting) return true;
  take_back(*job);
  return false;
}

/// The device has computed all that the request has there.
void Dispatcher::take_done(std::size_t device, Id id, const net::Done& done) {
  Job* job = jobs_.find_running(id);
  if (!job) return;
  if (job->observation && !job->is_returning()) take_account(*job, device, done.account);
  if (!job->contribution(device).is_open()) return hooks_.told(id);
  if (job->is_returning()) {
    job->mark_returned(device);
    return offer_again_if_returned(*job);
  }
  if (!job->contribution(device).owed.empty())
    return go_on_without(id, device, "ended without a value");
  job->take_times(device, done.queued_s, done.compute_s);
  take_whole_contribution(*job, device);
  hooks_.told(id);
}

/// On our clock, from when the request was submitted.
void Dispatcher::take_account(Job& job, std::size_t device, net::Account account) {
  // After moving: the device's clock is what the device says.
  move_clock(account, -roster_[device].clock_ahead_s() - seconds_of(job.begun_at()));
  account = credible(std::move(account));
  job.take_account(device, std::move(account));
}

void Dispatcher::take_whole_contribution(Job& job, std::size_t device) {
  const Contribution& contribution = job.contribution(device);
  roster_[device].answered(job.id, contribution.report.compute_s, contribution.predicted_compute_s);
  job.mark_received(device, Clock::now());
  watch(job);
  give_up_if_in_vain(job.id);
}

void Dispatcher::take_ended(std::size_t device, Id id, const std::string& why, bool refused) {
  Job* job = jobs_.find_running(id);
  if (!job || !job->contribution(device).is_open()) return;
  if (refused) job->mark_refused(device);
  go_on_without(id, device, why);
}

void Dispatcher::take_late(std::size_t device, const std::vector<Id>& ids) {
  for (const Id id : ids)
    if (Job* job = jobs_.find_running(id)) job->mark_late(device);
  for (const Id id : ids) give_up_if_in_vain(id);
}

void Dispatcher::take_lost(std::size_t device, const std::string& why) {
  for (const auto text : sequences_.leave_all(device, why)) log_left(device, text, why);
  for (const Stage stage : {Stage::waiting, Stage::sent, Stage::returned})
    lose_all(device, stage, "lost: " + why);
  for (const Id id : jobs_.with_stage(device, Stage::received))
    if (Job* job = jobs_.find_running(id); job && job->observation) {
      job->forgo_account(device);
      hooks_.told(id);
    }
}

std::chrono::milliseconds Dispatcher::least_wait_of(const Request& request) const {
  return request.sequence.id != 0 ? options_.min_wait_in_text : options_.min_wait;
}

void Dispatcher::launch(Job& job) {
  const Id id = job.id;
  auto contributions = contributions_of(job.request, *job.plan, *job.programs, roster_.devices());
  jobs_.take_place(job);
  if (job.request.observe != net::Observe::nothing)
    job.observation = std::make_shared<Observation>(
        job.request.observe, job.plan->own(*job.programs), [this, id] { hooks_.told(id); });
  job.launch(std::move(contributions), least_wait_of(job.request), Clock::now());
  for (std::size_t device = 0; device < roster_.size(); ++device)
    if (job.contribution(device).is_open()) enqueue(job, device);
  fuse(job);
  watch(job);
  roster_.keep_one_asked(*job.plan);
  probe_with(job);
  // Those away first: where one of them is needed, nobody else is asked.
  for (std::size_t device = 0; device < roster_.size(); ++device) {
    const std::string why = why_left_out(job, device);
    if (job.contribution(device).is_open() && !why.empty() && !lose(id, device, why)) return;
  }
  roster_.offer();
}

/// Why the device is not asked at all; empty where it is.
std::string Dispatcher::why_left_out(const Job& job, std::size_t device) const {
  if (const auto* left = sequences_.why_left(job.request.sequence.id, device)) return *left;
  std::string why;
  if (job.plan->has(device)) why = roster_.why_away(*job.plan, device);
  if (why.empty() && roster_[device].ejected()) why = ejected_late;
  return why;
}

void Dispatcher::probe_with(const Job& job) {
  if (draining_ || job.from_kept) return;  // nothing is kept of a copy
  for (std::size_t device = 0; device < roster_.size(); ++device) {
    Peer& peer = roster_[device];
    if (!peer.wants_probe() || !peer.serves(job.plan->digest()) ||
        !job.plan->computes(*job.programs, device))
      continue;
    const double predicted_s = expectation_of(job.request, *job.plan, peer.device()).whole_s;
    // Without a prediction the deadline decides, here too.
    const auto least = predicted_s > 0 ? least_wait_of(job.request) : job.request.deadline;
    peer.probe(offer_of(job, hooks_.new_id(), device), job.plan->tags_from(*job.programs, device),
               {least, predicted_s});
  }
}

void Dispatcher::enqueue(const Job& job, std::size_t device) {
  roster_[device].enqueue(job.id, {job.least_wait(), job.contribution(device).report.predicted_s});
}

/// The device's window has room for it.
void Dispatcher::send_admit(std::size_t device, Id id) {
  Job* job = jobs_.find_running(id);
  if (!job || job->contribution(device).stage != Stage::waiting) return;
  Offer offer = offer_of(*job, id, device);
  offer.admit.sequence = job->request.sequence.id;
  offer.admit.past = job->request.sequence.past;
  offer.admit.capacity = job->request.sequence.capacity;
  offer.admit.observe = job->request.observe;
  offer.observation = job->observation;
  offer.rank = job->plan->rank(device);
  const auto now = Clock::now();
  job->mark_sent(device, roster_[device].admit(offer), now);
}

/// Of the job's input, as a request that stands for itself.
Offer Dispatcher::offer_of(const Job& job, Id id, std::size_t device) const {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(job.deadline - Clock::now());
  const plan::Program& program = *job.plan->of(*job.programs, device);
  const net::Value& input = job.request.input;
  Offer offer;
  net::Admit& admit = offer.admit;
  admit.request = id;
  admit.epoch = options_.epoch;
  admit.plan = job.plan->digest();
  admit.digest = program.digest;
  admit.deadline_ms = static_cast<std::uint32_t>(std::max<std::int64_t>(1, left.count()));
  admit.batch = input.dims.at(0);
  admit.tokens = job.plan->plan().teacher.is_text() ? input.dims.at(1) : 0;
  admit.best = job.best;
  admit.from_kept = job.from_kept;
  for (const auto& [tag, given] : job.plan->inputs_to(*job.programs, device)) {
    net::ValueMessage value;
    value.request = id;
    value.epoch = options_.epoch;
    value.tag = tag;
    value.tensor = job.given(*given);
    offer.values.push_back(std::move(value));
  }
  return offer;
}

/// The aggregator's own program waits for the devices' values.
void Dispatcher::fuse(const Job& job) {
  const auto& own = job.plan->own(*job.programs);
  std::vector<net::Value> inputs;
  for (const plan::Instruction& instruction : own->instructions)
    if (const auto* input = std::get_if<plan::Input>(&instruction))
      inputs.push_back(job.given(*input));
  compute_.admit(job.id, own, std::move(inputs), job.deadline, job.request.sequence,
                 job.observation ? job.observation->most_recorded() : 0);
}

void Dispatcher::deliver_absent(Job& job, std::size_t device) {
  for (const auto tag : job.take_owed(device))
    compute_.deliver(job.id, job.plan->rank(device), tag, net::Value::absent());
}

/// Some have not admitted it, so nobody is to wait for them: it is taken back from the others, and
/// offered again once nobody has anything of it.
void Dispatcher::take_back(Job& job) {
  roster_.withdraw(job.id);
  for (const std::size_t device : job.take_back()) roster_[device].cancel(job.id);
  offer_again_if_returned(job);
}

void Dispatcher::offer_again_if_returned(Job& job) {
  if (!job.is_returned()) return;
  auto& retry = timers_.at(job.id).retry;
  retry.expires_after(job.pause(random_));
  retry.async_wait([this, id = job.id](error_code error) {
    if (!error) offer_again(id);
  });
}

void Dispatcher::offer_again(Id id) {
  Job* job = jobs_.find_running(id);
  if (!job) return;
  job->offer_again();
  for (std::size_t device = 0; device < roster_.size(); ++device)
    if (job->contribution(device).is_open()) enqueue(*job, device);
  for (std::size_t device = 0; device < roster_.size(); ++device)
    if (job->contribution(device).is_open())
      if (const auto why = roster_.why_away(*job->plan, device);
          !why.empty() && !lose(id, device, why))
        return;
  roster_.offer();
}

void Dispatcher::watch(const Job& job) {
  auto& timer = timers_.try_emplace(job.id, io_).first->second.wake;
  if (timer.expiry() == job.wakes_at()) return;
  timer.expires_at(job.wakes_at());
  timer.async_wait([this, id = job.id](error_code error) {
    if (!error) timer_fired(id);
  });
}

void Dispatcher::timer_fired(Id id) {
  Job* job = jobs_.find(id);
  if (!job) return;
  const auto now = Clock::now();
  if (now < job->wakes_at()) return;  // moved while this call was queued
  if (now < job->deadline) return give_up(*job, now);
  const auto late = job->late_devices(now);
  hooks_.end(id, Status::deadline, job->text_of_deadline());
  count_late(late);
}

void Dispatcher::give_up_if_in_vain(Id id) {
  Job* job = jobs_.find_running(id);
  if (job && job->waits_in_vain()) give_up(*job, Clock::now());
}

/// The answer comes from those who are there. Where nobody is, the first one is waited for.
void Dispatcher::give_up(Job& job, Clock::time_point now) {
  const Id id = job.id;
  const auto given_up = job.give_up(now);
  const auto late = job.late_devices(now);
  watch(job);
  for (const std::size_t device : given_up) {
    const Contribution& contribution = job.contribution(device);
    const auto waited =
        std::chrono::duration_cast<std::chrono::milliseconds>(now - contribution.sent_at);
    hooks_.log(base::LogLevel::detail, "[" + contribution.report.device + "] request " +
                                           std::to_string(id) + ": late after " +
                                           std::to_string(waited.count()) + " ms");
    if (!lose(id, device, "late")) break;
  }
  count_late(late);
}

/// Whoever is left may be late.
void Dispatcher::go_on_without(Id id, std::size_t device, const std::string& why) {
  if (lose(id, device, why)) give_up_if_in_vain(id);
}

void Dispatcher::lose_all(std::size_t device, Stage stage, const std::string& why) {
  // One loss may end its request, and start another.
  for (const Id id : jobs_.with_stage(device, stage))
    if (const Job* job = jobs_.find_running(id); job && job->contribution(device).stage == stage)
      go_on_without(id, device, why);
}

/// The device's part will not come. False: that ended the request.
bool Dispatcher::lose(Id id, std::size_t device, const std::string& why) {
  Job& job = *jobs_.find_running(id);
  const auto text = job.request.sequence.id;
  roster_[device].withdraw(id);
  if (sequences_.leave(text, device, why)) log_left(device, text, why);
  if (job.is_held()) {  // there is an answer, which waits for nothing but what the device tells
    job.lose(device, why, Clock::now());
    hooks_.told(id);
    return jobs_.find_running(id) != nullptr;
  }
  switch (job.lose(device, why, Clock::now())) {
    case Job::Loss::bearable:
      deliver_absent(job, device);
      return true;
    case Job::Loss::needed:
      hooks_.end(id, job.contribution(device).refused ? Status::failed : Status::no_device,
                 roster_.need_of(device, why));
      return false;
    case Job::Loss::last:
      break;
  }
  if (job.may_begin_again(device) && ask_ejected(job)) return true;
  std::vector<std::string> reasons = job.losses();
  if (const auto away = roster_.who_is_missing(*job.plan); !away.empty())
    reasons.push_back("not joined: " + away);
  hooks_.end(id, job.was_refused() ? Status::failed : Status::no_device,
             "[infer] no device answers: " + base::joined(reasons, "; "));
  return false;
}

/// Devices that were left out of the job because they were ejected are there when all others have
/// gone. False: there is none.
bool Dispatcher::ask_ejected(Job& job) {
  std::vector<std::size_t> back;
  for (std::size_t device = 0; device < roster_.size(); ++device)
    if (job.contribution(device).report.why == ejected_late && roster_[device].joined())
      back.push_back(device);
  if (back.empty()) return false;
  // Their parts were given up; fusing begins anew, and hears again who is absent.
  compute_.cancel(job.id);
  fuse(job);
  job.begin_again();
  watch(job);
  for (std::size_t device = 0; device < roster_.size(); ++device) {
    if (std::find(back.begin(), back.end(), device) == back.end()) {
      deliver_absent(job, device);
      continue;
    }
    sequences_.rejoin(job.request.sequence.id, device);
    // One that was ejected while it had the request still answers it.
    const bool has_it = roster_[device].has(job.id);
    job.reopen(device, has_it, Clock::now());
    if (!has_it) enqueue(job, device);
  }
  roster_.keep_one_asked(*job.plan);
  for (const std::size_t device : back) roster_[device].offer();
  return true;
}

/// A request went on without these. Who is late too often is ejected, unless nobody else is there,
/// and what it was asked is given up.
void Dispatcher::count_late(const std::vector<std::size_t>& devices) {
  for (const std::size_t device : devices) {
    if (!roster_[device].count_late() || !roster_.has_others(device)) continue;
    roster_[device].eject();
    give_up_ejected(device);
  }
}

/// Whoever has nobody else to wait for waits on, as for any that is late.
void Dispatcher::give_up_ejected(std::size_t device) {
  for (const Id id : jobs_.with_open(device)) {
    const Job* job = jobs_.find_running(id);
    if (!job || !job->contribution(device).is_open() || job->is_last_hope(device)) continue;
    go_on_without(id, device, ejected_late);
  }
}

void Dispatcher::log_left(std::size_t device, Sequences::Id text, const std::string& why) const {
  hooks_.log(base::LogLevel::detail, "[" + roster_[device].device() + "] sequence " +
                                         std::to_string(text) + ": goes on without it (" + why +
                                         ")");
}

void Dispatcher::forget(const Job& job, bool computed) {
  timers_.erase(job.id);
  if (!job.is_running()) return;
  if (!computed) compute_.cancel(job.id);
  for (std::size_t device = 0; device < roster_.size(); ++device) {
    roster_[device].withdraw(job.id);
    roster_[device].cancel(job.id);
  }
}

}  // namespace cleave::infer
