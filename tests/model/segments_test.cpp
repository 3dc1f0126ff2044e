#include "model/segments.hpp"

#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace cleave::model {
namespace {

Tensor numbers(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

void expect_same(const Tensor& found, const Tensor& expected) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_TRUE(at::allclose(found, expected, 0, 1e-12)) << found << expected;
}

// Rows 4 to 10 in four: two of two rows, two of one.
TEST(Segments, DifferByOneRowTheLargerFirst) {
  const Tensor x = numbers({1, 2, 3, 4, 5, 6}).view({1, 6, 1});
  expect_same(segment_means(x, {}, {4, 10}, 4), numbers({1.5, 3.5, 5, 6}).view({1, 4, 1}));
  expect_same(segment_marks(1, {}, {4, 10}, 4, at::kDouble),
              numbers({2, 4.5, 2, 6.5, 1, 8, 1, 9}).view({1, 4, 2}));
}

TEST(Segments, LeavePaddingOut) {
  const Tensor lengths = at::tensor({9, 7, 4}, at::kInt);  // of rows 4 to 10: five, three, none
  const Tensor x = numbers({1, 2, 3, 4, 5, 99}).view({1, 6, 1}).expand({3, 6, 1});
  expect_same(segment_means(x, lengths, {4, 10}, 2), numbers({2, 4.5, 2, 0, 0, 0}).view({3, 2, 1}));
  expect_same(segment_marks(3, lengths, {4, 10}, 2, at::kDouble),
              numbers({3, 5, 2, 7.5, 3, 5, 0, 8, 0, 5, 0, 8}).view({3, 2, 2}));
}

TEST(Cluster, FindsRowsThatAreAlike) {
  // Three groups, far from each other and mixed.
  const Tensor x = numbers({0, 0, 50, 50, 90, 0, 1, 0, 51, 50, 91, 0, 0, 1}).view({1, 7, 2});
  const auto [centres, marks] = cluster(x, {}, {10, 17}, 3, 4);
  expect_same(centres, numbers({1 / 3.0, 1 / 3.0, 90.5, 0, 50.5, 50}).view({1, 3, 2}));
  expect_same(marks, numbers({3, (10 + 13 + 16) / 3.0, 2, 13.5, 2, 12.5}).view({1, 3, 2}));
}

TEST(Cluster, LeavesPaddingOut) {
  const Tensor lengths = at::tensor({5, 1}, at::kInt);
  const Tensor x = numbers({0, 10, 1, 11, 2, 500}).view({1, 6, 1}).expand({2, 6, 1});
  const auto [centres, marks] = cluster(x, lengths, {0, 6}, 2, 4);
  expect_same(centres[0], numbers({1, 10.5}).view({2, 1}));
  expect_same(marks[0], numbers({3, 2, 2, 2}).view({2, 2}));
  expect_same(marks[1].select(1, 0), numbers({1, 0}));
  EXPECT_EQ(centres[1][0].item<double>(), 0);
  EXPECT_TRUE(at::isfinite(marks).all().item<bool>());
}

// Of equal rows the first centre takes all; the others count nothing.
TEST(Cluster, MayLoseCentres) {
  const auto [centres, marks] = cluster(at::ones({1, 6, 3}), {}, {0, 6}, 3, 4);
  EXPECT_TRUE(marks.select(2, 0).equal(at::tensor({6.F, 0.F, 0.F}).view({1, 3})));
  EXPECT_TRUE(centres.equal(at::ones({1, 3, 3})));
  EXPECT_TRUE(at::isfinite(marks).all().item<bool>());
}

TEST(Cluster, GivesTheSameBitsAgain) {
  at::manual_seed(3);
  const Tensor x = at::randn({2, 40, 8});
  const auto [centres, marks] = cluster(x, {}, {0, 40}, 7, 4);
  for (int again = 0; again < 5; ++again) {
    const auto [same, same_marks] = cluster(x, {}, {0, 40}, 7, 4);
    EXPECT_TRUE(same.equal(centres));
    EXPECT_TRUE(same_marks.equal(marks));
  }
}

}  // namespace
}  // namespace cleave::model
