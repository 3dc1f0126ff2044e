#include "calibrate/accelerator.hpp"

#include <cstdlib>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "calibrate/calibrate.hpp"
#include "calibrate/evaluate.hpp"
#include "tests/calibrate/pretend_accelerator.hpp"
#include "tests/calibrate/task.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;
namespace fs = std::filesystem;
using model::Task;
using model::testing::error_of;
using model::testing::expect_contains;

/// The pretended accelerator computes with the CPU's kernels, so it learns the same; sums over
/// threads aside.
void expect_same_epochs(const std::vector<EpochRecord>& found,
                        const std::vector<EpochRecord>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].stage, expected[i].stage);
    EXPECT_NEAR(found[i].loss, expected[i].loss, 1e-5) << found[i].stage;
    EXPECT_NEAR(found[i].validation, expected[i].validation, 1e-5) << found[i].stage;
  }
}

void expect_same_rows(const EvaluateSummary& found, const EvaluateSummary& expected,
                      double tolerance) {
  ASSERT_EQ(found.rows.size(), expected.rows.size());
  for (std::size_t i = 0; i < found.rows.size(); ++i)
    EXPECT_NEAR(found.rows[i].value, expected.rows[i].value, tolerance) << found.rows[i].what;
}

/// Runs `work` and expects it to compute there, not on the CPU.
template <typename Work>
auto on_accelerator(Work&& work) {
  const std::int64_t before = operators_on_accelerator();
  auto result = work();
  EXPECT_GT(operators_on_accelerator() - before, 100);
  return result;
}

TEST(PretendAccelerator, RefusesToMeetTheCpu) {
  const at::Tensor there = at::ones({2, 3}, at::TensorOptions(pretend_accelerator()));
  EXPECT_THROW(there + at::ones({2, 3}), c10::Error);
  EXPECT_THROW(at::matmul(there, at::ones({3, 2})), c10::Error);
  EXPECT_THROW(there.index_select(0, at::zeros({1}, at::kLong)), c10::Error);
  EXPECT_THROW(at::cat({there, at::ones({2, 3})}), c10::Error);
  EXPECT_EQ((there + at::ones({})).sum().item<float>(), 12);  // numbers may, as on a GPU
}

TEST(DeviceOf, IsTheCpuUnlessAskedForAGpuThatIsThere) {
  ::unsetenv("LOCAL_RANK");
  EXPECT_EQ(device_of("none"), at::Device(at::kCPU));
  expect_contains(error_of([] { device_of("abacus"); }),
                  "[accelerator] saw 'abacus', needs none or cuda");
  if (at::hasCUDA()) {
    EXPECT_EQ(device_of("cuda"), at::Device(at::kCUDA, 0));
    ::setenv("LOCAL_RANK", "1000", 1);
    expect_contains(error_of([] { device_of("cuda"); }), "[environment] LOCAL_RANK: saw '1000'");
    ::unsetenv("LOCAL_RANK");
  } else {
    expect_contains(error_of([] { device_of("cuda"); }),
                    "[accelerator] cuda: saw no GPU that this libtorch can use");
  }
}

TEST(NumberFormat, IsBf16OnlyWhereThatIsFaster) {
  using model::Compute;
  EXPECT_EQ(number_format(Compute::bf16, 0.5), Compute::bf16);
  EXPECT_EQ(number_format(Compute::bf16, 2), Compute::f32);
  EXPECT_EQ(number_format(Compute::f32, 0.5), Compute::f32);
  EXPECT_EQ(number_format(Compute::f32, at::kCPU, Group()), Compute::f32);
  // Nobody asks the CPU where it does not compute.
  EXPECT_EQ(number_format(Compute::bf16, pretend_accelerator(), Group()), Compute::bf16);
}

TEST(Train, SaysWhatItComputedInAndGoesOnInAnother) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 2);
  recipe.compute = model::Compute::bf16;
  int asked = 0;
  const auto first = train(
      recipe, scratch / "out", [&](const base::Progress&) { return ++asked < 2; }, Group(),
      pretend_accelerator());
  EXPECT_FALSE(first.finished);
  EXPECT_EQ(first.compute, model::Compute::bf16);
  const auto rest = train(recipe, scratch / "out");  // fp32, where this CPU has no bf16
  EXPECT_TRUE(rest.finished);
  EXPECT_LT(rest.epochs.back().loss, rest.epochs.front().loss);
}

