#include "optimizer/decomposed/climb.hpp"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/optimizer/examples.hpp"

namespace cleave::optimizer {
namespace {

const Budget plenty{4000, std::chrono::steady_clock::now() + std::chrono::minutes(5)};

/// The highest quality of any part that the device computes within `within_s`: all layers, heads
/// and widths, the columns by bisection.
double best_quality(const Space& space, const PlanOptions& options, std::size_t device,
                    double within_s) {
  const auto fits = [&](const Share& share) {
    return space.seconds(device, share) <= within_s &&
           space.parameter_share(share) <= options.limits.max_part_share;
  };
  double best = 0;
  Share share{};
  for (share[axis::depth] = 2; share[axis::depth] <= space.largest()[axis::depth];
       ++share[axis::depth])
    for (share[axis::heads] = 1; share[axis::heads] <= space.largest()[axis::heads];
         ++share[axis::heads])
      for (share[axis::width] = 1; share[axis::width] <= space.largest()[axis::width];
           ++share[axis::width]) {
        std::int32_t fit = 0, beyond = space.largest()[axis::mlp] + 1;
        while (fit + 1 < beyond) {
          share[axis::mlp] = (fit + beyond) / 2;
          (fits(share) ? fit : beyond) = share[axis::mlp];
        }
        if (fit == 0) continue;
        share[axis::mlp] = fit;
        best = std::max(best, space.quality(share));
      }
  return best;
}

/// No plan of the team is better than this: between two finish times no part is better than what
/// fits by the later, and the answer is no earlier than the earlier.
double lower_bound_s(const Space& space, const PlanOptions& options, Pricer& pricer, double from_s,
                     double to_s) {
  const std::vector<Share> smallest(pricer.team().size(), space.smallest());
  const double least_s = pricer.price(smallest).latency_s;
  std::vector<double> offset_s;
  double last_s = 0;
  for (std::size_t p = 0; p < pricer.team().size(); ++p) {
    offset_s.push_back(pricer.finish_s(p) - space.seconds(pricer.team()[p], space.smallest()));
    last_s = std::max(last_s, pricer.finish_s(p));
  }
  double bound_s = 1e9;
  for (double t = from_s; t < to_s; t *= 1.01) {
    std::vector<double> qualities;
    for (std::size_t p = 0; p < offset_s.size(); ++p)
      qualities.push_back(best_quality(space, options, pricer.team()[p], t * 1.01 - offset_s[p]));
    bound_s = std::min(
        bound_s, judge(t + least_s - last_s, kept_importance(qualities), options, space.teacher_s())
                     .objective_s);
  }
  return bound_s;
}

TEST(OptimiseTeam, IsWithinTwoPercentOfABoundForViTBase) {
  PlanOptions options;
  options.limits.max_part_share = 0.4;
  const auto fleet = examples::three_devices();
  const Space space(examples::vit_base(), fleet, options, {});
  Pricer pricer(space, options, {0, 1, 2});
  const Outcome outcome = optimise_team(space, options, pricer, plenty);
  ASSERT_TRUE(outcome.price.feasible());
  const double t = outcome.price.latency_s;
  const double bound_s = lower_bound_s(space, options, pricer, 0.7 * t, 1.4 * t);
  EXPECT_LE(outcome.price.objective_s, 1.02 * bound_s);
  EXPECT_GE(outcome.price.objective_s, bound_s);
}

TEST(OptimiseTeam, SaysWhatItsSharesAreWorth) {
  const PlanOptions options;
  const Space space(examples::fashion_vit(), examples::three_devices(), options, {});
  Pricer pricer(space, options, {0, 2});
  const Outcome outcome = optimise_team(space, options, pricer, plenty);
  EXPECT_EQ(outcome.team, (std::vector<std::size_t>{0, 2}));
  EXPECT_EQ(pricer.price(outcome.shares).objective_s, outcome.price.objective_s);
}

TEST(OptimiseTeam, KeepsToItsBudget) {
  const PlanOptions options;
  const Space space(examples::fashion_vit(), examples::three_devices(), options, {});
  Pricer pricer(space, options, {0, 1, 2});
  optimise_team(space, options, pricer,
                {200, std::chrono::steady_clock::now() + std::chrono::minutes(5)});
  EXPECT_LE(pricer.evaluations(), 210);
}

}  // namespace
}  // namespace cleave::optimizer
