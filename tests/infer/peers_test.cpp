// What the aggregator keeps of one device, by a clock that the test sets.

#include "infer/peers.hpp"

#include <vector>

#include <gtest/gtest.h>

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using Ids = std::vector<std::uint64_t>;

const Clock::time_point start = Clock::time_point() + 1h;

// ---- window ----

TEST(Window, TakesAsManyAsTheDeviceSaid) {
  Window window;
  window.open(2);
  window.sent(1);
  EXPECT_TRUE(window.has_room());
  window.sent(2);
  EXPECT_FALSE(window.has_room());
  window.ended(1, true);
  EXPECT_TRUE(window.has_room());
}

TEST(Window, IsSmallerAfterBusyUntilIdle) {
  Window window;
  window.open(4);
  for (const auto id : Ids{1, 2, 3}) window.sent(id);
  window.busy(3);
  EXPECT_FALSE(window.has_room()) << "as many as it had";
  window.ended(1, false);
  window.ended(2, false);
  for (const auto id : Ids{4, 5, 6}) window.sent(id);
  EXPECT_TRUE(window.has_room()) << "all again";
}

TEST(Window, GrowsByOneForEachSixteenThatEndThoughOthersWait) {
  Window window;
  window.open(4);
  window.sent(1);
  window.sent(2);
  window.busy(2);
  for (std::uint64_t id = 1; id < 16; ++id) {
    window.ended(id, true);
    window.sent(id + 1);
    EXPECT_FALSE(window.has_room()) << id;
  }
  window.ended(16, true);
  window.sent(17);
  EXPECT_TRUE(window.has_room());
  window.sent(18);
  EXPECT_FALSE(window.has_room());
}

// ---- patience ----

/// Each is predicted to take 100 ms, and has 300 ms alone.
class PatienceTest : public ::testing::Test {
 protected:
  void send(std::uint64_t id, Clock::duration after, Expected expected = {50ms, 0.1}) {
    patience.add(id, start + after, expected);
    patience.sent(id, start + after);
  }
  Ids late(Clock::duration after) { return patience.take_late(start + after); }
  Patience patience{3};
};

TEST_F(PatienceTest, IsThePredictedTimesLatenessAndAtLeastTheLeastWait) {
  send(1, 0ms);
  EXPECT_EQ(patience.next(), start + 300ms);
  EXPECT_EQ(late(299ms), Ids{});
  EXPECT_EQ(late(300ms), Ids{1});
  EXPECT_EQ(late(301ms), Ids{}) << "told once";
  patience.clear();
  send(2, 0ms, {50ms, 0.001});
  EXPECT_EQ(patience.next(), start + 50ms);
}

TEST_F(PatienceTest, CountsFromTheSendingAndOnceFromTheFirst) {
  patience.add(1, start, {50ms, 0.1});
  EXPECT_EQ(patience.next(), start + 300ms) << "it may never be sent";
  patience.sent(1, start + 200ms);
  EXPECT_EQ(patience.next(), start + 500ms);
  patience.sent(1, start + 400ms);  // after busy
  EXPECT_EQ(patience.next(), start + 500ms);
}

// Each is slower than predicted, but in time; the last has waited for three others.
TEST_F(PatienceTest, AFullWindowOfADeviceThatIsWellIsNeverLate) {
  for (std::uint64_t id = 1; id <= 4; ++id) send(id, 0ms, {300ms, 0.01});
  for (std::uint64_t id = 1; id <= 4; ++id) {
    const auto answer_at = static_cast<std::int64_t>(id) * 290ms;
    EXPECT_EQ(late(answer_at), Ids{}) << id;
    patience.answered(id, start + answer_at);
  }
  EXPECT_EQ(patience.next(), std::nullopt);
}

TEST_F(PatienceTest, WaitsForWhatIsAhead) {
  send(1, 0ms, {50ms, 0.64});  // a large batch: 1.92 s
  send(2, 0ms, {50ms, 0.01});
  EXPECT_EQ(late(1919ms), Ids{});
  patience.answered(1, start + 1919ms);
  EXPECT_EQ(patience.next(), start + 1969ms);
}

TEST_F(PatienceTest, ADeviceThatFallsSilentIsLateWithAllAtOnce) {
  for (std::uint64_t id = 1; id <= 4; ++id) send(id, 0ms);
  EXPECT_EQ(late(299ms), Ids{});
  EXPECT_EQ(late(300ms), (Ids{1, 2, 3, 4}));
}

TEST_F(PatienceTest, WhatIsLateLengthensNobodysPatience) {
  for (std::uint64_t id = 1; id <= 4; ++id) send(id, 0ms);
  late(300ms);  // still there: whoever asked has not given them up
  send(5, 400ms);
  EXPECT_EQ(patience.next(), start + 700ms);
}

TEST_F(PatienceTest, WhatIsCanceledLengthensNobodysPatience) {
  send(1, 0ms, {50ms, 0.64});
  send(2, 0ms, {50ms, 0.01});
  patience.remove(1);
  EXPECT_EQ(patience.next(), start + 50ms);
}

