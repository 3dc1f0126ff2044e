#pragma once

#include <filesystem>
#include <numeric>
#include <string>
#include <unistd.h>
#include <vector>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "infer/engine.hpp"
#include "model/checkpoint.hpp"
#include "model/fusion.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::infer {

/// A folder of the running test, removed at its end.
class Scratch {
 public:
  Scratch() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            (std::string("cleave_") + test->test_suite_name() + "_" + test->name() + "_" +
             std::to_string(::getpid()));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline model::ModelConfig tiny_config() {
  model::ModelConfig config;
  config.width = 24;
  config.head_width = 8;
  config.layers.assign(3, model::LayerShape{3, 48});
  config.image_height = config.image_width = 8;
  config.patch = 4;
  config.channels = 1;
  config.classes = 5;
  config.processing.height = config.processing.width = 8;
  config.processing.mean = config.processing.std = {0.5};
  return config;
}

/// The config of a part: `layers` layers of `heads` heads and `mlp_width` columns, without a head.
inline model::ModelConfig tiny_part(std::int64_t width, std::size_t layers, std::int64_t heads,
                                    std::int64_t mlp_width) {
  model::ModelConfig config = tiny_config();
  config.width = width;
  config.layers.assign(layers, model::LayerShape{heads, mlp_width});
  config.classes = 0;
  return config;
}

inline plan::PlanPart plan_part(const std::string& device, const model::ModelConfig& config) {
  plan::PlanPart part;
  part.device = device;
  part.sub_model().config = config;
  part.sub_model().layers.resize(config.layers.size());
  std::iota(part.sub_model().layers.begin(), part.sub_model().layers.end(), 0);
  return part;
}

/// Channels 0..width-1 shifted by `first`.
inline std::vector<std::int64_t> channels_from(std::int64_t first, std::int64_t width) {
  std::vector<std::int64_t> channels(static_cast<std::size_t>(width));
  std::iota(channels.begin(), channels.end(), first);
  return channels;
}

/// A bundle of three parts with random weights: hub (16 channels), desk (12) and cam (8).
struct TinyBundle {
  explicit TinyBundle(const std::filesystem::path& folder, std::int64_t batch = 1)
      : teacher(model::random_model(tiny_config(), 1)) {
    plan.teacher = teacher.config;
    plan.shape.batch = batch;
    plan.aggregator = "hub";
    plan.parts = {plan_part("hub", tiny_part(16, 3, 2, 32)),
                  plan_part("desk", tiny_part(12, 2, 2, 24)),
                  plan_part("cam", tiny_part(8, 1, 1, 16))};
    const auto fusion =
        model::make_fusion(teacher, {"hub", "desk", "cam"},
                           {channels_from(0, 16), channels_from(8, 12), channels_from(16, 8)});
    for (std::size_t p = 0; p < plan.parts.size(); ++p) {
      parts.push_back(model::random_model(plan.parts[p].sub_model().config, p + 2));
      model::save(parts[p], folder / "parts" / plan.name / plan.parts[p].device);
    }
    model::save(fusion, folder / "fusion" / plan.name);
    std::filesystem::create_directories(folder / "plans");
    plan::write_plan(plan, folder / "plans" / (plan.name + ".json"));
    plan::write_manifest(folder, plan.name, "");
  }

  model::Transformer teacher;
  std::vector<model::Transformer> parts;
  plan::Plan plan;
};

/// Pixels that differ from image to image: uint8 [batch, 1, 8, 8].
inline net::Value tiny_pixels(std::int64_t batch) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(batch * 64));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 % 251);
  net::Value value;
  value.element = base::Element::u8;
  value.dims = {batch, 1, 8, 8};
  value.data = net::Buffer::copy_of(bytes.data(), bytes.size());
  return value;
}

}  // namespace cleave::infer
