#include "calibrate/start.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/lanes.hpp"
#include "tests/calibrate/task.hpp"

namespace cleave::calibrate {
namespace {

/// Wide enough that Z is small beside I.
model::ModelConfig config() {
  auto config = cleave::testing::bars_config();
  config.width = 64;
  config.head_width = 32;
  config.image_height = config.image_width = 16;
  config.processing.height = config.processing.width = 16;
  return config;
}

double mean_diagonal(const at::Tensor& x) { return x.diagonal().mean().item<double>(); }

TEST(StartingPoint, IsAFunctionOfTheSeed) {
  const model::Lanes lanes(
      1);  // as in training: one thread for BLAS, which else splits sums as it likes
  const auto one = starting_point(config(), 1), same = starting_point(config(), 1);
  const auto other = starting_point(config(), 2);
  for (const auto& [name, tensor] : one.tensors) {
    EXPECT_TRUE(tensor.equal(same[name])) << name;
    EXPECT_TRUE(tensor.isfinite().all().item<bool>()) << name;
  }
  EXPECT_FALSE(one["blocks.0.attention.key.weight"].equal(other["blocks.0.attention.key.weight"]));
  EXPECT_FALSE(one["blocks.0.attention.key.weight"].equal(one["blocks.1.attention.key.weight"]));
}

TEST(StartingPoint, LetsTokensLookAtThoseLikeThem) {
  const auto model = starting_point(config(), 1);
  const auto q = model["blocks.0.attention.query.weight"].narrow(0, 32, 32);
  const auto k = model["blocks.0.attention.key.weight"].narrow(0, 32, 32);
  // The best rank-32 part of 0.7 Z + 0.7 I in 64 dimensions keeps most of its trace.
  EXPECT_GT(mean_diagonal(at::mm(q.t(), k)), 0.35);
  const auto v = model["blocks.0.attention.value.weight"],
             o = model["blocks.0.attention.output.weight"];
  EXPECT_NEAR(mean_diagonal(at::mm(v.t(), o.t())), -0.4, 0.05);
}

TEST(StartingPoint, PlacesNeighboursNearEachOther) {
  const auto positions = starting_point(config(), 1)["embedding.position"][0];
  const auto distance = [&](std::int64_t a, std::int64_t b) {
    return (positions[1 + a] - positions[1 + b]).norm().item<double>();
  };
  EXPECT_LT(distance(0, 1), distance(0, 2));
  EXPECT_LT(distance(0, 4), distance(0, 8));
  EXPECT_NEAR(distance(0, 1), distance(0, 4), 1e-5);  // along rows as along columns
}

TEST(StartingPoint, GivesTheRestGlorotsDeviation) {
  const auto up = starting_point(config(), 1)["blocks.0.mlp.up.weight"];  // [32, 64]
  EXPECT_NEAR(up.std().item<double>(), std::sqrt(2.0 / 96), 0.01);
}

TEST(StartingPoint, TakesModelsOfAnyShape) {
  auto odd = config();
  odd.family = model::Family::deit;
  odd.summary_tokens = 2;
  odd.width = 30;  // not a multiple of 4, narrower than heads · K
  odd.layers = {{3, 16}, {0, 8}, {1, 0}};
  EXPECT_NO_THROW(model::features(starting_point(odd, 1), at::zeros({1, 1, 16, 16})));
}

}  // namespace
}  // namespace cleave::calibrate
