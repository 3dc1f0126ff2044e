#include "decompose/fit/unit_losses.hpp"

#include <algorithm>

#include <gtest/gtest.h>

#include "tests/decompose/fitting.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using testing::all_configs;
using testing::lively_model;
using testing::message_of;
using testing::name_of_config;
using testing::rows_of;
using testing::Scratch;

constexpr double hardly_any = 1e-8;

struct Units {
  std::vector<Tensor> heads, mlp;  // by layer [tokens, inputs]
};

/// What the writers of the whole teacher multiply, token by token.
Units units_of(const model::Transformer& teacher, const FitRows& rows) {
  Units units;
  units.heads.resize(teacher.config.layers.size());
  units.mlp.resize(teacher.config.layers.size());
  for (std::size_t batch = 0; batch < rows.batches(); ++batch) {
    const auto join = [&](std::vector<Tensor>& all, int layer, const Tensor& more) {
      Tensor& of = all[static_cast<std::size_t>(layer)];
      const Tensor wide = rows.tokens(batch, more).to(at::kDouble);
      of = of.defined() ? at::cat({of, wide}) : wide;
    };
    model::Observer observer;
    observer.on_context = [&](int layer, const Tensor& x) { join(units.heads, layer, x); };
    observer.on_mlp = [&](int layer, const Tensor& x) { join(units.mlp, layer, x); };
    model::features(teacher, rows.inputs(batch), &observer);
  }
  return units;
}

/// Mean square error of a token where `weight` x is made from the other columns of x alone.
double loss_without(const Tensor& x, const Tensor& weight, std::int64_t begin, std::int64_t unit,
                    bool with_bias) {
  Tensor others =
      at::cat({x.narrow(1, 0, begin), x.narrow(1, begin + unit, x.size(1) - begin - unit)}, 1);
  if (with_bias) others = at::cat({others, at::ones({x.size(0), 1}, at::kDouble)}, 1);
  const Tensor target = at::matmul(x, weight.t());
  const Tensor best = at::matmul(others, at::matmul(at::linalg_pinv(others), target));
  return (best - target).square().sum().item<double>() / static_cast<double>(x.size(0));
}

void expect_losses(const std::vector<double>& losses, const Tensor& x, const Tensor& weight,
                   std::int64_t unit, bool with_bias) {
  ASSERT_EQ(static_cast<std::int64_t>(losses.size()) * unit, x.size(1));
  // Products are fp32: what they leave out goes with what the whole half writes.
  const double energy = at::matmul(x, weight.t()).square().sum(1).mean().item<double>();
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const double wanted =
        loss_without(x, weight, static_cast<std::int64_t>(i) * unit, unit, with_bias);
    EXPECT_NEAR(losses[i], wanted, 0.01 * wanted + 1e-4 * energy) << "unit " << i;
  }
}

TEST(UnitLosses, AreWhatARefittedRestCannotMakeUpFor) {
  for (const auto& config : all_configs()) {
    SCOPED_TRACE(name_of_config(config));
    const Scratch scratch;
    const auto teacher = lively_model(config);
    model::save(teacher, scratch / "teacher");
    const auto rows = rows_of(config, 40);  // so few that all of them are read
    const auto losses = unit_losses(scratch / "teacher", rows, hardly_any);
    const auto units = units_of(teacher, rows);
    ASSERT_EQ(losses.heads.size(), config.layers.size());
    ASSERT_EQ(losses.mlp.size(), config.layers.size());
    for (std::size_t l = 0; l < config.layers.size(); ++l) {
      const std::string block = "blocks." + std::to_string(l) + ".";
      const auto weight = [&](const std::string& writer) {
        return teacher[block + writer + ".weight"].to(at::kDouble);
      };
      const auto with_bias = [&](const std::string& writer) {
        return teacher.find(block + writer + ".bias") != nullptr;
      };
      expect_losses(losses.heads[l], units.heads[l], weight("attention.output"),
                    config.group * config.head_width, with_bias("attention.output"));
      expect_losses(losses.mlp[l], units.mlp[l], weight("mlp.down"), 1, with_bias("mlp.down"));
    }
  }
}

// However much it writes: the other one can write it too.
TEST(UnitLosses, AUnitThatIsThereTwiceIsWorthNothing) {
  auto config = testing::tiny_config();
  const Scratch scratch;
  auto teacher = lively_model(config);
  for (const char* name : {"mlp.up.weight", "mlp.up.bias"}) {
    Tensor& up = teacher.tensors[std::string("blocks.1.") + name];
    up[3].copy_(up[7]);
  }
  teacher.tensors["blocks.1.mlp.down.weight"].select(1, 3).fill_(5);
  model::save(teacher, scratch / "teacher");
  const auto losses = unit_losses(scratch / "teacher", rows_of(config, 100), hardly_any).mlp[1];
  std::vector<double> sorted = losses;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_LT(losses[3], 0.01 * sorted[losses.size() / 2]);
  EXPECT_LT(losses[7], 0.01 * sorted[losses.size() / 2]);
}

TEST(UnitLosses, AreTheSameOnAnyNumberOfThreads) {
  const Scratch scratch;
  testing::lively_teacher(scratch);
  const auto rows = rows_of(testing::tiny_config(), 100);
  const auto one = unit_losses(scratch / "teacher", rows, 1e-3, 1);
  const auto three = unit_losses(scratch / "teacher", rows, 1e-3, 3);
  EXPECT_EQ(one.heads, three.heads);
  EXPECT_EQ(one.mlp, three.mlp);
}

TEST(UnitLosses, OfADeadHalfAreNothingAndOfOneThatIsNotFiniteRefused) {
  const Scratch scratch;
  auto teacher = lively_model(testing::tiny_config());
  for (const char* name : {"value.weight", "value.bias"})
    teacher.tensors[std::string("blocks.0.attention.") + name].zero_();
  model::save(teacher, scratch / "teacher");
  const auto rows = rows_of(testing::tiny_config(), 100);
  const auto dead = unit_losses(scratch / "teacher", rows, 1e-3);
  for (const double loss : dead.heads[0]) EXPECT_EQ(loss, 0);
  teacher.tensors["blocks.0.mlp.down.weight"].fill_(3e38);
  model::save(teacher, scratch / "teacher");
  EXPECT_EQ(message_of([&] { unit_losses(scratch / "teacher", rows, 1e-3); }),
            "[select, layer 1, what attention writes] activations: not finite");
}

}  // namespace
}  // namespace cleave::decompose