TEST(Train, LearnsOnAnAcceleratorWhatItLearnsOnTheCpu) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 2);
  recipe.mixup = 0.2;
  recipe.dropout = 0.1;
  recipe.ema = 0.9;
  recipe.schedule.optimizer = Optimizer::muon;
  const TrainSummary cpu = train(recipe, scratch / "cpu");
  const TrainSummary there = on_accelerator(
      [&] { return train(recipe, scratch / "there", {}, Group(), pretend_accelerator()); });
  expect_same_epochs(there.epochs, cpu.epochs);
  EXPECT_EQ(there.test, cpu.test);
  const auto expected = model::load(scratch / "cpu").tensors;
  for (const auto& [name, tensor] : model::load(scratch / "there").tensors) {
    // What a key's bias adds is the same for every key, so its gradient is rounding alone.
    if (name.find("key.bias") != std::string::npos) continue;
    EXPECT_TRUE(at::allclose(tensor, expected.at(name), 1e-4, 1e-5)) << name;
  }
}

TEST(Train, GoesOnOnAnAcceleratorWithWhatTheCpuBegan) {
  const Scratch scratch;
  const TrainRecipe recipe = bars_recipe(bars(scratch), 2);
  const TrainSummary whole = train(recipe, scratch / "whole");
  int asked = 0;
  const auto stop = [&asked](const base::Progress&) { return ++asked < 2; };
  EXPECT_FALSE(train(recipe, scratch / "out", stop).finished);
  asked = 0;
  EXPECT_FALSE(on_accelerator([&] {
                 return train(recipe, scratch / "out", stop, Group(), pretend_accelerator());
               }).finished);
  const TrainSummary resumed = train(recipe, scratch / "out");
  ASSERT_TRUE(resumed.finished);
  expect_same_epochs(resumed.epochs, whole.epochs);
}

TEST(Calibrate, LearnsOnAnAcceleratorWhatItLearnsOnTheCpu) {
  const Scratch scratch;
  const fs::path teacher = bars_teacher(scratch, 1);
  const fs::path bundle = bars_bundle(scratch, teacher, false);
  fs::copy(bundle, scratch / "there", fs::copy_options::recursive);
  CalibrateRecipe recipe = bars_calibration(scratch / "bars");
  recipe.data.train_limit = 128;
  recipe.joint.schedule.epochs = 1;
  recipe.alone.tokens = recipe.joint.tokens = 0.5;
  recipe.joint.schedule.optimizer = Optimizer::muon;
  const CalibrateSummary cpu = calibrate(bundle, teacher, recipe);
  const CalibrateSummary there = on_accelerator([&] {
    return calibrate(scratch / "there", teacher, recipe, {}, Group(), pretend_accelerator());
  });
  expect_same_epochs(there.epochs, cpu.epochs);
  EXPECT_EQ(there.teacher_quality, cpu.teacher_quality);
  model::DatasetSource source;
  source.path = scratch / "bars";
  expect_same_rows(evaluate(scratch / "there", teacher, source, false, {}, pretend_accelerator()),
                   evaluate(bundle, teacher, source, false), 0.02);
}

struct TextTask {
  model::Family family;
  Task task;
};

class OnTexts : public ::testing::TestWithParam<TextTask> {
 protected:
  OnTexts() {
    config_ = model::testing::tiny_text_config(GetParam().family);
    config_.task = GetParam().task;
    fs::create_directories(data_);
    fs::create_directories(start_);
    if (config_.causal) {
      config_.vocabulary = config_.classes = 256;
      model::write_byte_tokenizer(start_);
    } else {
      write_bytes(
          start_ / "vocab.txt",
          "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\nn\no\n");
    }
    if (config_.task == Task::masked_lm) config_.classes = config_.vocabulary;
    if (config_.task == Task::classification) config_.classes = 2;
    model::save(model::random_model(config_, 3), start_);
    for (const auto& [split, rows] : {std::pair("train", 60), std::pair("test", 12)})
      if (config_.reads_every_token())
        write_bytes(data_ / (split + std::string(".txt")), words(rows * 8));
      else
        write_bytes(data_ / (split + std::string(".tsv")), lines(rows));
  }

