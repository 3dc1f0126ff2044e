#pragma once

#include <filesystem>
#include <string>

#include "base/file.hpp"
#include "decompose/decompose.hpp"
#include "decompose/slice.hpp"
#include "model/config/config.hpp"
#include "model/config/safetensors.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::testing {

/// Three unlike layers over width 12, heads of 4, images of 8 x 8: small enough to check by hand.
inline model::ModelConfig tiny_config() {
  model::ModelConfig config;
  config.width = 12;
  config.head_width = 4;
  config.layers = {{3, 20}, {2, 16}, {3, 10}};
  config.image_height = config.image_width = 8;
  config.patch = 4;
  config.channels = 1;
  config.classes = 5;
  config.processing.height = config.processing.width = 8;
  config.processing.mean = config.processing.std = {0.5};
  return config;
}

inline model::ModelConfig tiny_distilled_config() {
  auto config = tiny_config();
  config.family = model::Family::deit;
  config.summary_tokens = 2;
  return config;
}

/// Two layers kept of three, units from the middle, none of them in a single run.
inline decompose::KeepList tiny_keep() {
  decompose::KeepList keep;
  keep.layers = {0, 2};
  keep.channels = {0, 1, 2, 5, 7, 8, 11};
  keep.heads = {{1, 2}, {0, 2}};
  keep.mlp = {{0, 3, 4, 5, 19}, {2, 9}};
  return keep;
}

inline std::filesystem::path tiny_teacher(const Scratch& scratch,
                                          const model::ModelConfig& config = tiny_config()) {
  decompose::init(config, 7, scratch / "teacher");
  return scratch / "teacher";
}

inline std::string bytes_of(const model::TensorFiles& files, const model::TensorEntry& entry) {
  return {reinterpret_cast<const char*>(files.data(entry)), entry.bytes};
}

}  // namespace cleave::testing
