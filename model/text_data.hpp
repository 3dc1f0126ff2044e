#pragma once

#include "model/dataset.hpp"

namespace cleave::model {

/// What a classifier should hear that is asked about so many texts a row and learned from another
/// number; empty where it learned from as many, or nobody knows: "the model learned from pairs of
/// texts, …".
std::string other_texts(const ModelConfig& config, std::int64_t texts_per_row);

/// The texts of a data set as the model's task takes them: a label for each text, or for each two
/// (classification), pairs with a score (embedding), or windows of a running text (language
/// models). Throws std::runtime_error "[file] line 7: label: saw nothing, needs 0..1".
Dataset read_texts(const DatasetSource& source, const ModelConfig& config);

}  // namespace cleave::model
