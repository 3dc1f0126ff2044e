#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "calibrate/lanes.hpp"
#include "model/dataset.hpp"
#include "model/transformer.hpp"

namespace cleave::calibrate {

/// In what a model's answers are measured: the share of right ones (classification), Spearman's
/// rank correlation of cosine and score (embedding), nats a token (language models).
struct Measure {
  std::string_view name;  // "accuracy", "spearman", "nats"
  bool more_is_better = true;
};
Measure measure_of(const model::ModelConfig& config);
/// The measure of this name, as a bundle's figures have it; accuracy where it is none of them.
Measure measure_named(std::string_view name);

/// "93.48 %", "86.72" (Spearman times 100), "1.6123 nats (perplexity 5.01)".
std::string to_text(const Measure& measure, double value);
/// How much worse than the teacher's: points of accuracy or of Spearman times 100; per cent of the
/// teacher's nats.
double lost(const Measure& measure, double teacher, double value);

/// What is right for some rows: classes [b], the next token of each [b, N], or undefined where the
/// task has no labels.
at::Tensor targets_of(const model::Dataset& data, const at::Tensor& indices);

/// What each row brings to the measure: 1 or 0 for right and wrong [b], nats and the number of
/// tokens that have them [b, 2], or directions [b, D]. `answers` are what classify() gives for rows
/// begin … begin + b − 1.
at::Tensor marks(const model::ModelConfig& config, const model::Dataset& data, std::int64_t begin,
                 const at::Tensor& answers);
/// The measure over the marks of all rows [n, ..]; NaN without rows.
double quality_of(const model::ModelConfig& config, const model::Dataset& data,
                  const at::Tensor& marks);

/// Answers of a whole data set: `answer(inputs)` gives what is to be measured, one tensor for each
/// of `variants`, of inputs as features() takes them; called on the lanes without gradients.
/// Returns the variants' qualities; nothing where `report` (rows done) asked to stop.
std::vector<double> qualities(
    const model::ModelConfig& config, const model::Dataset& data, std::size_t variants,
    const std::function<std::vector<at::Tensor>(const at::Tensor& inputs)>& answer, Lanes& lanes,
    const std::function<bool(std::int64_t)>& report = {});
/// Quality of one model.
double quality(const model::Transformer& model, const model::Dataset& data, Lanes& lanes);

/// Pearson's correlation of the ranks, ties sharing their mean rank; 0 where one of the two [n] is
/// constant.
double spearman(const at::Tensor& a, const at::Tensor& b);

}  // namespace cleave::calibrate
