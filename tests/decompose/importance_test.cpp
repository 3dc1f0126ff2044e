#include "decompose/importance.hpp"

#include <cmath>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/decompose/running.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using testing::lively_model;
using testing::lively_teacher;
using testing::message_of;
using testing::Scratch;
using testing::tiny_config;

/// Images as a data set holds them; labels 0..4 in turn.
model::Dataset tiny_data(std::int64_t count) {
  model::Dataset data;
  data.inputs = (testing::seeded({count, 1, 8, 8}, 11) * 60 + 128).clamp(0, 255).to(at::kByte);
  data.labels = at::arange(count, at::kLong).remainder(5);
  return data;
}

ImportanceOptions options(double taylor, std::int64_t batch = 64) {
  ImportanceOptions chosen;
  chosen.taylor = taylor;
  chosen.batch = batch;
  return chosen;
}

double loss(const model::Transformer& model, const Tensor& image, const Tensor& label) {
  const auto logits = model::forward(model, model::normalise_pixels(model.config, image));
  return at::nll_loss(at::log_softmax(logits.to(at::kDouble), 1), label).item<double>();
}

/// |loss change| for one image when columns [begin, end) of an outgoing weight fade a little, by
/// the size of the fade.
double fading(const model::Transformer& teacher, const std::string& outgoing, std::int64_t begin,
              std::int64_t size, const model::Dataset& data, std::int64_t image) {
  constexpr double fade = 1e-2;
  const auto faded_loss = [&](double by) {
    auto model = teacher;
    auto& weight = model.tensors[outgoing];
    weight = weight.clone();
    weight.narrow(1, begin, size).mul_(1 - by);
    return loss(model, data.inputs.narrow(0, image, 1), data.labels.narrow(0, image, 1));
  };
  return std::abs(faded_loss(fade) - faded_loss(-fade)) / (2 * fade);
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

void expect_close(const std::vector<double>& a, const std::vector<double>& b, double relative) {
  ASSERT_EQ(a.size(), b.size());
  const double largest = *std::max_element(b.begin(), b.end());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], relative * largest) << i;
}

TEST(Importance, OfAHeadIsTheLossChangeAsItFades) {
  const auto teacher = lively_model();
  const auto data = tiny_data(6);
  const auto importance = measure_importance(teacher, data, options(1));
  std::vector<double> measured, expected;
  for (std::size_t l = 0; l < 3; ++l) {
    const std::string outgoing = "blocks." + std::to_string(l) + ".attention.output.weight";
    for (std::size_t head = 0; head < importance.heads[l].size(); ++head) {
      double change = 0;
      for (std::int64_t i = 0; i < 6; ++i) {
        change += fading(teacher, outgoing, static_cast<std::int64_t>(head) * 4, 4, data, i);
      }
      expected.push_back(change);
      measured.push_back(importance.heads[l][head]);
    }
  }
  const double total = sum(expected);
  for (double& change : expected) change /= total;
  expect_close(measured, expected, 1e-3);
}

TEST(Importance, OfAnMlpUnitIsTheLossChangeAsItFades) {
  const auto teacher = lively_model();
  const auto data = tiny_data(4);
  const auto units = measure_importance(teacher, data, options(1)).mlp[1];
  std::vector<double> expected;
  for (std::int64_t unit = 0; unit < 16; ++unit) {
    double change = 0;
    for (std::int64_t i = 0; i < 4; ++i)
      change += fading(teacher, "blocks.1.mlp.down.weight", unit, 1, data, i);
    expected.push_back(change);
  }
  const double share = sum(units) / sum(expected);
  for (double& change : expected) change *= share;
  expect_close(units, expected, 1e-3);
}

