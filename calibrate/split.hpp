#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/remark.hpp"
#include "calibrate/recipe.hpp"
#include "model/dataset.hpp"

namespace cleave::calibrate {

/// The training data of a recipe: what is learned from, and the rows held out, which only decide.
/// Both runs that make a teacher and runs that learn from it hold out the same rows, whatever their
/// limit and seed. Neither part is a copy of the images or texts. Texts that were cut short are
/// counted of both together, with the training data.
struct Split {
  model::Dataset training, validation;
  model::HeldOut held_out;
  /// What the data said, and a warning where training never sees a class.
  base::Remarks remarks;
  /// Of all rows, see model::Dataset::classes(); empty for running text.
  std::vector<std::int64_t> classes;
  /// The rows held out, counted as in `held_out`: from … up to before …, apart.
  std::vector<std::pair<std::int64_t, std::int64_t>> held;

  /// Nothing that `other`, the split of another run, learned from is held out here. False too where
  /// its data were other ones.
  bool is_kept_apart_by(const model::HeldOut& other) const;
};

/// The tokenizer of a model folder; null for a model of images.
std::unique_ptr<const model::Tokenizer> tokenizer_of(const model::ModelConfig& config,
                                                     const std::filesystem::path& folder);

/// Where the split "train" or "test" of a recipe's data lies.
model::DatasetSource source_of(const DataRecipe& recipe, const std::string& split,
                               const model::Tokenizer* tokenizer);

/// Throws std::runtime_error from the files, std::invalid_argument where validation leaves nothing.
/// Of texts in pairs, both are on one side. `names_classes`: see model::DatasetSource.
Split read_split(const DataRecipe& recipe, const model::ModelConfig& config,
                 const model::Tokenizer* tokenizer = nullptr, bool names_classes = false);

/// SHA-256 of all that a data set says.
std::string digest_of(const model::Dataset& data);

}  // namespace cleave::calibrate
