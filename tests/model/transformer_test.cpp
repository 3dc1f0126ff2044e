#include "model/transformer.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/checkpoint.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using testing::cut_config;
using testing::error_of;
using testing::expect_contains;
using testing::tiny_config;

Tensor seeded(const std::vector<std::int64_t>& dims) {
  at::manual_seed(5);
  return at::randn(dims);
}

/// Random weights large enough for every one of them to matter.
Transformer lively_model(const ModelConfig& config) {
  Transformer model = random_model(config, 3);
  at::manual_seed(4);
  for (auto& [name, tensor] : model.tensors) tensor = tensor + 0.2 * at::randn_like(tensor);
  return model;
}

void expect_close(const Tensor& a, const Tensor& b, double tolerance = 1e-5) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a - b).abs().max().item<double>(), tolerance);
}

TEST(Linear, MultipliesByTheTransposedWeight) {
  const Tensor x = seeded({2, 5, 8}), weight = at::randn({3, 8}), bias = at::randn({3});
  expect_close(linear(x, weight, &bias), at::matmul(x, weight.t()) + bias);
  expect_close(linear(x, weight, nullptr), at::matmul(x, weight.t()));
}

TEST(Linear, InBf16RoundsItsOperands) {
  const Tensor x = seeded({2, 5, 64}), weight = at::randn({3, 64}), bias = at::randn({3});
  const Tensor y = linear(x, weight, &bias, Compute::bf16);
  EXPECT_EQ(y.scalar_type(), at::kFloat);
  const auto rounded = [](const Tensor& t) { return t.to(at::kBFloat16).to(at::kFloat); };
  const Tensor expected = at::matmul(rounded(x), rounded(weight).t()) + bias;
  EXPECT_LE(((y - expected).abs() / (1 + expected.abs())).max().item<double>(), 1.0 / 128);
  EXPECT_GT((y - linear(x, weight, &bias)).abs().max().item<double>(), 1e-4);
}

TEST(Attend, IsSoftmaxOfScaledProducts) {
  const Tensor q = seeded({2, 3, 5, 4}), k = at::randn({2, 3, 5, 4}), v = at::randn({2, 3, 5, 4});
  const Tensor context = attend(q, k, v);
  ASSERT_EQ(context.sizes(), (std::vector<std::int64_t>{2, 5, 12}));
  for (int head = 0; head < 3; ++head) {
    const Tensor scores = at::matmul(q[1][head], k[1][head].t()) / 2;
    expect_close(context[1].narrow(1, head * 4, 4),
                 at::matmul(at::softmax(scores, -1), v[1][head]));
  }
}

TEST(Project, GivesTheHeadsAskedFor) {
  const Transformer model = lively_model(tiny_config());
  const Tensor x = seeded({2, 5, 12});
  for (const auto which : {Projection::query, Projection::key, Projection::value}) {
    const Tensor all = project(model, 1, which, {0, 3}, x);
    ASSERT_EQ(all.sizes(), (std::vector<std::int64_t>{2, 5, 3 * 4}));
    expect_close(project(model, 1, which, {1, 3}, x), all.narrow(2, 4, 8));
  }
  EXPECT_GT((project(model, 1, Projection::query, {0, 3}, x) -
             project(model, 1, Projection::key, {0, 3}, x))
                .abs()
                .max()
                .item<double>(),
            0.1);
}

TEST(Block, IsTheSumOfItsShares) {
  const Transformer model = lively_model(tiny_config());
  const Tensor x = seeded({2, 5, 12});
  const Tensor h = norm(model, "blocks.2.norm_attention", x);
  Tensor y = x + model["blocks.2.attention.output.bias"];
  for (const Range heads : {Range{0, 1}, Range{1, 3}}) {
    const Tensor context = attend(model, 2, {}, project(model, 2, Projection::query, heads, h),
                                  project(model, 2, Projection::key, heads, h),
                                  project(model, 2, Projection::value, heads, h));
    y = y + project_out(model, 2, heads, context);
  }
  const Tensor g = norm(model, "blocks.2.norm_mlp", y);
  for (const Range columns : {Range{0, 13}, Range{13, 20}})
    y = y + mlp_down(model, 2, columns, mlp_up(model, 2, columns, g));
  y = y + model["blocks.2.mlp.down.bias"];
  expect_close(block(model, 2, x), y);
}

