#include "infer/jobs.hpp"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/infer/fake_parts.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using Devices = std::vector<std::size_t>;
using Ids = std::vector<Jobs::Id>;
using Tags = std::vector<std::uint32_t>;
using Loss = Job::Loss;
using Stage = Contribution::Stage;

const Job::Time start{1h};
const std::vector<std::string> names = {"hub", "desk", "cam"};

/// Of a device that is to send the value of tag 1.
Contribution share_of(const std::string& device, double predicted_s = 0.01) {
  Contribution contribution;
  contribution.stage = Stage::waiting;
  contribution.tags = contribution.owed = {1};
  contribution.report.device = device;
  contribution.report.predicted_s = predicted_s;
  return contribution;
}

std::vector<Contribution> three_shares() {
  return {share_of("hub"), share_of("desk"), share_of("cam")};
}

Request request_of(std::chrono::milliseconds deadline = 1s, bool require_all = false) {
  Request request;
  request.input = pixels(1);
  request.deadline = deadline;
  request.require_all = require_all;
  return request;
}

std::shared_ptr<Job> job_of(const Request& request, Job::Id id = 7) {
  auto job = std::make_shared<Job>(id, request, nullptr, start, start + request.deadline);
  job->arrived = start;
  return job;
}

/// Launched at `start`, with a least wait of 50 ms.
std::shared_ptr<Job> launched(const Request& request = request_of(),
                              std::vector<Contribution> contributions = three_shares()) {
  auto job = job_of(request);
  job->launch(std::move(contributions), 50ms, start);
  return job;
}

/// The same, and sent to all.
std::shared_ptr<Job> sent(const Request& request = request_of(),
                          std::vector<Contribution> contributions = three_shares()) {
  auto job = launched(request, std::move(contributions));
  for (std::size_t device = 0; device < job->contributions().size(); ++device)
    job->mark_sent(device, 100, start);
  return job;
}

FleetPlan fleet_plan(const plan::Plan& plan, const std::vector<std::string>& devices) {
  return FleetPlan(plan, devices, std::vector<double>(plan.parts.size(), 0));
}

// ---- who owes what ----

TEST(Shares, AreThoseOfThePlan) {
  auto plan = fleet_plan(fake_plan(0.5), {"hub", "desk", "cam", "tv"});
  const auto programs = plan.programs().find(pixels(1), 0);
  const auto contributions =
      contributions_of(request_of(), plan, *programs, {"hub", "desk", "cam", "tv"});
  ASSERT_EQ(contributions.size(), 4u);
  EXPECT_EQ(contributions[1].stage, Stage::waiting);
  EXPECT_EQ(contributions[1].report.device, "desk");
  EXPECT_EQ(contributions[1].report.predicted_s, 0.5);
  EXPECT_EQ(contributions[1].tags, plan.tags_from(*programs, 1));
  EXPECT_EQ(contributions[1].owed, contributions[1].tags);
  EXPECT_FALSE(contributions[1].must_come);
  EXPECT_EQ(contributions[3].stage, Stage::none);  // of another plan
  EXPECT_TRUE(contributions[3].tags.empty());
}

TEST(Job, IsOwedEachValueOnceAndOnlyByWhoWasSentIt) {
  const auto job = launched();
  EXPECT_FALSE(job->owes(0, 1));
  job->mark_sent(0, 100, start);
  EXPECT_TRUE(job->owes(0, 1));
  EXPECT_FALSE(job->owes(0, 2));
  job->take_value(0, 1);
  EXPECT_FALSE(job->owes(0, 1));
  EXPECT_TRUE(job->contribution(0).owed.empty());
}

TEST(Job, WaitsToBeSentAgainToADeviceThatWasBusy) {
  auto plan = fleet_plan(fake_plan(), names);
  const auto job = sent();
  job->plan = &plan;
  EXPECT_TRUE(job->take_busy(1, "no link"));
  EXPECT_EQ(job->contribution(1).stage, Stage::waiting);
  EXPECT_FALSE(job->take_busy(1, "no link"));  // it is not sent
}