TEST(Importance, IsNothingForWhatAddsNothing) {
  auto teacher = lively_model();
  teacher.tensors["blocks.0.attention.output.weight"].narrow(1, 4, 4).zero_();
  teacher.tensors["blocks.2.mlp.down.weight"].narrow(1, 3, 1).zero_();
  for (const auto& name :
       {"attention.output.weight", "attention.output.bias", "mlp.down.weight", "mlp.down.bias"}) {
    teacher.tensors["blocks.1." + std::string(name)].zero_();
  }
  const auto importance = measure_importance(teacher, tiny_data(8));
  EXPECT_EQ(importance.heads[0][1], 0);
  EXPECT_GT(importance.heads[0][0], 0);
  EXPECT_EQ(importance.mlp[2][3], 0);
  EXPECT_EQ(importance.layers[1], 0);
  EXPECT_GT(importance.layers[0], 0);
}

TEST(Importance, DoesNotDependOnTheBatch) {
  const auto at_once = measure_importance(lively_model(), tiny_data(10), options(0.7));
  const auto by_three = measure_importance(lively_model(), tiny_data(10), options(0.7, 3));
  expect_close(by_three.channels, at_once.channels, 1e-5);
  expect_close(by_three.layers, at_once.layers, 1e-5);
  for (std::size_t l = 0; l < 3; ++l) {
    expect_close(by_three.heads[l], at_once.heads[l], 1e-5);
    expect_close(by_three.mlp[l], at_once.mlp[l], 1e-5);
  }
}

TEST(Importance, IsTheSameTwice) {
  const auto a = measure_importance(lively_model(), tiny_data(10));
  const auto b = measure_importance(lively_model(), tiny_data(10));
  EXPECT_EQ(a.channels, b.channels);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.mlp, b.mlp);
  EXPECT_EQ(a.layers, b.layers);
}

TEST(Importance, FitsTheModelAndLeavesItAsItWas) {
  const auto teacher = lively_model();
  const auto importance = measure_importance(teacher, tiny_data(4));
  EXPECT_NO_THROW(importance.check(teacher.config));
  const auto before = lively_model();
  for (const auto& [name, tensor] : teacher.tensors) {
    EXPECT_TRUE(at::equal(tensor, before[name])) << name;
    EXPECT_FALSE(tensor.requires_grad()) << name;
  }
}

TEST(Importance, OfTextsDoesNotDependOnWhatFillsThemUp) {
  auto config = model::testing::tiny_text_config(model::Family::bert);
  config.task = model::Task::masked_lm;
  config.classes = config.vocabulary;
  const auto teacher = lively_model(config);
  model::Dataset texts;
  texts.inputs = at::tensor({1, 2, 3, 4, 5, 6, 7, -1, 8, -1, -1, -1}, at::kInt).view({3, 4});
  const auto together = measure_importance(teacher, texts, options(0.5));
  const auto alone = measure_importance(teacher, texts, options(0.5, 1));  // nothing to fill up
  expect_close(together.channels, alone.channels, 1e-5);
  expect_close(together.layers, alone.layers, 1e-5);
  for (std::size_t l = 0; l < 3; ++l) {
    expect_close(together.heads[l], alone.heads[l], 1e-5);
    expect_close(together.mlp[l], alone.mlp[l], 1e-5);
  }
}

TEST(Importance, TakesTheTeachersAnswersWhereThereAreNoLabels) {
  auto data = tiny_data(6);
  const auto teacher = lively_model();
  data.labels =
      model::forward(teacher, model::normalise_pixels(teacher.config, data.inputs)).argmax(1);
  auto unlabelled = data;
  unlabelled.labels = Tensor();
  EXPECT_EQ(measure_importance(teacher, unlabelled).channels,
            measure_importance(teacher, data).channels);
}

TEST(Importance, SaysWhatItCannotMeasure) {
  const auto refusal = [](const model::Transformer& teacher, const model::Dataset& data,
                          const ImportanceOptions& chosen) {
    return message_of([&] { measure_importance(teacher, data, chosen); });
  };
  EXPECT_EQ(refusal(lively_model(), {}, {}), "[importance] data: saw no rows, needs at least 1");
  EXPECT_EQ(refusal(lively_model(), tiny_data(1), options(1.5)),
            "[importance] options.taylor: saw 1.500000, needs 0..1");
  EXPECT_EQ(refusal(lively_model(), tiny_data(1), options(1, 0)),
            "[importance] options.batch: saw 0, needs at least 1");
  auto headless = tiny_config();
  headless.classes = 0;
  EXPECT_EQ(refusal(lively_model(headless), tiny_data(1), {}),
            "[importance] teacher: saw no head, needs one for its loss");
}