  static std::string words(int count) {
    std::string text;
    for (int i = 0; i < count; ++i)
      text += std::string(1, static_cast<char>('a' + i * i % 15)) + " ";
    return text;
  }

  /// Of unequal length: a text and its label, or two texts and their score.
  std::string lines(int count) const {
    std::string text;
    for (int i = 0; i < count; ++i)
      text += words(1 + i % 7) + "\t" +
              (config_.task == Task::embedding ? words(2 + i % 5) + "\t" + std::to_string(i % 6)
                                               : std::to_string(i % 2)) +
              "\n";
    return text;
  }

  fs::path bundle() const {
    decompose::decompose(start_, {two_text_parts(config_)}, decompose::weight_importance(start_),
                         scratch_ / "bundle");
    return scratch_ / "bundle";
  }

  Scratch scratch_;
  fs::path data_ = scratch_ / "data", start_ = scratch_ / "start";
  model::ModelConfig config_;
};

/// What `cleave train` learns: labels and running text.
class TrainOnTexts : public OnTexts {};

TEST_P(TrainOnTexts, LearnsOnAnAcceleratorWhatItLearnsOnTheCpu) {
  TrainRecipe recipe;
  recipe.data.path = data_;
  recipe.data.validation = 8;
  recipe.model = config_;
  recipe.start = recipe.tokenizer = start_;
  recipe.dropout = 0.1;
  recipe.schedule.epochs = 2;
  recipe.schedule.batch = 8;
  const TrainSummary cpu = train(recipe, scratch_ / "cpu");
  const TrainSummary there = on_accelerator(
      [&] { return train(recipe, scratch_ / "there", {}, Group(), pretend_accelerator()); });
  expect_same_epochs(there.epochs, cpu.epochs);
  EXPECT_NEAR(there.test, cpu.test, 1e-5);
}

class CalibrateOnTexts : public OnTexts {};

TEST_P(CalibrateOnTexts, LearnsOnAnAcceleratorWhatItLearnsOnTheCpu) {
  CalibrateRecipe recipe;
  recipe.data.path = data_;
  recipe.data.validation = 8;
  recipe.views = 1;
  for (auto* schedule : {&recipe.alone.schedule, &recipe.joint.schedule, &recipe.head.schedule}) {
    schedule->epochs = 1;
    schedule->batch = 8;
  }
  if (config_.task == Task::embedding) {
    recipe.data.augmentation.splice = 0.5;
    recipe.alone.labels = recipe.joint.labels = recipe.head.labels = 0;
  } else {
    recipe.boost.schedule = recipe.alone.schedule;
  }
  if (!config_.reads_every_token()) recipe.alone.tokens = recipe.joint.tokens = 0.5;
  const fs::path cut = bundle();
  fs::copy(cut, scratch_ / "there", fs::copy_options::recursive);
  const CalibrateSummary cpu = calibrate(cut, start_, recipe);
  const CalibrateSummary there = on_accelerator([&] {
    return calibrate(scratch_ / "there", start_, recipe, {}, Group(), pretend_accelerator());
  });
  expect_same_epochs(there.epochs, cpu.epochs);
  model::DatasetSource source;
  source.path = data_;
  if (config_.causal) source.stride = 5;
  expect_same_rows(evaluate(cut, start_, source, false, {}, pretend_accelerator()),
                   evaluate(cut, start_, source, false), 1e-5);
  expect_same_rows(evaluate_model(start_, source, pretend_accelerator()),
                   evaluate_model(start_, source), 1e-5);
}

const TextTask classifier{model::Family::bert, Task::classification},
    encoder{model::Family::bert, Task::embedding}, masked{model::Family::bert, Task::masked_lm},
    gpt2{model::Family::gpt2, Task::causal_lm}, llama{model::Family::llama, Task::causal_lm},
    roberta{model::Family::roberta, Task::masked_lm},
    distilbert{model::Family::distilbert, Task::classification},
    qwen2{model::Family::qwen2, Task::causal_lm};
INSTANTIATE_TEST_SUITE_P(, TrainOnTexts, ::testing::Values(classifier, gpt2, llama, distilbert));
INSTANTIATE_TEST_SUITE_P(, CalibrateOnTexts,
                         ::testing::Values(classifier, encoder, masked, gpt2, llama, roberta,
                                           distilbert, qwen2));

}  // namespace
}  // namespace cleave::calibrate