// ---- who is waited for ----

TEST(Job, WakesInTimeToAnswerAtItsDeadline) {
  EXPECT_EQ(job_of(request_of(1s))->wakes_at(), start + 1s);
  EXPECT_EQ(launched(request_of(1s))->wakes_at(), start + 980ms);
  EXPECT_EQ(launched(request_of(100ms))->wakes_at(), start + 90ms);
  EXPECT_EQ(launched(request_of(2ms))->wakes_at(), start + 1ms);
  EXPECT_EQ(launched(request_of(1s, true))->wakes_at(), start + 1s);
}

TEST(Job, IsNotLaunchedToGiveUpAtOnce) {
  const auto job = job_of(request_of(1s));
  job->launch(three_shares(), 50ms, start + 995ms);
  EXPECT_EQ(job->wakes_at(), start + 995ms);
}

TEST(Job, WaitsInVainWhereAllThatAreOpenAreLate) {
  const auto job = sent();
  EXPECT_FALSE(job->waits_in_vain());
  job->mark_late(0);
  job->mark_late(1);
  EXPECT_FALSE(job->waits_in_vain());
  job->mark_received(2, start + 10ms);
  EXPECT_TRUE(job->waits_in_vain());
}

TEST(Job, DoesNotWaitInVainWhereNobodyIsOpenOrEachMustAnswer) {
  const auto job = sent(request_of(), {share_of("hub")});
  job->mark_received(0, start + 10ms);
  EXPECT_FALSE(job->waits_in_vain());
  const auto strict = sent(request_of(1s, true), {share_of("hub")});
  strict->mark_late(0);
  EXPECT_FALSE(strict->waits_in_vain());
}

TEST(Job, GivesUpWhoHasNotComeOnceOneHas) {
  auto contributions = three_shares();
  contributions[1].must_come = true;
  const auto job = sent(request_of(), std::move(contributions));
  job->mark_received(0, start + 10ms);
  EXPECT_EQ(job->give_up(start + 60ms), (Devices{2}));
  EXPECT_EQ(job->wakes_at(), start + 1s);
}

TEST(Job, WaitsForTheFirstWhereAllAreLate) {
  const auto job = sent();
  for (std::size_t device = 0; device < 3; ++device) job->mark_late(device);
  ASSERT_TRUE(job->waits_in_vain());
  EXPECT_EQ(job->give_up(start + 60ms), Devices());
  EXPECT_EQ(job->wakes_at(), start + 980ms);
  EXPECT_FALSE(job->waits_in_vain());
  // The first came: the others get a moment, once.
  job->mark_received(0, start + 100ms);
  EXPECT_EQ(job->wakes_at(), start + 150ms);
  job->mark_received(1, start + 120ms);
  EXPECT_EQ(job->wakes_at(), start + 150ms);
  EXPECT_EQ(job->give_up(start + 150ms), (Devices{2}));
}

TEST(Job, WaitsForTheFirstUntilTheDeadline) {
  const auto job = sent();
  EXPECT_EQ(job->give_up(start + 980ms), Devices());
  EXPECT_EQ(job->wakes_at(), start + 1s);
  // No moment longer than the answer may take.
  job->mark_received(0, start + 985ms);
  EXPECT_EQ(job->wakes_at(), start + 980ms);
}

TEST(Job, CountsAsLateWhoIsBeyondItsPatience) {
  const auto job = sent(request_of(), {share_of("hub"), share_of("desk"), share_of("cam", 0)});
  job->mark_late(1);
  EXPECT_EQ(job->late_devices(start + 60ms), Devices());  // nobody came
  job->mark_received(0, start + 10ms);
  EXPECT_EQ(job->late_devices(start + 40ms), (Devices{1}));
  EXPECT_EQ(job->late_devices(start + 50ms), (Devices{1, 2}));  // of `cam` nothing is predicted
}

