#include "calibrate/loss.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/calibrate/task.hpp"

namespace cleave::calibrate {
namespace {

at::Tensor row(std::vector<double> values) {
  return at::tensor(values, at::kDouble).to(at::kFloat).unsqueeze(0);
}
at::Tensor label(std::int64_t value) { return at::tensor({value}, at::kLong); }

TEST(LabelLoss, IsTheNegativeLogProbability) {
  const auto logits = row({std::log(1.0), std::log(3.0)});
  EXPECT_NEAR(label_loss(logits, label(1), 0).item<double>(), -std::log(0.75), 1e-6);
  // Smoothed by 0.2: 0.9 for the label, 0.1 for the other.
  EXPECT_NEAR(label_loss(logits, label(1), 0.2).item<double>(),
              -0.9 * std::log(0.75) - 0.1 * std::log(0.25), 1e-6);
}

TEST(SoftTargetLoss, IsTheDivergenceTimesTheTemperatureSquared) {
  const auto teacher = row({2 * std::log(1.0), 2 * std::log(3.0)}), student = row({0, 0});
  const double divergence = 0.25 * std::log(0.25 / 0.5) + 0.75 * std::log(0.75 / 0.5);
  EXPECT_NEAR(soft_target_loss(student, teacher, 2).item<double>(), 4 * divergence, 1e-6);
  EXPECT_NEAR(soft_target_loss(teacher, teacher, 2).item<double>(), 0, 1e-6);
}

TEST(FeatureLoss, IsTheMeanSquareOfEachSample) {
  const auto a = at::zeros({2, 1, 4}), b = at::ones({2, 1, 4});
  b.select(0, 1).mul_(3);
  EXPECT_TRUE(feature_loss(a, b).equal(at::tensor({1.0F, 9.0F})));
}

TEST(TokenLoss, IsTheMeanSquareOfTheTokensThatAreThere) {
  const auto a = at::zeros({2, 3, 4}), b = at::ones({2, 3, 4});
  b.select(0, 1).mul_(2);
  b.select(0, 1).select(0, 2).fill_(100);
  const auto real = at::tensor({1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 0.0F}).view({2, 3});
  EXPECT_TRUE(token_loss(a, b, real).equal(at::tensor({1.0F, 4.0F})));
  EXPECT_TRUE(token_loss(a, b, {}).allclose(at::tensor({1.0F, (4 + 4 + 10000) / 3.0F})));
}

TEST(SimilarityLoss, ComparesHowNearTheOthersAre) {
  // Of three directions each looks at the two others: cosines over the temperature, as shares.
  const auto teacher = at::tensor({1.0F, 0.0F, 0.6F, 0.8F, 0.0F, 1.0F}).view({3, 2});
  const auto student = at::tensor({1.0F, 0.0F, 0.8F, 0.6F, 0.0F, 1.0F}).view({3, 2});
  const auto divergence = [](double teacher_a, double teacher_b, double a, double b) {
    const double p = 1 / (1 + std::exp((teacher_b - teacher_a) / 0.5)),
                 q = 1 / (1 + std::exp((b - a) / 0.5));
    return p * std::log(p / q) + (1 - p) * std::log((1 - p) / (1 - q));
  };
  const at::Tensor found = similarity_loss(student, teacher, 0.5);
  EXPECT_NEAR(found[0].item<double>(), divergence(0.6, 0, 0.8, 0), 1e-6);
  EXPECT_NEAR(found[1].item<double>(), divergence(0.6, 0.8, 0.8, 0.6), 1e-6);
  EXPECT_NEAR(found[2].item<double>(), divergence(0, 0.8, 0, 0.6), 1e-6);
}

TEST(AttentionToErrors, WeighsWhatWasMissedAndKeepsHalfEven) {
  const auto logits = at::tensor({20.0F, 0.0F, 0.0F, 20.0F}).view({2, 2});
  const auto labels = at::tensor({0, 0}, at::kLong);  // the first is right, the second wrong
  const auto weights = attention_to_errors(logits, labels, 1);
  EXPECT_NEAR(weights[0].item<double>(), 0.5, 1e-5);
  EXPECT_NEAR(weights[1].item<double>(), 1.5, 1e-5);
  EXPECT_NEAR(attention_to_errors(logits, labels, 0).mean().item<double>(), 1, 1e-6);
}

TEST(AttentionToErrors, IsEvenWhereNothingWasMissed) {
  const auto logits = at::tensor({100.0F, 0.0F}).view({1, 2});
  EXPECT_NEAR(attention_to_errors(logits, label(0), 1).item<double>(), 0.5, 1e-3);
}

TEST(RelationLoss, IsZeroForItselfAndComparesAnyWidths) {
  const auto wide = at::randn({2, 5, 12}), narrow = at::randn({2, 5, 4});
  const Relations teacher{wide, wide, wide};
  EXPECT_NEAR(relation_loss(teacher, teacher, 4).item<double>(), 0, 1e-5);
  EXPECT_GT(relation_loss({narrow, narrow, narrow}, teacher, 4).item<double>(), 0);
}

TEST(RelationLoss, WeighsQueriesKeysAndValues) {
  const auto a = at::randn({1, 3, 4}), b = at::randn({1, 3, 4});
  const Relations teacher{b, b, b};
  const double query = relation_loss({a, b, b}, teacher, 4).item<double>();
  const double key = relation_loss({b, a, b}, teacher, 4).item<double>();
  const double value = relation_loss({b, b, a}, teacher, 4).item<double>();
  EXPECT_NEAR(query, 2 * key, 1e-4 * query);
  EXPECT_NEAR(value, 3 * key, 1e-4 * value);
}

TEST(RelationsAt, AreThoseOfTheWholeForwardPass) {
  const auto model = model::random_model(cleave::testing::bars_config(), 3);
  const auto pixels = at::randn({2, 1, 8, 8});
  Relations seen;
  model::Observer observer;
  observer.on_attention = [&](int layer, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v) {
    if (layer == 1) seen = {q, k, v};
  };
  model::features(model, pixels, &observer);
  const Relations relations = relations_at(model, 1, pixels);
  EXPECT_TRUE(relations.query.allclose(seen.query, 1e-5, 1e-6));
  EXPECT_TRUE(relations.key.allclose(seen.key, 1e-5, 1e-6));
  EXPECT_TRUE(relations.value.allclose(seen.value, 1e-5, 1e-6));
}

}  // namespace
}  // namespace cleave::calibrate
