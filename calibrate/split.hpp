#pragma once

#include "calibrate/recipe.hpp"
#include "model/dataset.hpp"

namespace cleave::calibrate {

/// The training data of a recipe: what is learned from, and its last images, which only decide.
/// Both runs that make a teacher and runs that learn from it keep the same images apart, whatever
/// their limit.
struct Split {
  model::Dataset training, validation;
};

/// Throws std::runtime_error from the files, std::invalid_argument where validation leaves nothing.
Split read_split(const DataRecipe& recipe, const model::ModelConfig& config);

}  // namespace cleave::calibrate