TEST(Block, SkipsTheHalfThatALayerDoesNotHave) {
  const Transformer model = lively_model(cut_config());
  const Tensor x = seeded({2, 5, 7});
  const Tensor activations = mlp_up(model, 1, {0, 5}, norm(model, "blocks.1.norm_mlp", x));
  expect_close(block(model, 1, x), x + mlp_down(model, 1, {0, 5}, activations, true));
  const Tensor h = norm(model, "blocks.2.norm_attention", x);
  const auto part = [&](Projection which) { return project(model, 2, which, {0, 3}, h); };
  expect_close(block(model, 2, x),
               x +
                   project_out(model, 2, {0, 3},
                               attend(model, 2, {}, part(Projection::query), part(Projection::key),
                                      part(Projection::value))) +
                   model["blocks.2.attention.output.bias"]);
}

TEST(Embed, IsAConvolutionOverPatches) {
  const Transformer model = lively_model(tiny_config());
  const Tensor pixels = seeded({3, 2, 8, 8});
  const Tensor patches =
      at::conv2d(pixels, model["embedding.patch.weight"], model["embedding.patch.bias"], 4);
  const Tensor tokens = embed(model, pixels);
  ASSERT_EQ(tokens.sizes(), (std::vector<std::int64_t>{3, 5, 12}));
  expect_close(tokens.narrow(1, 1, 4),
               patches.flatten(2).transpose(1, 2) + model["embedding.position"].narrow(1, 1, 4));
  expect_close(tokens[2][0],
               model["embedding.class_token"].flatten() + model["embedding.position"][0][0]);
}

TEST(NormalisePixels, AppliesScaleMeanAndDeviation) {
  const ModelConfig config = tiny_config();
  const Tensor bytes = at::arange(2 * 64, at::kByte).view({1, 2, 8, 8});
  const Tensor pixels = normalise_pixels(config, bytes);
  EXPECT_NEAR(pixels[0][0][0][7].item<double>(), (7 / 255.0 - 0.5) / 0.5, 1e-6);
  EXPECT_NEAR(pixels[0][1][0][0].item<double>(), (64 / 255.0 - 0.25) / 0.3, 1e-6);
  EXPECT_TRUE(normalise_pixels(config, pixels).is_same(pixels));
}

TEST(Features, AreTheStatesOfTheTokensThatAreRead) {
  ModelConfig config = tiny_config(Family::deit);
  const Tensor pixels = seeded({2, 2, 8, 8});
  Transformer model = lively_model(config);
  EXPECT_EQ(features(model, pixels).sizes(), (std::vector<std::int64_t>{2, 1, 12}));
  config.summary_tokens = 2;
  const Transformer distilled = lively_model(config);
  const Tensor both = features(distilled, pixels);
  EXPECT_EQ(both.sizes(), (std::vector<std::int64_t>{2, 2, 12}));
  const auto head = [&](const std::string& name, int token) {
    return linear(both.select(1, token), distilled[name + ".weight"], &distilled[name + ".bias"]);
  };
  expect_close(forward(distilled, pixels), (head("head", 0) + head("head_distilled", 1)) / 2);
}

TEST(Features, OfAnImageDoNotDependOnItsBatch) {
  const Transformer model = lively_model(cut_config());
  const Tensor pixels = seeded({4, 2, 8, 8});
  expect_close(features(model, pixels).narrow(0, 2, 1), features(model, pixels.narrow(0, 2, 1)));
}

TEST(Features, AreTheSameBitForBitEachTime) {
  const Transformer model = lively_model(tiny_config());
  const Tensor pixels = seeded({2, 2, 8, 8});
  EXPECT_TRUE(at::equal(features(model, pixels), features(model, pixels)));
}

