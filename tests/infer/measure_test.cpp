#include "infer/measure.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

#include <gtest/gtest.h>

#include "infer/exchange.hpp"
#include "infer/machine.hpp"
#include "optimizer/predict.hpp"

namespace cleave::infer {
namespace {

using plan::KernelKind;

/// D 192, 6 layers, 50 tokens: the shape of a small teacher.
model::ModelConfig small_model() {
  model::ModelConfig config;
  config.width = 192;
  config.head_width = 64;
  config.layers.assign(6, model::LayerShape{3, 768});
  config.image_height = config.image_width = 28;
  config.patch = 4;
  config.channels = 1;
  config.classes = 10;
  config.processing.height = config.processing.width = 28;
  config.processing.mean = config.processing.std = {0.5};
  return config;
}

MeasureOptions quick() {
  MeasureOptions options;
  options.like = small_model();
  options.repetitions = 5;
  return options;
}

template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

TEST(Measure, GivesEnoughSamplesOfEachKindToFit) {
  const plan::Profile profile = measure(quick());
  std::array<int, plan::num_kernel_kinds> fitted{};
  int held_out = 0;
  for (const auto& sample : profile.samples) {
    ASSERT_GT(sample.seconds, 0);
    if (sample.held_out) ++held_out;
    if (!sample.held_out) ++fitted[static_cast<std::size_t>(sample.kernel.kind)];
  }
  for (std::size_t kind = 0; kind < fitted.size(); ++kind)
    EXPECT_GE(fitted[kind], 3) << plan::name_of(static_cast<KernelKind>(kind));
  EXPECT_GE(held_out, 10);
}

TEST(Measure, FitsAModelOfOneHead) {
  MeasureOptions options = quick();
  for (auto& layer : options.like.layers) layer.heads = 1;
  EXPECT_NO_THROW(optimizer::fit(measure(options).samples));
}

TEST(Measure, HasEveryKernelOfItsModel) {
  const plan::Profile profile = measure(quick());
  for (const auto& kernel : plan::kernels_of_model(small_model(), {1, 0, 0}, true))
    EXPECT_TRUE(std::any_of(profile.samples.begin(), profile.samples.end(),
                            [&](const auto& s) {
                              return !s.held_out && s.kernel.kind == kernel.kind &&
                                     s.kernel.rows == kernel.rows &&
                                     s.kernel.inner == kernel.inner &&
                                     s.kernel.columns == kernel.columns;
                            }))
        << plan::name_of(kernel.kind) << " " << kernel.rows << " x " << kernel.columns;
}

TEST(Measure, KnowsMachineMemoryAndMessages) {
  const plan::Profile profile = measure(quick());
  EXPECT_NE(profile.machine.find(", 1 thread"), std::string::npos) << profile.machine;
  EXPECT_GT(profile.runtime_bytes, 50e6);
  EXPECT_LE(profile.runtime_bytes, peak_memory_bytes());
  EXPECT_GT(profile.cost.instruction_s, 0);
  EXPECT_LT(profile.cost.instruction_s, 1) << "in seconds";
  EXPECT_GE(profile.cost.wake_s, 0);
  EXPECT_LT(profile.cost.wake_s, 1) << "in seconds";
  EXPECT_GT(profile.cost.message_s, 0);
  EXPECT_LT(profile.cost.message_s, 1) << "in seconds";
}

TEST(Measure, StopsWhenAsked) {
  int calls = 0;
  const auto stop_after = [&calls](int rounds) {
    calls = 0;
    return [&calls, rounds](const base::Progress& progress) {
      EXPECT_EQ(progress.total, 6);
      return ++calls <= rounds;
    };
  };
  EXPECT_EQ(error_of([&] { measure(quick(), stop_after(1)); }),
            "[profile] stopped before anything was measured");
  EXPECT_GT(measure(quick(), stop_after(2)).samples.front().seconds, 0);
  EXPECT_EQ(calls, 3);
}

TEST(Measure, BeginsNoRoundAfterItsTime) {
  MeasureOptions options = quick();
  options.max_time_s = 1e-3;
  int rounds = 0;
  measure(options, [&rounds](const base::Progress&) { return ++rounds > 0; });
  EXPECT_EQ(rounds, 2) << "one to warm up, one that counts";
}

TEST(Measure, RefusesOptionsOutOfRange) {
  MeasureOptions options = quick();
  options.repetitions = 0;
  EXPECT_EQ(error_of([&] { measure(options); }), "[measure] repetitions: saw 0, needs 1 or more");
  options = quick();
  options.threads = 0;
  EXPECT_EQ(error_of([&] { measure(options); }), "[measure] threads: saw 0, needs 1 or more");
  options = quick();
  options.max_time_s = 0;
  EXPECT_EQ(error_of([&] { measure(options); }),
            "[measure] max_time_s: saw 0.000000, needs a number above 0");
}

TEST(Exchange, IsMeasuredInSeconds) {
  const double hand_over_s = hand_over_seconds();
  EXPECT_GT(hand_over_s, 1e-7);
  EXPECT_LT(hand_over_s, 1);
  const MessageCost message = message_cost();
  EXPECT_GT(message.seconds, 1e-7);
  EXPECT_LT(message.seconds, 1);
  EXPECT_GE(message.seconds_per_byte, 0);
  EXPECT_LT(message.seconds_per_byte, 1e-3);
}

}  // namespace
}  // namespace cleave::infer
