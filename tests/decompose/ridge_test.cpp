#include "decompose/fit/ridge.hpp"

#include <limits>

#include <gtest/gtest.h>

#include "tests/decompose/running.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using testing::message_of;
using testing::seeded;

Tensor wide(const std::vector<std::int64_t>& dims, std::uint64_t seed) {
  return seeded(dims, seed).to(at::kDouble);
}

Moments moments_of(const Tensor& x, const Tensor& y) {
  Moments moments(x.size(1), y.size(1));
  moments.add(x, y);
  return moments;
}

double far(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(Ridge, FindsTheMapThatIsThere) {
  const Tensor x = wide({50, 6}, 1) + 3, weight = wide({4, 6}, 2), bias = wide({4}, 3);
  const auto with_bias = ridge(moments_of(x, at::matmul(x, weight.t()) + bias), true, 1e-15, "it");
  EXPECT_LT(far(with_bias.weight, weight), 1e-10);
  EXPECT_LT(far(with_bias.bias, bias), 1e-9);
  const auto without = ridge(moments_of(x, at::matmul(x, weight.t())), false, 1e-15, "it");
  EXPECT_LT(far(without.weight, weight), 1e-10);
  EXPECT_EQ(without.bias.abs().max().item<double>(), 0);
}

TEST(Ridge, FollowsItsFormula) {
  const Tensor x = wide({40, 5}, 1) + 1, y = wide({40, 3}, 2) - 2;
  for (const bool with_bias : {true, false}) {
    const Tensor a = with_bias ? x - x.mean(0) : x, b = with_bias ? y - y.mean(0) : y;
    const Tensor gram = at::matmul(a.t(), a) / 40, cross = at::matmul(b.t(), a) / 40;
    const Tensor damped = gram + 0.3 * gram.diagonal().mean() * at::eye(5, at::kDouble);
    const Tensor weight = at::matmul(cross, at::linalg_inv(damped));
    const auto map = ridge(moments_of(x, y), with_bias, 0.3, "it");
    EXPECT_LT(far(map.weight, weight), 1e-12);
    if (with_bias) {
      EXPECT_LT(far(map.bias, y.mean(0) - at::matmul(weight, x.mean(0))), 1e-12);
    }
  }
}

TEST(Ridge, AddsUpPiecesAndRows) {
  const Tensor x = wide({30, 4}, 1), y = wide({30, 2}, 2);
  Moments pieces = moments_of(x.narrow(0, 0, 7), y.narrow(0, 0, 7));
  pieces.add(moments_of(x.narrow(0, 7, 23), y.narrow(0, 7, 23)));
  EXPECT_EQ(pieces.rows(), 30);
  EXPECT_LT(
      far(ridge(pieces, true, 0.1, "it").weight, ridge(moments_of(x, y), true, 0.1, "it").weight),
      1e-12);
}

TEST(Ridge, GrowsWhereRowsAreFew) {
  const Tensor x = wide({6, 10}, 1), y = wide({6, 2}, 2);
  const Tensor gram = at::matmul(x.t(), x) / 6;
  const double lambda = 0.1 * 20 / 6;
  const Tensor damped = gram + lambda * gram.diagonal().mean() * at::eye(10, at::kDouble);
  EXPECT_LT(far(ridge(moments_of(x, y), false, 0.1, "it").weight,
                at::matmul(at::matmul(y.t(), x) / 6, at::linalg_inv(damped))),
            1e-10);
}

TEST(Ridge, GivesTheMeanOfConstantInputs) {
  const Tensor x = at::full({9, 3}, 2.0, at::kDouble), y = wide({9, 2}, 2);
  const auto map = ridge(moments_of(x, y), true, 0.1, "it");
  EXPECT_EQ(map.weight.abs().max().item<double>(), 0);
  EXPECT_LT(far(map.bias, y.mean(0)), 1e-12);
}

TEST(Ridge, TakesADeadInputForNothing) {
  Tensor x = wide({40, 4}, 1);
  x.select(1, 2).zero_();
  const auto map = ridge(moments_of(x, wide({40, 2}, 2)), true, 1e-4, "it");
  EXPECT_EQ(map.weight.select(1, 2).abs().max().item<double>(), 0);
  EXPECT_TRUE(at::isfinite(map.weight).all().item<bool>());
}

TEST(Ridge, RefusesWhatIsNotFiniteAndNoRows) {
  Tensor x = wide({5, 2}, 1);
  x[3][1] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(message_of([&] {
              ridge(moments_of(x, wide({5, 1}, 2)), true, 0.1, "fit, layer 3");
            }),
            "[fit, layer 3] activations: not finite");
  EXPECT_EQ(message_of([&] { ridge(Moments(2, 1), true, 0.1, "fit"); }),
            "[fit] saw no rows, needs at least 1");
}

TEST(ChannelMoments, FindsWeightAndBiasOfEachChannel) {
  const Tensor x = wide({30, 3}, 1) + 1, weight = wide({3}, 2), bias = wide({3}, 3);
  ChannelMoments moments(3), rest(3);
  moments.add(x.narrow(0, 0, 10), x.narrow(0, 0, 10) * weight + bias);
  rest.add(x.narrow(0, 10, 20), x.narrow(0, 10, 20) * weight + bias);
  moments.add(rest);
  const auto map = moments.solve(true);
  EXPECT_LT(far(map.weight, weight), 1e-10);
  EXPECT_LT(far(map.bias, bias), 1e-10);
  ChannelMoments plain(3);
  plain.add(x, x * weight);
  EXPECT_LT(far(plain.solve(false).weight, weight), 1e-12);
  EXPECT_EQ(plain.solve(false).bias.abs().max().item<double>(), 0);
}

TEST(ChannelMoments, GivesAConstantChannelItsMean) {
  ChannelMoments moments(1);
  moments.add(at::full({4, 1}, 0.0), at::full({4, 1}, 7.0));
  const auto map = moments.solve(true);
  EXPECT_EQ(map.weight.item<double>(), 0);
  EXPECT_EQ(map.bias.item<double>(), 7);
}

}  // namespace
}  // namespace cleave::decompose