TEST(Job, CountsNobodyAsLateWhoMustCome) {
  auto contributions = three_shares();
  contributions[1].must_come = true;
  const auto job = sent(request_of(), std::move(contributions));
  job->mark_received(0, start + 10ms);
  job->mark_late(1);
  EXPECT_EQ(job->late_devices(start + 60ms), Devices());
}

// ---- who is lost ----

TEST(Job, BearsALossAsLongAsOthersAnswerOrMay) {
  const auto job = sent();
  EXPECT_EQ(job->lose(0, "lost: closed", start + 1ms), Loss::bearable);
  EXPECT_EQ(job->take_owed(0), (Tags{1}));
  EXPECT_EQ(job->take_owed(0), Tags());
  job->mark_received(1, start + 2ms);
  EXPECT_EQ(job->lose(2, "late", start + 3ms), Loss::bearable);
  EXPECT_EQ(job->losses(), (std::vector<std::string>{"'hub' lost: closed", "'cam' late"}));
}

TEST(Job, CannotBearTheLossOfWhoIsNeeded) {
  auto contributions = three_shares();
  contributions[1].must_come = true;
  EXPECT_EQ(sent(request_of(), std::move(contributions))->lose(1, "late", start), Loss::needed);
  EXPECT_EQ(sent(request_of(1s, true))->lose(1, "late", start), Loss::needed);
}

TEST(Job, SaysWhichLossIsTheLast) {
  const auto job = sent();
  job->lose(0, not_joined, start);
  EXPECT_FALSE(job->is_last_hope(1));
  job->lose(1, "late", start);
  EXPECT_TRUE(job->is_last_hope(2));
  EXPECT_EQ(job->lose(2, "failed: no file", start), Loss::last);
  // Of who is not joined the roster knows more.
  EXPECT_EQ(job->losses(), (std::vector<std::string>{"'desk' late", "'cam' failed: no file"}));
  EXPECT_FALSE(job->was_refused());
  job->mark_refused(2);
  EXPECT_TRUE(job->was_refused());
}

TEST(Job, HasNoLastHopeInADeviceThatIsNeeded) {
  EXPECT_TRUE(sent(request_of(), {share_of("hub")})->is_last_hope(0));
  EXPECT_FALSE(sent(request_of(1s, true), {share_of("hub")})->is_last_hope(0));
  auto needed = share_of("hub");
  needed.must_come = true;
  EXPECT_FALSE(sent(request_of(), {needed})->is_last_hope(0));
}

TEST(Job, BeginsAgainWithThoseThatAreReopened) {
  const auto job = sent();
  job->give_up(start + 980ms);  // overdue
  for (std::size_t device = 0; device < 3; ++device) {
    job->mark_late(device);
    job->lose(device, "ejected: late", start + 981ms);
    job->take_owed(device);
  }
  ASSERT_TRUE(job->may_begin_again(2));
  job->begin_again();
  EXPECT_EQ(job->wakes_at(), start + 980ms);
  EXPECT_EQ(job->take_owed(0), (Tags{1}));
  job->reopen(1, true, start + 982ms);
  EXPECT_TRUE(job->owes(1, 1));
  EXPECT_EQ(job->contribution(1).sent_at, start);
  job->reopen(2, false, start + 982ms);
  EXPECT_EQ(job->contribution(2).stage, Stage::waiting);
  EXPECT_EQ(job->contribution(2).sent_at, start + 982ms);
  EXPECT_EQ(job->contribution(2).report.why, "");
  EXPECT_FALSE(job->contribution(2).late);
}

TEST(Job, DoesNotBeginALaterStepOfATextAgain) {
  auto request = request_of();
  request.sequence = {3, 5, 100};
  EXPECT_FALSE(sent(request)->may_begin_again(0));
  request.sequence.past = 0;
  EXPECT_TRUE(sent(request)->may_begin_again(0));
  EXPECT_FALSE(sent(request_of(1s, true))->may_begin_again(0));
}

// ---- devices that compute together ----