TEST(Features, ShowTheirInsidesToAnObserver) {
  const Transformer model = lively_model(cut_config());
  const Tensor pixels = seeded({2, 2, 8, 8});
  using Dims = std::vector<std::int64_t>;
  std::map<std::string, Dims> seen;
  const auto note = [&](const std::string& what, int layer, const Tensor& x) {
    seen[what + std::to_string(layer)] = x.sizes().vec();
  };
  Observer observer;
  observer.on_attention = [&](int layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    note("q", layer, q);
    note("k", layer, k);
    note("v", layer, v);
  };
  observer.on_context = [&](int layer, const Tensor& x) { note("context", layer, x); };
  observer.on_mlp = [&](int layer, const Tensor& x) { note("mlp", layer, x); };
  observer.on_block = [&](int layer, const Tensor& x) { note("block", layer, x); };
  const Tensor watched = features(model, pixels, &observer);
  EXPECT_TRUE(at::equal(watched, features(model, pixels)));
  const std::map<std::string, Dims> expected = {
      {"q0", {2, 5, 8}},    {"k0", {2, 5, 8}},     {"v0", {2, 5, 8}},   {"context0", {2, 5, 8}},
      {"mlp0", {2, 5, 9}},  {"block0", {2, 5, 7}}, {"mlp1", {2, 5, 5}}, {"block1", {2, 5, 7}},
      {"q2", {2, 5, 12}},   {"k2", {2, 5, 12}},    {"v2", {2, 5, 12}},  {"context2", {2, 5, 12}},
      {"block2", {2, 5, 7}}};
  EXPECT_EQ(seen, expected);
}

class Gradients : public ::testing::TestWithParam<Compute> {};

TEST_P(Gradients, ReachEveryParameterAndAreRight) {
  ModelConfig config = tiny_config(Family::deit);
  config.summary_tokens = 2;
  Transformer model = lively_model(config);
  model.compute = GetParam();
  const Tensor pixels = seeded({2, 2, 8, 8}), target = at::randn({2, 4});
  for (auto& [name, tensor] : model.tensors) tensor.requires_grad_();
  const auto loss = [&] { return (forward(model, pixels) * target).sum(); };
  loss().backward();
  const bool exact = GetParam() == Compute::f32;
  for (auto& [name, tensor] : model.tensors) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    // Along the gradient a small step changes the loss by its squared length.
    const Tensor gradient = tensor.grad().clone(), before = tensor.detach().clone();
    const double squared = gradient.pow(2).sum().item<double>();
    const double step = 1e-2 / std::max(1.0, std::sqrt(squared));
    const at::NoGradGuard no_grad;
    model.compute = Compute::f32;
    tensor.copy_(before + step * gradient);
    const double above = loss().item<double>();
    tensor.copy_(before - step * gradient);
    const double below = loss().item<double>();
    tensor.copy_(before);
    model.compute = GetParam();
    EXPECT_NEAR((above - below) / (2 * step), squared, (exact ? 0.02 : 0.1) * squared + 2e-3)
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Compute, Gradients, ::testing::Values(Compute::f32, Compute::bf16),
                         [](const auto& test) {
                           return std::string(test.param == Compute::f32 ? "InF32" : "InBf16");
                         });

TEST(Transformer, RefusesInputOfAnotherShape) {
  const Transformer model = lively_model(tiny_config());
  expect_contains(error_of([&] {
                    features(model, at::zeros({2, 3, 8, 8}));
                  }),
                  "[pixels] saw [2, 3, 8, 8], needs [any, 2, 8, 8]");
  expect_contains(error_of([&] {
                    classify(model, at::zeros({2, 12}));
                  }),
                  "[features] saw [2, 12], needs [any, 1, 12]");
  expect_contains(error_of([&] { (void)model["blocks.9.norm.weight"]; }), "blocks.9.norm.weight");
  ModelConfig headless = tiny_config();
  headless.classes = 0;
  expect_contains(error_of([&] {
                    classify(lively_model(headless), at::zeros({2, 1, 12}));
                  }),
                  "without a head");
}

}  // namespace
}  // namespace cleave::model
