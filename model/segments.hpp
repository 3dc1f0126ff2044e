#pragma once

#include <utility>

#include <ATen/core/Tensor.h>

#include "model/config/config.hpp"

namespace cleave::model {

// Rows of a sequence that others see as fewer rows (PRISM): S consecutive segments, equal up to one
// row, the larger ones first; or S groups of rows that are alike. `lengths` [B]: tokens of each
// text; the rows behind them are padding, which is in no mean and counts nothing. Undefined:
// images, which have none.

using at::Tensor;

/// How many of these `rows` of B sequences each segment stands for, and their mean position: [B, S,
/// 2] of this type. Of a segment that is all padding 0, and the mean position of its rows.
Tensor segment_marks(std::int64_t batch, const Tensor& lengths, Range rows, std::int64_t segments,
                     at::ScalarType type);

/// The mean of each segment; 0 where all of it is padding. x [B, rows, D] -> [B, S, D].
Tensor segment_means(const Tensor& x, const Tensor& lengths, Range rows, std::int64_t segments);

/// k-means: S centres that begin as rows far from each other, the first row among them, and follow
/// the rows nearest to them (of two as near, the first) `steps` times. A centre that loses all its
/// rows stays where it was and counts nothing. x [B, rows, D] -> centres [B, S, D] and marks [B, S,
/// 2], as of segments.
std::pair<Tensor, Tensor> cluster(const Tensor& x, const Tensor& lengths, Range rows,
                                  std::int64_t segments, int steps);

}  // namespace cleave::model
