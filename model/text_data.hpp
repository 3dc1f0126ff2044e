#pragma once

#include "model/dataset.hpp"

namespace cleave::model {

/// The texts of a data set as the model's task takes them: a label for each text, or for each two
/// (classification), pairs with a score (embedding), or windows of a running text (language
/// models). Throws std::runtime_error "[file] line 7: label: saw nothing, needs 0..1".
Dataset read_texts(const DatasetSource& source, const ModelConfig& config);

}  // namespace cleave::model
