// What a whole process takes that loads and runs a model, against what optimizer/plan/work.hpp
// predicts.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "infer/engine.hpp"
#include "infer/machine.hpp"
#include "infer/measure.hpp"
#include "model/checkpoint.hpp"
#include "model/transformer.hpp"
#include "optimizer/plan/work.hpp"
#include "tests/base/scratch.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::plan {
namespace {

constexpr const char* folder_variable = "CLEAVE_TEST_MEMORY_OF";

/// The other process of the next test: loads, answers three times, prints how much it grew.
TEST(MeasuredMemory, Child) {
  const char* folder = std::getenv(folder_variable);
  if (folder == nullptr) GTEST_SKIP() << "runs in a process of its own, started by the next test";
  infer::set_threads(1);
  const c10::InferenceMode no_grad;
  const double before = infer::measure_runtime_bytes();
  const model::Transformer model = model::load(folder);
  const model::ModelConfig& config = model.config;
  const at::Tensor pixels = at::zeros({1, config.channels, config.image_height, config.image_width},
                                      at::dtype(at::kByte));
  for (int pass = 0; pass < 3; ++pass)
    model::features(model, model::normalise_pixels(config, pixels));
  std::printf("grew by %.0f\n", infer::peak_memory_bytes() - before);
}

/// By how much a fresh process grows that loads and runs the model.
double measured_growth(const model::ModelConfig& config) {
  const testing::Scratch scratch;
  model::save(model::random_model(config, 1), scratch / "model");
  const std::string command = std::string(folder_variable) + "=" + (scratch / "model").string() +
                              " OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 " +
                              std::filesystem::read_symlink("/proc/self/exe").string() +
                              " --gtest_filter=MeasuredMemory.Child";
  FILE* child = ::popen(command.c_str(), "r");
  if (child == nullptr) return 0;
  double bytes = 0;
  char line[256];
  while (std::fgets(line, sizeof line, child) != nullptr) std::sscanf(line, "grew by %lf", &bytes);
  return ::pclose(child) == 0 ? bytes : 0;
}

TEST(MeasuredMemory, StaysWithinThePrediction) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer takes memory of its own";
#endif
  model::ModelConfig cut = examples::vit(6, 768, 12, 224, 16, 3, 1000);
  cut.width = 256;
  for (model::LayerShape& layer : cut.layers) layer = {5, 800};
  for (const model::ModelConfig& config : {examples::fashion_vit(), cut}) {
    const double measured = measured_growth(config);
    const double predicted =
        weight_bytes(config) + std::max(forward_bytes(config, {1, 0, 0}), loading_bytes(config));
    EXPECT_GT(measured, weight_bytes(config)) << "width " << config.width;
    EXPECT_LE(measured, predicted) << "width " << config.width;
    EXPECT_LE(predicted, measured + std::max(0.1 * measured, 4e6)) << "width " << config.width;
  }
}

}  // namespace
}  // namespace cleave::plan
