#include "calibrate/forward.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/calibrate/task.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::calibrate {
namespace {

using cleave::testing::bars_config;

void expect_features_of(const model::ModelConfig& config) {
  const auto model = model::random_model(config, 5);
  const auto pixels = at::randn({3, 1, 8, 8});
  const auto whole = model::features(model, pixels);
  const auto fewer = summary_features(model, pixels);
  ASSERT_EQ(fewer.sizes(), whole.sizes());
  EXPECT_TRUE(fewer.allclose(whole, 1e-5, 1e-5));
}

TEST(SummaryFeatures, AreThoseOfTheModel) { expect_features_of(bars_config()); }

TEST(SummaryFeatures, AreThoseOfADistilledModel) {
  auto config = bars_config();
  config.family = model::Family::deit;
  config.summary_tokens = 2;
  expect_features_of(config);
}

TEST(SummaryFeatures, AreThoseOfALastBlockThatLacksAHalf) {
  auto config = bars_config();
  config.layers = {{2, 32}, {0, 16}};
  expect_features_of(config);
  config.layers = {{2, 32}, {1, 0}};
  expect_features_of(config);
}

TEST(TokenFeatures, HaveTheModelsFeaturesAmongThem) {
  const auto vit = model::random_model(bars_config(), 5);
  const auto pixels = at::randn({3, 1, 8, 8});
  const TokenFeatures of_images = token_features(vit, pixels);
  EXPECT_TRUE(of_images.features.equal(model::features(vit, pixels)));
  EXPECT_EQ(of_images.tokens.size(1), 5);
  EXPECT_TRUE(of_images.tokens.narrow(1, 0, 1).allclose(of_images.features, 1e-5, 1e-6));

  const auto bert = model::random_model(model::testing::tiny_text_config(model::Family::bert), 5);
  const auto ids = at::tensor({4, 7, 9, 2, 11, -1}, at::kInt).view({2, 3});
  const TokenFeatures of_texts = token_features(bert, ids);
  EXPECT_TRUE(of_texts.features.equal(model::features(bert, ids)));
  const auto first_two = of_texts.tokens.narrow(0, 1, 1).narrow(1, 0, 2).mean(1, true);
  EXPECT_TRUE(of_texts.features.narrow(0, 1, 1).allclose(first_two, 1e-5, 1e-6));
}

TEST(SummaryFeatures, HaveTheSameGradients) {
  auto model = model::random_model(bars_config(), 5);
  const auto pixels = at::randn({3, 1, 8, 8});
  at::Tensor& weight = model.tensors.at("blocks.1.attention.key.weight");
  weight.requires_grad_(true);
  model::features(model, pixels).square().sum().backward();
  const at::Tensor whole = weight.grad().clone();
  weight.mutable_grad() = at::Tensor();
  summary_features(model, pixels).pow(2).sum().backward();
  EXPECT_GT(whole.norm().item<double>(), 0);
  EXPECT_TRUE(weight.grad().allclose(whole, 1e-3, 1e-6));
}

}  // namespace
}  // namespace cleave::calibrate
