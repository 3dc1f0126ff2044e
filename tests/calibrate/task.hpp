#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/digest.hpp"
#include "calibrate/recipe.hpp"
#include "calibrate/train.hpp"
#include "decompose/decompose.hpp"
#include "model/checkpoint.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::testing {

// A task that a tiny model learns in a second: where in an 8 x 8 image the bright bar lies.

inline std::string big_endian(std::uint32_t x) {
  return {static_cast<char>(x >> 24), static_cast<char>(x >> 16), static_cast<char>(x >> 8),
          static_cast<char>(x)};
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// One split in IDX layout: class c has its bar in rows 2c and 2c + 1, under noise.
inline void write_split(const std::filesystem::path& folder, const std::string& lead,
                        std::uint32_t count, std::uint32_t seed) {
  std::string images = big_endian(0x803) + big_endian(count) + big_endian(8) + big_endian(8);
  std::string labels = big_endian(0x801) + big_endian(count);
  std::uint32_t noise = seed;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t label = (i * 7 + seed) % 4;
    labels += static_cast<char>(label);
    for (std::uint32_t pixel = 0; pixel < 64; ++pixel) {
      noise = noise * 1664525 + 1013904223;
      const std::uint32_t base = pixel / 16 == label ? 120 : 60;
      images += static_cast<char>(base + (noise >> 24) % 80);
    }
  }
  write_bytes(folder / (lead + "-images-idx3-ubyte"), images);
  write_bytes(folder / (lead + "-labels-idx1-ubyte"), labels);
}

inline std::filesystem::path bars(const Scratch& scratch) {
  std::filesystem::create_directories(scratch / "bars");
  write_split(scratch / "bars", "train", 448, 1);
  write_split(scratch / "bars", "t10k", 128, 99);
  return scratch / "bars";
}

inline model::ModelConfig bars_config() {
  model::ModelConfig config;
  config.width = 16;
  config.head_width = 8;
  config.layers.assign(2, {2, 32});
  config.image_height = config.image_width = 8;
  config.patch = 4;
  config.channels = 1;
  config.classes = 4;
  config.processing.height = config.processing.width = 8;
  config.processing.mean = config.processing.std = {0.4};
  return config;
}

inline calibrate::TrainRecipe bars_recipe(const std::filesystem::path& data, int epochs = 3) {
  calibrate::TrainRecipe recipe;
  recipe.data.path = data;
  recipe.data.validation = 64;
  recipe.data.augmentation.flip = true;
  recipe.data.augmentation.shift = 0;
  recipe.model = bars_config();
  recipe.schedule.epochs = epochs;
  recipe.schedule.batch = 32;
  recipe.schedule.learning_rate = 5e-3;
  recipe.schedule.warmup_epochs = 0.5;
  recipe.threads = 2;
  return recipe;
}

/// A teacher of bars, trained.
inline std::filesystem::path bars_teacher(const Scratch& scratch, int epochs = 6) {
  calibrate::TrainRecipe recipe = bars_recipe(bars(scratch), epochs);
  recipe.seed = 4;  // knows every bar after six epochs; some seeds need more
  calibrate::train(recipe, scratch / "teacher");
  return scratch / "teacher";
}

/// Three parts of the teacher in a bundle; `classifiers`: parts keep the teacher's.
inline std::filesystem::path bars_bundle(const Scratch& scratch,
                                         const std::filesystem::path& teacher,
                                         bool classifiers = true) {
  plan::Plan plan;
  plan.teacher = model::load(teacher).config;
  plan.aggregator = "hub";
  const auto part = [&](const std::string& device, std::int64_t width, std::int64_t layers,
                        std::int64_t heads, std::int64_t mlp_width) {
    plan::PlanPart made;
    made.device = device;
    made.sub_model().config = plan.teacher;
    made.sub_model().config.width = width;
    made.sub_model().config.layers.assign(static_cast<std::size_t>(layers), {heads, mlp_width});
    if (!classifiers) made.sub_model().config.classes = 0;
    made.sub_model().layers.resize(static_cast<std::size_t>(layers));
    std::iota(made.sub_model().layers.begin(), made.sub_model().layers.end(), 0);
    return made;
  };
  plan.parts = {part("hub", 8, 2, 1, 16), part("desk", 6, 1, 1, 12), part("cam", 4, 1, 1, 8)};
  decompose::decompose(teacher, {plan}, decompose::weight_importance(teacher), scratch / "bundle");
  return scratch / "bundle";
}

/// 12 and 8 of the 16 channels of a tiny text model, two of its layers.
inline plan::Plan two_text_parts(const model::ModelConfig& teacher) {
  plan::Plan plan;
  plan.teacher = teacher;
  plan.aggregator = "hub";
  plan.shape.tokens = 16;
  for (const auto& [device, width] : {std::pair("hub", 12), std::pair("cam", 8)}) {
    plan::PlanPart part;
    part.device = device;
    part.sub_model().config = teacher;
    part.sub_model().config.width = width;
    part.sub_model().config.classes = 0;
    part.sub_model().config.layers = {{2, 12}, {2, 12}};
    part.sub_model().layers = {0, 2};
    plan.parts.push_back(part);
  }
  return plan;
}

/// All four stages, an epoch or two each.
inline calibrate::CalibrateRecipe bars_calibration(const std::filesystem::path& data) {
  calibrate::CalibrateRecipe recipe;
  recipe.data.path = data;
  recipe.data.validation = 64;
  recipe.data.augmentation.shift = 0;
  recipe.views = 2;
  recipe.threads = 2;
  for (auto* schedule : {&recipe.alone.schedule, &recipe.boost.schedule, &recipe.joint.schedule,
                         &recipe.head.schedule}) {
    schedule->epochs = 1;
    schedule->batch = 32;
    schedule->learning_rate = 5e-3;
    schedule->warmup_epochs = 0.2;
  }
  recipe.joint.schedule.epochs = 3;
  return recipe;
}

inline std::string bytes_of(const std::filesystem::path& path) { return base::read_text(path); }

/// Every file below `folder` outside .work/ and logs, with its digest.
inline std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> found;
  for (const std::string& name : names_below(folder))
    if (std::filesystem::is_regular_file(folder / name) && name.rfind(".work", 0) != 0 &&
        std::filesystem::path(name).extension() != ".jsonl")
      found[name] = base::sha256_file(folder / name);
  return found;
}

}  // namespace cleave::testing
