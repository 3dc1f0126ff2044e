#include "optimizer/decomposed/relax.hpp"

#include <numeric>

#include <gtest/gtest.h>

#include "tests/optimizer/examples.hpp"

namespace cleave::optimizer {
namespace {

RelaxProblem three() {
  RelaxProblem problem;
  problem.team = {0, 1, 2};
  problem.offset_s = {0.1e-3, 12e-3, 24e-3};
  problem.room_bytes = {8e9, 8e9, 8e9};
  return problem;
}

double seconds(const Space& space, std::size_t device, const std::array<double, num_axes>& values) {
  return space.seconds_cost(device)(values[axis::depth], values[axis::width], values[axis::heads],
                                    values[axis::mlp]);
}

double parameters(const Space& space, const std::array<double, num_axes>& values) {
  return space.parameter_cost()(values[axis::depth], values[axis::width], values[axis::heads],
                                values[axis::mlp]);
}

TEST(Relax, LetsAllFinishTogether) {
  const Space space(examples::vit_base(), examples::three_devices(), PlanOptions{}, {});
  const RelaxProblem problem = three();
  const RelaxSummary relaxed = relax(space, problem);
  EXPECT_TRUE(relaxed.converged);
  for (std::size_t p = 0; p < 3; ++p)
    EXPECT_NEAR(seconds(space, p, relaxed.values[p]) + problem.offset_s[p], relaxed.finish_s,
                0.02 * relaxed.finish_s);
}

TEST(Relax, StaysWithinMemoryShareAndTime) {
  const Space space(examples::vit_base(), examples::three_devices(), PlanOptions{}, {});
  RelaxProblem problem = three();
  problem.loss_weight = 100;  // as much as possible
  problem.max_part_share = 0.3;
  problem.room_bytes[2] = 55e6;
  problem.max_finish_s = 0.5;
  const RelaxSummary relaxed = relax(space, problem);
  EXPECT_LE(relaxed.finish_s, 0.5 + 1e-9);
  for (std::size_t p = 0; p < 3; ++p) {
    EXPECT_LE(parameters(space, relaxed.values[p]), 1.01 * 0.3 * space.teacher_parameters());
    EXPECT_LE(seconds(space, p, relaxed.values[p]) + problem.offset_s[p], 0.5 * 1.01);
  }
  EXPECT_LE(4 * parameters(space, relaxed.values[2]), 55e6);
  EXPECT_GT(4 * parameters(space, relaxed.values[2]), 30e6);
}

TEST(Relax, SharesOutAPartition) {
  const Space space(examples::vit_base(), examples::three_devices(), PlanOptions{}, {});
  RelaxProblem problem = three();
  problem.partition = true;
  const RelaxSummary relaxed = relax(space, problem);
  double channels = 0, heads = 0;
  for (const auto& values : relaxed.values) {
    channels += values[axis::width];
    heads += values[axis::heads];
  }
  EXPECT_NEAR(channels, 768, 0.02 * 768);
  EXPECT_LE(heads, 12 * 1.01);
}

std::int32_t sum(const std::vector<Share>& shares, Axis axis) {
  std::int32_t total = 0;
  for (const Share& share : shares) total += share[axis];
  return total;
}

TEST(RoundShares, KeepsTheSumsOfAPartition) {
  const Space space(examples::vit_base(), examples::three_devices(), PlanOptions{}, {});
  RelaxSummary relaxed;
  // In steps of 8: 48.5, 30.25 and 17.25, which is 96 together; heads 6.4, 3.4 and 2.2, which
  // is 12.
  relaxed.values = {{10.4, 388, 6.4, 1000}, {8.6, 242, 3.4, 700}, {6, 138, 2.2, 3}};
  const auto shares = round_shares(space, relaxed, true);
  EXPECT_EQ(sum(shares, axis::width), 96);
  EXPECT_EQ(sum(shares, axis::heads), 12);
  EXPECT_EQ(shares[0], (Share{10, 49, 7, 125}));
  EXPECT_EQ(shares[1], (Share{9, 30, 3, 88}));
  EXPECT_EQ(shares[2], (Share{6, 17, 2, 1}));  // no less than the smallest part
}

TEST(RoundShares, TakesFromTheWidestWhereTheSmallestDoNotFit) {
  const Space space(examples::fashion_vit(), examples::three_devices(), PlanOptions{}, {});
  RelaxSummary relaxed;
  relaxed.values = {{6, 190, 5.8, 700}, {3, 1, 0.1, 100}, {3, 1, 0.1, 100}};
  const auto shares = round_shares(space, relaxed, true);
  EXPECT_EQ(sum(shares, axis::width), 24);
  EXPECT_EQ(sum(shares, axis::heads), 6);
  EXPECT_EQ(shares[1][axis::width], 1);
  EXPECT_EQ(shares[2][axis::heads], 1);
}

TEST(RoundShares, RoundsToTheNearestElsewhere) {
  const Space space(examples::vit_base(), examples::three_devices(), PlanOptions{}, {});
  RelaxSummary relaxed;
  relaxed.values = {{9.6, 523, 7.4, 1500}};
  EXPECT_EQ(round_shares(space, relaxed, false).front(), (Share{10, 65, 7, 188}));
}

}  // namespace
}  // namespace cleave::optimizer
