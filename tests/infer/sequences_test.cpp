#include "infer/sequences.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/infer/fake_parts.hpp"

namespace cleave::infer {
namespace {

using Ids = std::vector<Sequences::Id>;

constexpr std::size_t hub = 0, cam = 2;

Sequence beginning(Sequences::Id text) { return {text, 0, 100}; }
Sequence continuing(Sequences::Id text) { return {text, 5, 100}; }

class SequencesTest : public ::testing::Test {
 protected:
  static plan::Plan named(plan::Plan plan, const std::string& name) {
    plan.name = name;
    return plan;
  }
  static FleetPlan fleet_plan(const plan::Plan& plan) {
    return FleetPlan(plan, {"hub", "desk", "cam"}, std::vector<double>(plan.parts.size(), 0));
  }

  FleetPlan all = fleet_plan(named(fake_plan(), "all"));
  FleetPlan alone = fleet_plan(named(fake_local_plan(), "alone"));  // of `hub`
  Sequences sequences;
};

TEST_F(SequencesTest, ContinueWithThePlanThatTheyBeganWith) {
  sequences.open(beginning(1), all, 7);
  EXPECT_EQ(sequences.objection(continuing(1), all), "");
  EXPECT_EQ(sequences.objection(continuing(1), alone),
            "sequence 1: saw plan 'alone', began with 'all'");
  EXPECT_EQ(sequences.objection(beginning(1), alone), "");
}

TEST_F(SequencesTest, BeginWithTheirFirstTokens) {
  EXPECT_EQ(sequences.objection(beginning(1), all), "");
  EXPECT_EQ(sequences.objection(continuing(1), all),
            "sequence 1: is not known, needs to begin with its first tokens");
  sequences.open(continuing(1), all, 7);  // does not begin it
  EXPECT_NE(sequences.objection(continuing(1), all), "");
  EXPECT_FALSE(sequences.end(1));
}

TEST_F(SequencesTest, ARequestOfNoTextIsNoneOfThem) {
  const Sequence none;
  EXPECT_EQ(sequences.objection(none, all), "");
  sequences.open(none, all, 7);
  EXPECT_FALSE(sequences.leave(0, hub, "late"));
  EXPECT_FALSE(sequences.close(0, 7));
}

TEST_F(SequencesTest, LeaveOutWhoMissedAPartAndSayWhyTheFirstTime) {
  sequences.open(beginning(1), all, 7);
  EXPECT_EQ(sequences.why_left(1, cam), nullptr);
  EXPECT_TRUE(sequences.leave(1, cam, "late"));
  EXPECT_FALSE(sequences.leave(1, cam, "lost: closed"));
  ASSERT_NE(sequences.why_left(1, cam), nullptr);
  EXPECT_EQ(*sequences.why_left(1, cam), "late");
  EXPECT_EQ(sequences.why_left(1, hub), nullptr);
  EXPECT_FALSE(sequences.leave(2, cam, "late"));  // nobody began it
}

TEST_F(SequencesTest, TakeADeviceInAgainWhereTheyBeginAnew) {
  sequences.open(beginning(1), all, 7);
  sequences.leave(1, hub, "late");
  sequences.leave(1, cam, "late");
  sequences.rejoin(1, cam);
  EXPECT_EQ(sequences.why_left(1, cam), nullptr);
  EXPECT_NE(sequences.why_left(1, hub), nullptr);
  sequences.open(beginning(1), all, 8);
  EXPECT_EQ(sequences.why_left(1, hub), nullptr);
}

TEST_F(SequencesTest, ADeviceThatIsLostLeavesAllTextsOfItsPlans) {
  sequences.open(beginning(1), all, 7);
  sequences.open(beginning(2), alone, 8);
  sequences.open(beginning(3), all, 9);
  sequences.leave(3, cam, "late");
  EXPECT_EQ(sequences.leave_all(cam, "lost: closed"), (Ids{1}));
  EXPECT_EQ(sequences.leave_all(hub, "lost: closed"), (Ids{1, 2, 3}));
  EXPECT_EQ(*sequences.why_left(3, cam), "late");
}

TEST_F(SequencesTest, AreForgottenOnceTheyEnd) {
  sequences.open(beginning(1), all, 7);
  EXPECT_FALSE(sequences.close(1, 7));
  EXPECT_EQ(sequences.objection(continuing(1), all), "");
  EXPECT_TRUE(sequences.end(1));
  EXPECT_NE(sequences.objection(continuing(1), all), "");
  EXPECT_FALSE(sequences.end(1));
}

TEST_F(SequencesTest, EndAfterTheirRequests) {
  sequences.open(beginning(1), all, 7);
  sequences.open(continuing(1), all, 8);
  EXPECT_FALSE(sequences.end(1));
  EXPECT_FALSE(sequences.close(1, 9));  // was never one of its
  EXPECT_FALSE(sequences.close(1, 7));
  EXPECT_EQ(sequences.objection(continuing(1), all), "");
  EXPECT_TRUE(sequences.close(1, 8));
  EXPECT_NE(sequences.objection(continuing(1), all), "");
}

}  // namespace
}  // namespace cleave::infer
