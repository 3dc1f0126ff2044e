#pragma once

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <unistd.h>
#include <utility>

#include <gtest/gtest.h>

#include "model/config/config.hpp"

namespace cleave::model::testing {

/// tests/goldens/<name>.
inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(CLEAVE_SOURCE_DIR) / "tests" / "goldens" / name;
}

/// A folder that is removed at the end of the test.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "cleave-model-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no scratch folder");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// What `call` throws; fails the test and returns "" where it throws nothing.
template <typename Call>
std::string error_of(Call&& call) {
  try {
    std::forward<Call>(call)();
  } catch (const std::exception& error) {
    return error.what();
  }
  ADD_FAILURE() << "threw nothing";
  return {};
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos)
      << "'" << text << "' does not contain '" << part << "'";
}

/// A uniform ViT of three layers: D = 12, H = 3, K = 4, F = 20, 8 x 8 images of two channels, 4
/// classes.
inline ModelConfig tiny_config(Family family = Family::vit) {
  ModelConfig config;
  config.family = family;
  config.width = 12;
  config.head_width = 4;
  config.layers.assign(3, {3, 20});
  config.image_height = config.image_width = 8;
  config.patch = 4;
  config.channels = 2;
  config.classes = 4;
  config.processing.height = config.processing.width = 8;
  config.processing.mean = {0.5, 0.25};
  config.processing.std = {0.5, 0.3};
  return config;
}

/// The same, cut unevenly: heads·K is not D, one layer without attention, one without an MLP.
inline ModelConfig cut_config(Family family = Family::vit) {
  ModelConfig config = tiny_config(family);
  config.width = 7;
  config.layers = {{2, 9}, {0, 5}, {3, 0}};
  return config;
}

inline constexpr Family text_families[] = {Family::bert,   Family::roberta, Family::distilbert,
                                           Family::gpt2,   Family::llama,   Family::qwen2,
                                           Family::mistral};

/// A uniform text model of three layers: D = 16, H = 4, K = 4, F = 20, 20 tokens, context 16. Llama
/// and its like have two queries on each head of keys and values; Qwen2 has a tied head, Mistral a
/// window.
inline ModelConfig tiny_text_config(Family family) {
  ModelConfig config;
  config.family = family;
  config.width = 16;
  config.head_width = 4;
  config.layers.assign(3, {4, 20});
  config.vocabulary = 20;
  config.context = 16;
  if (family == Family::bert || family == Family::roberta || family == Family::distilbert) {
    config.norm_placement = NormPlacement::after;
    config.task = Task::embedding;
    config.tied_head = true;
    if (family == Family::bert) config.token_types = 2;
    if (family != Family::roberta) return config;
    config.token_types = 1;
    config.position_offset = 2;
    config.norm_eps = 1e-5;
    return config;
  }
  config.causal = true;
  config.task = Task::causal_lm;
  config.classes = config.vocabulary;
  config.end_tokens = {3};
  config.norm_eps = 1e-5;
  config.tied_head = family == Family::gpt2 || family == Family::qwen2;
  config.activation = family == Family::gpt2 ? Activation::gelu_tanh : Activation::silu;
  if (family == Family::gpt2) return config;
  config.norm_kind = NormKind::rms;
  config.gated = true;
  config.qkv_bias = family == Family::qwen2;
  config.output_bias = config.mlp_bias = false;
  config.rotary_base = 10000;
  config.group = 2;
  if (family == Family::mistral) config.window = config.context;
  return config;
}

/// The same as Llama 3.1 scales its positions, in a context of 16 from one of 8.
inline ModelConfig tiny_scaled_config() {
  ModelConfig config = tiny_text_config(Family::llama);
  config.rotary_base = 20;
  config.rotary_scaling = {RotaryScaling::Kind::llama3, 4, 0.5, 1, 8};
  return config;
}

}  // namespace cleave::model::testing
