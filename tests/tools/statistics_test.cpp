#include "tools/commands/statistics.hpp"

#include <numeric>
#include <stdexcept>

#include <gtest/gtest.h>

namespace cleave::tools {
namespace {

TEST(Spread, OneOutlierDoesNotMoveTheMedian) {
  const auto spread = spread_of({1, 2, 3, 4, 1000});
  EXPECT_DOUBLE_EQ(spread.median, 3);
  EXPECT_DOUBLE_EQ(spread.mad, 1);
  EXPECT_DOUBLE_EQ(spread.maximum, 1000);
}

TEST(Spread, PercentilesAreNearestRanks) {
  std::vector<double> values(100);
  std::iota(values.begin(), values.end(), 1.0);
  const auto spread = spread_of(values);
  EXPECT_DOUBLE_EQ(spread.p90, 90);
  EXPECT_DOUBLE_EQ(spread.p99, 99);
  EXPECT_DOUBLE_EQ(spread.median, 50.5);
}

TEST(Spread, OfOneValueIsThatValue) {
  const auto spread = spread_of({7});
  EXPECT_DOUBLE_EQ(spread.p99, 7);
  EXPECT_DOUBLE_EQ(spread.mad, 0);
}

TEST(Spread, NeedsAValue) { EXPECT_THROW(spread_of({}), std::invalid_argument); }

}  // namespace
}  // namespace cleave::tools