TEST(Job, IsTakenBackFromAllWhereOneOfThoseTogetherIsBusy) {
  auto plan = fleet_plan(examples::tensor_plan(fake_teacher(), 3), {"d0", "d1", "d2"});
  ASSERT_TRUE(plan.is_coupled());
  const auto job = launched();
  job->plan = &plan;
  job->mark_sent(0, 100, start);
  job->mark_sent(1, 100, start);
  job->take_value(1, 1);
  ASSERT_TRUE(job->take_busy(0, "full"));
  EXPECT_EQ(job->contribution(0).stage, Stage::returned);
  EXPECT_EQ(job->take_back(), (Devices{1}));
  EXPECT_TRUE(job->is_returning());
  EXPECT_EQ(job->contribution(2).stage, Stage::returned);  // was not sent
  EXPECT_EQ(job->take_back(), Devices());                  // told already
  EXPECT_FALSE(job->is_returned());
  job->mark_returned(1);
  EXPECT_TRUE(job->is_returned());
  job->offer_again();
  EXPECT_FALSE(job->is_returning());
  for (const auto& contribution : job->contributions()) {
    EXPECT_EQ(contribution.stage, Stage::waiting);
    EXPECT_EQ(contribution.owed, (Tags{1}));
  }
}

TEST(Job, PausesLongerEachTimeBeforeItIsOfferedAgain) {
  const auto job = launched();
  std::minstd_rand random(1);
  for (const auto most : {20ms, 40ms, 80ms, 160ms, 320ms, 320ms, 320ms}) {
    const auto pause = job->pause(random);
    EXPECT_GE(pause, 2ms);
    EXPECT_LE(pause, most);
  }
  std::chrono::milliseconds longest{0};
  for (int i = 0; i < 100; ++i) longest = std::max(longest, job->pause(random));
  EXPECT_GT(longest, 250ms);
}

// ---- the answer ----

TEST(Job, SaysWhoIsMissingAtTheDeadline) {
  EXPECT_EQ(job_of(request_of())->text_of_deadline(),
            "[queue] the deadline passed before its turn");
  auto plan = fleet_plan(fake_plan(), names);
  const auto job = sent();
  job->plan = &plan;
  job->mark_received(0, start + 1ms);
  job->take_busy(2, "full");
  EXPECT_EQ(job->text_of_deadline(),
            "[deadline] 1000 ms passed without 'desk', 'cam' (busy: full)");
}

TEST(Job, CountsWaitingForADeviceAsTheDevicesTime) {
  const auto job = job_of(request_of());
  job->arrived = start + 10ms;
  job->launch({share_of("hub"), share_of("desk"), Contribution()}, 50ms, start + 30ms);
  for (std::size_t device = 0; device < 2; ++device) job->mark_sent(device, 100, start + 40ms);
  job->count_received(0, 60);
  job->take_times(0, 0.001, 1e30);
  job->mark_received(0, start + 60ms);
  const auto response = job->response(Status::answered, start + 100ms);
  EXPECT_NEAR(response.total_s, 0.1, 1e-9);
  EXPECT_NEAR(response.queue_s, 0.02, 1e-9);
  EXPECT_NEAR(response.overhead_s, 0.02, 1e-9);  // `desk` took 60 ms until now
  ASSERT_EQ(response.devices.size(), 2u);        // the third had nothing to do
  EXPECT_TRUE(response.devices[0].present);
  EXPECT_EQ(response.devices[0].sent_bytes, 100u);
  EXPECT_EQ(response.devices[0].received_bytes, 60u);
  EXPECT_NEAR(response.devices[0].round_trip_s, 0.02, 1e-9);
  EXPECT_EQ(response.devices[0].compute_s, 24 * 3600);  // no more is believed
  EXPECT_FALSE(response.devices[1].present);
}

TEST(Job, HasAllPresentWhereTheyAnsweredTogether) {
  auto plan = fleet_plan(examples::tensor_plan(fake_teacher(), 3), {"d0", "d1", "d2"});
  const auto job = sent();
  job->plan = &plan;
  job->mark_received(0, start + 1ms);
  EXPECT_FALSE(job->response(Status::deadline, start + 1s).devices[2].present);
  EXPECT_TRUE(job->response(Status::answered, start + 1s).devices[2].present);
}

