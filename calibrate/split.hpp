#pragma once

#include <memory>
#include <string>

#include "calibrate/recipe.hpp"
#include "model/dataset.hpp"

namespace cleave::calibrate {

/// The training data of a recipe: what is learned from, and its last rows, which only decide. Both
/// runs that make a teacher and runs that learn from it keep the same rows apart, whatever
/// their limit. Texts that were cut short are counted of both together, with the training data.
struct Split {
  model::Dataset training, validation;
};

/// The tokenizer of a model folder; null for a model of images.
std::unique_ptr<const model::Tokenizer> tokenizer_of(const model::ModelConfig& config,
                                                     const std::filesystem::path& folder);

/// Where the split "train" or "test" of a recipe's data lies.
model::DatasetSource source_of(const DataRecipe& recipe, const std::string& split,
                               const model::Tokenizer* tokenizer);

/// Throws std::runtime_error from the files, std::invalid_argument where validation leaves nothing.
/// Of texts in pairs, both are on one side.
Split read_split(const DataRecipe& recipe, const model::ModelConfig& config,
                 const model::Tokenizer* tokenizer = nullptr);

/// SHA-256 of all that a data set says.
std::string digest_of(const model::Dataset& data);

}  // namespace cleave::calibrate