TEST(Importance, ThatIsOfAnotherModelIsRefused) {
  auto importance = measure_importance(lively_model(), tiny_data(1));
  importance.heads[2].pop_back();
  EXPECT_EQ(message_of([&] { importance.check(tiny_config()); }),
            "[importance] heads[2]: saw 2 values, needs 3");
  importance.heads.pop_back();
  EXPECT_EQ(message_of([&] { importance.check(tiny_config()); }),
            "[importance] heads: saw 2 values, needs 3");
}

TEST(WeightImportance, IsTheEnergyOfTheUnitsWeights) {
  const Scratch scratch;
  const auto importance = weight_importance(lively_teacher(scratch));
  EXPECT_NO_THROW(importance.check(tiny_config()));
  const auto model = lively_model();
  const auto energy = [](const Tensor& t) { return t.square().sum(at::kDouble).item<double>(); };
  double head = energy(model["blocks.1.attention.output.weight"].narrow(1, 4, 4));
  for (const std::string which : {"query", "key", "value"}) {
    head += energy(model["blocks.1.attention." + which + ".weight"].narrow(0, 4, 4));
  }
  EXPECT_NEAR(importance.heads[1][1], head, 1e-6 * head);
  const double unit = energy(model["blocks.2.mlp.up.weight"][9]) +
                      energy(model["blocks.2.mlp.down.weight"].select(1, 9));
  EXPECT_NEAR(importance.mlp[2][9], unit, 1e-6 * unit);
  double channel = 0;
  for (const auto& parameter : model::parameters(tiny_config())) {
    for (std::size_t axis = 0; parameter.axes.size() > 1 && axis < parameter.axes.size(); ++axis) {
      if (parameter.axes[axis].kind != model::Axis::Kind::residual) continue;
      channel += energy(model[parameter.name].select(static_cast<std::int64_t>(axis), 5));
    }
  }
  EXPECT_NEAR(importance.channels[5], channel, 1e-6 * channel);
  const double layer =
      energy(model["blocks.0.attention.output.weight"]) + energy(model["blocks.0.mlp.down.weight"]);
  EXPECT_NEAR(importance.layers[0], layer, 1e-6 * layer);
}

TEST(WeightImportance, RefusesNumbersThatAreNoneInMatricesAndBiases) {
  for (const std::string name : {"blocks.1.mlp.up.weight", "blocks.1.mlp.up.bias", "norm.weight"}) {
    const Scratch scratch;
    auto model = lively_model();
    model.tensors.at(name).flatten()[1] = std::numeric_limits<float>::infinity();
    model::save(model, scratch / "teacher");
    EXPECT_NE(message_of([&] {
                weight_importance(scratch / "teacher");
              }).find("saw NaN or infinity, needs finite numbers"),
              std::string::npos)
        << name;
  }
}

TEST(Summary, SumsToOneAndDescends) {
  const auto profile = summarise(measure_importance(lively_model(), tiny_data(4)));
  const auto expect_descending = [](const std::vector<double>& values) {
    EXPECT_TRUE(std::is_sorted(values.rbegin(), values.rend()));
  };
  EXPECT_NEAR(sum(profile.channels), 1, 1e-12);
  EXPECT_NEAR(sum(profile.layers), 1, 1e-12);
  expect_descending(profile.channels);
  for (const auto* kind : {&profile.heads, &profile.mlp}) {
    double total = 0;
    for (const auto& layer : *kind) {
      total += sum(layer);
      expect_descending(layer);
    }
    EXPECT_NEAR(total, 1, 1e-12);
  }
}

}  // namespace
}  // namespace cleave::decompose
