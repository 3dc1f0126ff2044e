#pragma once

#include <ATen/core/Tensor.h>

#include "optimizer/plan/program.hpp"

namespace cleave::infer {

/// What plan::Cast does: numbers as `from` has them -> the same as `to` has them. Of the two one is
/// what is computed, f32 or f64 [..], the other a format that travels: f16 or bf16 [..], or int8
/// with a scale for each row as its bytes [rows·(D + 4)], scales first. Throws std::runtime_error.
at::Tensor cast(const at::Tensor& x, const plan::ValueInfo& from, const plan::ValueInfo& to);

}  // namespace cleave::infer
