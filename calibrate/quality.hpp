#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "calibrate/measure.hpp"
#include "model/dataset.hpp"
#include "model/lanes.hpp"
#include "model/transformer.hpp"

namespace cleave::calibrate {

/// What is right for some rows: classes [b], the next token of each or what was masked [b, N], or
/// undefined where the task has no labels.
at::Tensor targets_of(const model::Dataset& data, const at::Tensor& indices);

/// An embedding's answers at length 1, whether the model scales them or not. [.., D] -> [.., D].
at::Tensor directions_of(const model::ModelConfig& config, const at::Tensor& answers);

/// What each row brings to the measure: 1 or 0 for right and wrong [b], nats and the number of
/// tokens that have them [b, 2], or directions [b, D]. `answers` are what classify() gives for rows
/// begin … begin + b − 1, wherever they were computed; the marks are the CPU's.
at::Tensor marks(const model::ModelConfig& config, const model::Dataset& data, std::int64_t begin,
                 const at::Tensor& answers);
/// The measure over the marks of all rows [n, ..]; NaN without rows.
double quality_of(const model::ModelConfig& config, const model::Dataset& data,
                  const at::Tensor& marks);

/// Answers of a whole data set: `answer(rows)` gives what is to be measured, one tensor for each of
/// `variants`, of rows as the data set has them; called on the lanes without gradients.
/// Returns the variants' qualities; nothing where `report` (rows done) asked to stop.
std::vector<double> qualities(
    const model::ModelConfig& config, const model::Dataset& data, std::size_t variants,
    const std::function<std::vector<at::Tensor>(const at::Tensor& rows)>& answer,
    model::Lanes& lanes, const std::function<bool(std::int64_t)>& report = {});
/// Quality of one model.
double quality(const model::Transformer& model, const model::Dataset& data, model::Lanes& lanes);

/// Pearson's correlation of the ranks, ties sharing their mean rank; 0 where one of the two [n] is
/// constant.
double spearman(const at::Tensor& a, const at::Tensor& b);

}  // namespace cleave::calibrate
