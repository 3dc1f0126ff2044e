#pragma once

#include <filesystem>
#include <vector>

#include "base/progress.hpp"
#include "decompose/fit/rows.hpp"

namespace cleave::decompose {

/// What the teacher's stream loses, in squares of a token, without a unit of a half, where what the
/// others write is refitted: of heads (with grouped keys and values of groups) and MLP columns.
struct UnitLosses {
  std::vector<std::vector<double>> heads, mlp;  // [L][H_l], [L][F_l]
};

/// With W what a half writes with, G the covariance of what W multiplies (uncentred where W has no
/// bias) and g the columns of a unit (leave-one-out of a ridge regression; Hassibi and Stork 1993):
///
///   tr(W_g ((G + λ·mean(diag G)·I)⁻¹_gg)⁻¹ W_gᵀ)
///
/// The teacher is read layer by layer, in one pass over the rows; MLP columns are judged by the
/// first of them, as many as a covariance needs. The same on any number of threads (0: as many as
/// the machine has). `progress` counts layers.
UnitLosses unit_losses(const std::filesystem::path& teacher, const FitRows& rows, double lambda,
                       int threads = 0, const base::ProgressCallback& progress = {});

}  // namespace cleave::decompose
