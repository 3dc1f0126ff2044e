#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "calibrate/recipe.hpp"
#include "model/dataset.hpp"
#include "model/draw.hpp"

namespace cleave::calibrate {

using model::Draw;
using model::shuffled;

/// Rows of a data set, each changed by draws of (seed, view, index). View 0 is the row as it is.
/// Images uint8 [n, c, h, w] or token ids [n, N], int64 [b] -> [b, …].
at::Tensor take_view(const model::Dataset& data, const at::Tensor& indices, const Augmentation& how,
                     std::uint64_t seed, std::uint64_t view);

/// Windows of a running text as epoch `view` sees them: rows begin up to a window later, by a draw
/// of (seed, view), so that no token always begins one. View 0 is inputs[indices]. -> int32 [b, N +
/// 1].
at::Tensor take_windows(const at::Tensor& stream, const at::Tensor& inputs,
                        const at::Tensor& indices, std::uint64_t seed, std::uint64_t view);

}  // namespace cleave::calibrate
