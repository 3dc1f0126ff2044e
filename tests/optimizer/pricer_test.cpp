#include "optimizer/pricer.hpp"

#include <random>

#include <gtest/gtest.h>

#include "optimizer/predict.hpp"
#include "optimizer/simulate.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::optimizer {
namespace {

std::vector<Share> any_shares(const Space& space, std::size_t count, std::mt19937_64& random) {
  std::vector<Share> shares(count);
  for (Share& share : shares)
    for (const Axis axis : all_axes)
      share[axis] = std::uniform_int_distribution<std::int32_t>(space.smallest()[axis],
                                                                space.largest()[axis])(random);
  return shares;
}

void expect_prices_as_played(const model::ModelConfig& teacher, const plan::RequestShape& shape) {
  const auto fleet = examples::three_devices();
  PlanOptions options;
  options.shape = shape;
  const Space space(teacher, fleet, options, {});
  std::mt19937_64 random(11);
  for (const std::vector<std::size_t>& team : {std::vector<std::size_t>{0, 1, 2}, {1, 2}, {2}}) {
    Pricer pricer(space, options, team);
    for (int i = 0; i < 10; ++i) {
      const auto shares = any_shares(space, team.size(), random);
      const Price price = pricer.price(shares);
      const plan::Plan plan = pricer.plan(shares);
      EXPECT_NEAR(price.latency_s, simulate(plan, plan::compile(plan, plan.shape), fleet).latency_s,
                  1e-9 * price.latency_s);
      EXPECT_NEAR(price.latency_s, plan.prediction.latency_s, 1e-9 * price.latency_s);
      EXPECT_NEAR(price.kept, plan.prediction.kept_importance, 1e-12);
    }
  }
}

TEST(Pricer, PricesAsTheSimulatorPlays) {
  expect_prices_as_played(examples::fashion_vit(), {3, 0, 0});
  expect_prices_as_played(examples::small_llama(), examples::generated_texts());
}

/// Random shares on devices that have `room_bytes` for their model break the limits that the plan
/// of these shares breaks.
void expect_limits_of_the_plan(const model::ModelConfig& teacher, const PlanOptions& options,
                               double room_bytes) {
  const auto fleet = examples::three_devices(175e6 + room_bytes);
  const Space space(teacher, fleet, options, {});
  Pricer pricer(space, options, {0, 1, 2});
  std::mt19937_64 random(13);
  int num_feasible = 0;
  for (int i = 0; i < 300; ++i) {
    const auto shares = any_shares(space, 3, random);
    const Price price = pricer.price(shares);
    const auto broken = shortfalls(pricer.plan(shares), fleet, options);
    EXPECT_EQ(price.feasible(), broken.empty())
        << (broken.empty() ? "nothing broken" : broken.front().text);
    double sum = 0;
    for (const Shortfall& shortfall : broken) sum += shortfall.relative;
    EXPECT_NEAR(price.violation, sum, 1e-6 * (1 + sum));
    num_feasible += price.feasible() ? 1 : 0;
  }
  // The limits fall between them.
  EXPECT_GT(num_feasible, 0);
  EXPECT_LT(num_feasible, 300);
}

TEST(Pricer, SeesTheLimitsThatThePlanBreaks) {
  PlanOptions options;
  options.limits.latency_s = 8e-3;
  options.limits.max_part_share = 0.6;
  options.limits.min_importance = 0.9;
  expect_limits_of_the_plan(examples::fashion_vit(), options, 15e6);
}

TEST(Pricer, SeesWhereKeysAndValuesDoNotFit) {
  PlanOptions options;
  options.shape = {4, 100, 1900};
  // 8 MB of keys and values each layer with all its heads, up to 33.
  expect_limits_of_the_plan(examples::small_llama(), options, 32e6);
}

TEST(Pricer, SeesTheDiskThatIsTooSmall) {
  auto fleet = examples::three_devices();
  const model::ModelConfig teacher = examples::fashion_vit();
  fleet.devices[2].disk_bytes = plan::weight_bytes(teacher) / 3;
  const PlanOptions options;
  const Space space(teacher, fleet, options, {});
  Pricer pricer(space, options, {1, 2});
  EXPECT_TRUE(pricer.price({space.largest(), space.smallest()}).feasible());
  const std::vector<Share> shares(2, space.largest());
  const auto broken = shortfalls(pricer.plan(shares), fleet, options);
  ASSERT_EQ(broken.size(), 1u);
  EXPECT_EQ(broken.front().text.rfind("disk on 'cam': needs ", 0), 0u) << broken.front().text;
  EXPECT_NEAR(pricer.price(shares).violation, broken.front().relative, 1e-9);
}

TEST(Pricer, GivesAModelTheRoomBesideTheRuntime) {
  const Space space(examples::fashion_vit(), examples::three_devices(300e6), {}, {});
  EXPECT_EQ(Pricer(space, {}, {0, 2}).room_bytes(1), 300e6 - 175e6);
}

TEST(Pricer, CountsTheMemoryOfTheAggregatorToo) {
  auto fleet = examples::three_devices();
  // The agent of the hub has little to hold, its aggregator a classifier of 3 MB.
  fleet.devices[0].memory_bytes = 175e6 + 4e6;
  const PlanOptions options;
  const Space space(examples::vit_base(), fleet, options, {});
  Pricer pricer(space, options, {1, 2});
  for (const Share& share : {space.smallest(), space.largest()}) {
    const std::vector<Share> shares(2, share);
    const auto broken = shortfalls(pricer.plan(shares), fleet, options);
    ASSERT_EQ(broken.size(), 1u);
    EXPECT_EQ(broken.front().text.rfind("memory on 'aggregator@hub': needs ", 0), 0u)
        << broken.front().text;
    EXPECT_NEAR(pricer.price(shares).violation, broken.front().relative, 1e-9);
  }
}

TEST(Pricer, WantsAPartitionToStayWithinTheTeacher) {
  PlanOptions options;
  options.partition = true;
  const Space space(examples::fashion_vit(), examples::three_devices(), options, {});
  Pricer pricer(space, options, {0, 1});
  Share half = space.largest();
  half[axis::width] = space.largest()[axis::width] / 2;
  half[axis::heads] = space.largest()[axis::heads] / 2;
  EXPECT_TRUE(pricer.price({half, half}).feasible());
  Share more = half;
  ++more[axis::width];
  EXPECT_FALSE(pricer.price({half, more}).feasible());
  more = half;
  ++more[axis::heads];
  EXPECT_FALSE(pricer.price({more, half}).feasible());
}

TEST(KeptImportance, GrowsWithEachPartAndIsWholeWithTheTeacher) {
  EXPECT_EQ(kept_importance({}), 0);
  EXPECT_NEAR(kept_importance({0.5}), 0.5, 1e-12);
  EXPECT_NEAR(kept_importance({0.5, 0.4}), 0.7, 1e-12);
  EXPECT_EQ(kept_importance({0.5, 1.0}), 1);
}

TEST(Judge, WeighsTimeAgainstImportance) {
  PlanOptions options;
  options.accuracy_weight = 2;
  EXPECT_NEAR(judge(0.3, 0.9, options, 1.5).objective_s, 0.3 + 2 * 1.5 * 0.1, 1e-12);
  options.objective = Objective::accuracy;
  EXPECT_LT(judge(3, 0.91, options, 1.5).objective_s, judge(0.3, 0.9, options, 1.5).objective_s);
  EXPECT_LT(judge(0.3, 0.9, options, 1.5).objective_s, judge(3, 0.9, options, 1.5).objective_s);
}

TEST(Better, PutsLimitsBeforeTheObjective) {
  Price within{1, 0.5, 0, 10}, faster{0.5, 0.5, 0, 5}, broken{0.1, 0.9, 0.2, 1},
      worse{0.1, 0.9, 0.3, 0.5};
  EXPECT_TRUE(better(faster, within));
  EXPECT_TRUE(better(within, broken));
  EXPECT_FALSE(better(broken, within));
  EXPECT_TRUE(better(broken, worse));
}

}  // namespace
}  // namespace cleave::optimizer
