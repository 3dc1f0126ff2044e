#pragma once

#include "base/progress.hpp"
#include "optimizer/plan/profile.hpp"

namespace cleave::infer {

struct MeasureOptions {
  /// Shapes are those of this model and of cuts of it, and its weights are as cold as in a real
  /// forward pass. Empty (width 0): shapes of small and large published models.
  model::ModelConfig like;
  /// Images in a request.
  std::int64_t batch = 1;
  /// Of texts, where `like` reads them.
  std::int64_t tokens = 64;
  int threads = 1;
  /// Rounds over all shapes; the median counts.
  int repetitions = 15;
  /// No new round begins after this; the first is always whole.
  double max_time_s = 30;

  /// Throws std::invalid_argument "[measure] repetitions: saw 0, needs 1 or more".
  void check() const;
};

/// What this process takes before any model, bytes: VmRSS after one warm product, with everything
/// that libtorch and BLAS touch for it and without its operands. Call it first in main, after
/// set_threads; it takes a millisecond.
double measure_runtime_bytes();

/// Measures this machine's kernels (matmul, attention, norm, activation, elementwise at the shapes
/// that occur; medians of thread CPU time, of wall time with more than one thread), what an
/// instruction and a message cost, and libtorch's own memory (call it before anything large is in
/// memory). Some samples are held out. The caller fits the cost model. Throws std::runtime_error
/// when `progress` stops it in the first round.
plan::Profile measure(const MeasureOptions& options, const base::ProgressCallback& progress = {});

}  // namespace cleave::infer
