#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::model {

/// Some of one parameter: elements [begin, end) along an axis.
struct ParameterRange {
  std::string name;  // canonical (model/config/config.hpp)
  std::int64_t axis = 0;
  Range range;
  bool operator==(const ParameterRange& other) const {
    return name == other.name && axis == other.axis && range == other.range;
  }
};
/// Its shape. Throws std::invalid_argument where the model has no such parameter, or not so much.
std::vector<std::int64_t> dims_of(const ParameterRange& held, const ModelConfig& model);

/// Numbers in it.
std::int64_t count_of(const ParameterRange& held, const ModelConfig& model);

/// What one device keeps of a model, in a folder of its own: holding.json (format 1) says of which
/// model and what, model.safetensors has the ranges under their parameters' canonical names.
struct Holding {
  ModelConfig model;
  std::vector<ParameterRange> weights;
};

/// Throws std::runtime_error with file and field.
Holding read_holding(const std::filesystem::path& folder);
void write_holding(const Holding& holding, const std::filesystem::path& folder);

}  // namespace cleave::model
