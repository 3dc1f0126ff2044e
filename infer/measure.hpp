#pragma once

#include "base/progress.hpp"
#include "optimizer/plan/profile.hpp"

namespace cleave::infer {

struct MeasureOptions {
  /// Shapes around this model's; more shapes when a model is given twice as large. Empty: a general grid.
  model::ModelConfig like;
  int threads = 1;
  int repetitions = 15;
  double max_time_s = 30;
};

/// Measures this machine's kernels (matmul, attention, norm, activation, elementwise at the shapes that occur; medians of
/// thread CPU time), the cost of a message on loopback and libtorch's own memory. The caller fits the cost model.
plan::Profile measure(const MeasureOptions& options, const base::ProgressCallback& progress = {});

}  // namespace cleave::infer