// ---- which may run ----

/// Queues jobs 1, 2, … of which those in `for_all` wait for every device.
Jobs queued(const Jobs::Options& options, Job::Id count, const std::set<Job::Id>& for_all = {}) {
  Jobs jobs(options);
  for (Job::Id id = 1; id <= count; ++id) {
    jobs.add(job_of(request_of(1s, for_all.count(id) != 0), id));
    jobs.queue(id);
  }
  return jobs;
}

/// Those that may run now, which then do.
Ids launch_all(Jobs& jobs) {
  Ids ids;
  while (const auto job = jobs.take_next()) {
    jobs.take_place(*job);
    job->launch(three_shares(), 50ms, start);
    ids.push_back(job->id);
  }
  return ids;
}

TEST(Jobs, RunAsManyAsThereArePlacesTheOldestFirst) {
  auto jobs = queued({2, 8}, 4);
  EXPECT_EQ(launch_all(jobs), (Ids{1, 2}));
  EXPECT_EQ(jobs.num_queued(), 2u);
  const auto first = jobs.remove(1);
  EXPECT_EQ(jobs.take_next(), nullptr);  // its place is still taken
  jobs.free_place(*first);
  EXPECT_EQ(launch_all(jobs), (Ids{3}));
}

TEST(Jobs, LeaveHalfOfThePlacesToThoseThatDoNotWaitForAll) {
  auto jobs = queued({4, 8}, 6, {1, 2, 3, 4});
  EXPECT_EQ(launch_all(jobs), (Ids{1, 2, 5, 6}));
  jobs.free_place(*jobs.remove(5));
  EXPECT_EQ(launch_all(jobs), Ids());
  jobs.free_place(*jobs.remove(1));
  EXPECT_EQ(launch_all(jobs), (Ids{3}));
}

TEST(Jobs, OfOnePlaceItIsForThoseThatWaitForAllToo) {
  auto jobs = queued({1, 8}, 1, {1});
  EXPECT_EQ(launch_all(jobs), (Ids{1}));
}

TEST(Jobs, AreFullWithoutAPlaceAndRoomInTheQueue) {
  auto jobs = queued({1, 1}, 2);
  EXPECT_FALSE(jobs.is_full());  // a place
  EXPECT_EQ(launch_all(jobs), (Ids{1}));
  EXPECT_TRUE(jobs.is_full());
  jobs.remove(2);
  EXPECT_FALSE(jobs.is_full());  // room in the queue
}

TEST(Jobs, AreFoundUntilTheyAreRemovedAlsoFromTheQueue) {
  auto jobs = queued({1, 8}, 3);
  launch_all(jobs);
  EXPECT_NE(jobs.find(2), nullptr);
  EXPECT_EQ(jobs.find_running(2), nullptr);
  EXPECT_NE(jobs.find_running(1), nullptr);
  EXPECT_EQ(jobs.remove(2)->id, 2u);
  EXPECT_EQ(jobs.find(2), nullptr);
  jobs.free_place(*jobs.remove(1));
  EXPECT_EQ(launch_all(jobs), (Ids{3}));
  EXPECT_FALSE(jobs.empty());
  jobs.remove(3);
  EXPECT_TRUE(jobs.empty());
}

TEST(Jobs, AreFoundByTheShareOfADevice) {
  auto jobs = queued({3, 8}, 4);  // the last is not launched
  launch_all(jobs);
  jobs.find(2)->mark_sent(1, 100, start);
  jobs.find(3)->mark_sent(1, 100, start);
  jobs.find(3)->mark_received(1, start);
  EXPECT_EQ(jobs.with_stage(1, Stage::sent), (Ids{2}));
  EXPECT_EQ(jobs.with_open(1), (Ids{1, 2}));
}

}  // namespace
}  // namespace cleave::infer