TEST_F(PatienceTest, AnAnswerGivesNoTimeToThoseBeforeIt) {
  send(1, 0ms);
  send(2, 0ms);
  patience.answered(2, start + 250ms);
  EXPECT_EQ(patience.next(), start + 300ms) << "the first was lost";
}

TEST_F(PatienceTest, AnAnswerThatIsLateGivesNobodyTime) {
  send(1, 0ms);
  send(2, 100ms);
  EXPECT_EQ(late(300ms), Ids{1});
  patience.answered(1, start + 350ms);
  EXPECT_EQ(patience.next(), start + 400ms);
}

TEST_F(PatienceTest, WhereNothingIsPredictedNothingIsLate) {
  send(1, 0ms, {50ms, 0});
  EXPECT_EQ(patience.next(), std::nullopt);
  EXPECT_EQ(late(24h), Ids{});
}

TEST_F(PatienceTest, APredictionOfYearsDoesNotOverflow) {
  send(1, 0ms, {50ms, 1e12});
  EXPECT_EQ(late(1h), Ids{});
}

// ---- standing ----

class StandingTest : public ::testing::Test {
 protected:
  /// Ejects it as its third in a row does.
  void eject(Clock::time_point now) {
    while (!standing.late()) {
    }
    standing.eject(now);
  }
  void come_back() {
    for (int i = 0; i < 3; ++i) {
      standing.probe_sent();
      EXPECT_EQ(standing.probe_in_time(), i == 2);
    }
  }
  Standing standing;
};

TEST_F(StandingTest, ThreeInARowAreTooMany) {
  EXPECT_FALSE(standing.late());
  standing.in_time();
  EXPECT_FALSE(standing.late());
  EXPECT_FALSE(standing.late());
  EXPECT_TRUE(standing.late()) << "four of five: it is the row";
}

TEST_F(StandingTest, FiveOfTheLastTenAreTooMany) {
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(standing.late());
    standing.in_time();
  }
  EXPECT_TRUE(standing.late());
}

TEST_F(StandingTest, WhatIsLongerAgoIsForgotten) {
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(standing.late());
    standing.in_time();
  }
  for (int i = 0; i < 4; ++i) standing.in_time();
  EXPECT_FALSE(standing.late()) << "the first two are the eleventh and twelfth";
}

TEST_F(StandingTest, IsProbedOneAtATimeAfterPausesThatGrow) {
  eject(start);
  auto now = start;
  for (const auto pause : {1s, 2s, 4s, 8s, 16s, 30s, 30s}) {
    EXPECT_TRUE(standing.ejected());
    EXPECT_FALSE(standing.wants_probe(now + pause - 1ms)) << pause.count();
    now += pause;
    EXPECT_TRUE(standing.wants_probe(now)) << pause.count();
    standing.probe_sent();
    EXPECT_FALSE(standing.wants_probe(now + 1h)) << "one is under way";
    standing.probe_failed(now);
  }
}

TEST_F(StandingTest, IsBackAfterThreeProbesInTime) {
  eject(start);
  standing.probe_sent();
  EXPECT_FALSE(standing.probe_in_time());
  EXPECT_TRUE(standing.wants_probe(start + 1s)) << "the next follows at once";
  standing.probe_sent();
  EXPECT_FALSE(standing.probe_in_time());
  standing.probe_sent();
  standing.probe_failed(start + 1s);
  EXPECT_TRUE(standing.ejected());
  come_back();
  EXPECT_FALSE(standing.ejected());
  EXPECT_FALSE(standing.late()) << "what was before counts no more";
}

TEST_F(StandingTest, ADeviceThatIsSoonEjectedAgainPausesLonger) {
  for (const auto pause : {1000ms, 2000ms, 4000ms}) {
    eject(start);
    EXPECT_EQ(standing.pause(), pause);
    come_back();
    for (int i = 0; i < 9; ++i) standing.in_time();
  }
  standing.in_time();
  eject(start);
  EXPECT_EQ(standing.pause(), 1000ms) << "ten in time: it was well";
}

TEST_F(StandingTest, AnEjectedDeviceIsNotEjectedTwice) {
  eject(start);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(standing.late());
}

// ---- pace ----

TEST(Pace, TellsOnceThatADeviceIsSteadilySlow) {
  Pace pace;
  for (int i = 0; i < 19; ++i) EXPECT_EQ(pace.add(0.4, 0.1), std::nullopt) << i;
  const auto times = pace.add(0.4, 0.1);
  ASSERT_TRUE(times.has_value());
  EXPECT_DOUBLE_EQ(*times, 4);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(pace.add(0.4, 0.1), std::nullopt) << i;
}

TEST(Pace, SaysNothingOfAFewSlowAnswers) {
  Pace pace;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(pace.add(i % 5 < 2 ? 9.0 : 0.1, 0.1), std::nullopt) << i;
}

TEST(Pace, SaysNothingWhereNothingIsPredictedOrUpToThreeTimes) {
  Pace pace;
  for (int i = 0; i < 50; ++i) EXPECT_EQ(pace.add(9, 0), std::nullopt);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(pace.add(0.75, 0.25), std::nullopt);
}

}  // namespace
}  // namespace cleave::infer
