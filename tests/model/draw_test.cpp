#include "model/draw.hpp"

#include <algorithm>
#include <map>
#include <set>

#include <gtest/gtest.h>

namespace cleave::model {
namespace {

using Rows = std::vector<std::int64_t>;

/// Rows sorted by class, as folders of classes give them.
Rows sorted_classes(const std::vector<std::int64_t>& sizes) {
  Rows classes;
  for (std::size_t c = 0; c < sizes.size(); ++c)
    classes.insert(classes.end(), static_cast<std::size_t>(sizes[c]), static_cast<std::int64_t>(c));
  return classes;
}

std::map<std::int64_t, std::int64_t> counts(const Rows& classes, const Rows& rows) {
  std::map<std::int64_t, std::int64_t> found;
  for (const std::int64_t row : rows) ++found[classes[static_cast<std::size_t>(row)]];
  return found;
}

bool contains(const Rows& rows, const Rows& some) {
  return std::includes(rows.begin(), rows.end(), some.begin(), some.end());
}

TEST(HeldOut, HasEveryClassByItsShareWhateverTheOrder) {
  Rows classes = sorted_classes({600, 300, 100});
  using Counts = std::map<std::int64_t, std::int64_t>;
  EXPECT_EQ(counts(classes, held_out(classes, 100)), (Counts{{0, 60}, {1, 30}, {2, 10}}));
  std::rotate(classes.begin(), classes.begin() + 450, classes.end());
  EXPECT_EQ(counts(classes, held_out(classes, 100)), (Counts{{0, 60}, {1, 30}, {2, 10}}));
}

TEST(HeldOut, IsNearEachShareAndHasOneOfEachClass) {
  const std::vector<std::int64_t> sizes = {97, 41, 13, 5, 2};
  const Rows classes = sorted_classes(sizes);
  const auto total = static_cast<std::int64_t>(classes.size());
  for (std::int64_t count = 5; count <= total - 5; ++count) {
    const auto found = counts(classes, held_out(classes, count));
    for (std::size_t c = 0; c < sizes.size(); ++c) {
      const double share = static_cast<double>(sizes[c] * count) / static_cast<double>(total);
      const auto held = found.count(static_cast<std::int64_t>(c)) == 0
                            ? 0
                            : found.at(static_cast<std::int64_t>(c));
      EXPECT_NEAR(static_cast<double>(held), share, 2.5) << "class " << c << " of " << count;
      EXPECT_GE(held, 1);
      EXPECT_LT(held, sizes[c]);
    }
  }
}

// A class of a single row is learned from: what validation asks of it would not be known.
TEST(HeldOut, LeavesARowOfEachClass) {
  const Rows classes = sorted_classes({50, 1, 3, 1});
  for (const std::int64_t count : {10, 30, 51}) {
    const auto found = counts(classes, held_out(classes, count));
    EXPECT_EQ(found.count(1) + found.count(3), 0U) << count;
    EXPECT_LE(found.at(2), 2) << count;
  }
  EXPECT_EQ(held_out(classes, 55).size(), 55U) << "all, where all are asked for";
  EXPECT_TRUE(held_out(classes, 0).empty());
}

TEST(HeldOut, OfMoreRowsContainsThatOfFewer) {
  const Rows classes = sorted_classes({70, 20, 40});
  Rows before;
  for (std::int64_t count = 1; count <= 130; ++count) {
    const Rows rows = held_out(classes, count);
    ASSERT_EQ(static_cast<std::int64_t>(rows.size()), count);
    ASSERT_TRUE(contains(rows, before)) << count;
    before = rows;
  }
}

TEST(HeldOut, DoesNotDependOnTheNumbersThatClassesGoBy) {
  const Rows classes = sorted_classes({30, 20, 10});
  Rows renamed;
  for (const std::int64_t c : classes) renamed.push_back(7 - 3 * c);
  EXPECT_EQ(held_out(renamed, 12), held_out(classes, 12));
  EXPECT_EQ(stratified(renamed, 12), stratified(classes, 12));
}

// What a model says of its split must mean the same tomorrow: computed by a program of its own
// (tests/goldens/draw.py).
TEST(HeldOut, IsTheSameOnEveryMachineAndForEver) {
  Rows classes;
  for (std::int64_t i = 0; i < 40; ++i) classes.push_back(i * i % 3);
  classes.push_back(2);
  EXPECT_EQ(held_out(classes, 9), (Rows{1, 2, 3, 6, 10, 12, 19, 20, 22}));
  EXPECT_EQ(stratified(classes, 9), (Rows{1, 2, 3, 6, 10, 12, 20, 22, 40}));
}

TEST(Stratified, ShowsEveryClassAsSoonAsThereIsRoom) {
  const Rows classes = sorted_classes({1000, 1, 3});
  EXPECT_EQ(counts(classes, stratified(classes, 3)).size(), 3U);
  EXPECT_EQ(counts(classes, stratified(classes, 50)).size(), 3U);
  EXPECT_EQ(stratified(classes, 2).size(), 2U);
}

TEST(Stratified, TakesAllWhereNothingLimitsIt) {
  const Rows classes = sorted_classes({3, 2}), all = {0, 1, 2, 3, 4};
  for (const std::int64_t count : {0, 5, 6, 100}) EXPECT_EQ(stratified(classes, count), all);
  EXPECT_TRUE(stratified({}, 4).empty());
}

// Every second row is of one class: rows evenly spread over them would all be of one.
TEST(Stratified, IsNotFooledByAPeriod) {
  Rows classes;
  for (std::int64_t i = 0; i < 100; ++i) classes.push_back(i % 2);
  const auto found = counts(classes, stratified(classes, 10));
  EXPECT_EQ(found.at(0), 5);
  EXPECT_EQ(found.at(1), 5);
}

}  // namespace
}  // namespace cleave::model
