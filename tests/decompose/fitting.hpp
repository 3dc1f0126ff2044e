#pragma once

#include <string>
#include <vector>

#include "decompose/fit/rows.hpp"
#include "decompose/slice.hpp"
#include "tests/decompose/running.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::testing {

/// Images of noise, or texts of different lengths (of language models all as long).
inline model::Dataset data_of(const model::ModelConfig& config, std::int64_t rows = 60) {
  model::Dataset data;
  if (!config.is_text()) {
    data.inputs =
        (seeded({rows, config.channels, config.image_height, config.image_width}, 6) * 60 + 128)
            .clamp(0, 255)
            .to(at::kByte);
    return data;
  }
  const std::int64_t tokens = 9;
  data.inputs = (seeded({rows, tokens}, 6).abs() * 1000).to(at::kInt).remainder(config.vocabulary);
  if (config.reads_every_token()) {
    data.stream = data.inputs.flatten();  // windows of a running text
    return data;
  }
  for (std::int64_t row = 0; row < rows; ++row)
    data.inputs[row].narrow(0, 2 + row % 7, tokens - 2 - row % 7).fill_(-1);
  return data;
}

inline decompose::FitRows rows_of(const model::ModelConfig& config, std::int64_t count = 60,
                                  at::ScalarType element = at::kFloat) {
  return decompose::FitRows(config, data_of(config, count), 16, element);
}

inline std::vector<model::ModelConfig> all_configs() {
  std::vector<model::ModelConfig> configs = {tiny_config(), testing::tiny_distilled_config()};
  for (const model::Family family : model::testing::text_families)
    configs.push_back(model::testing::tiny_text_config(family));
  return configs;
}

inline std::string name_of_config(const model::ModelConfig& config) {
  return std::string(name_of(config.family));
}

/// Units here and there, a layer less.
inline decompose::KeepList hard_cut(const model::ModelConfig& config) {
  auto keep = decompose::keep_all(config);
  keep.layers = {0, 2};
  keep.channels.resize(static_cast<std::size_t>(config.width * 3 / 4));
  keep.heads = {keep.heads[0], keep.heads[2]};
  keep.heads[0].resize(1);
  keep.heads[1].resize(1);
  keep.mlp = {keep.mlp[0], keep.mlp[2]};
  keep.mlp[0].resize(8);
  keep.mlp[1].resize(6);
  return keep;
}

}  // namespace cleave::testing
