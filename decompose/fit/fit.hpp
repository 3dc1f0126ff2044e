#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/progress.hpp"
#include "decompose/fit/rows.hpp"
#include "decompose/slice.hpp"
#include "model/transformer.hpp"

namespace cleave::decompose {

struct FitOptions {
  /// Parts and heads; or one of them, to see what each brings: parts under heads that average, or
  /// heads over parts as they were cut.
  enum class What { all, parts, heads } what = What::all;
  Stream stream = Stream::channels;
  /// Ridges (see decompose/fit/ridge.hpp) of what reads the stream (q, k, v, MLP up and gate), of
  /// what writes to it (attention output, MLP down), of the fusion heads.
  double reader_ridge = 1e-4, writer_ridge = 1e-3, head_ridge = 1e-3;
  std::int64_t batch = 64;  // rows of the data
  /// What teacher and parts compute in, at::kFloat or at::kDouble; parts come and go in it.
  at::ScalarType element = at::kFloat;
  int threads = 0;  // 0: as many as the machine has
  /// Throws std::invalid_argument.
  void check() const;
};

/// A part after its fit.
struct FittedPart {
  model::Transformer model;
  at::Tensor basis, origin;          // see model::FusionHead
  std::vector<at::Tensor> features;  // by batch of the rows
  /// Nothing was cut: it is the teacher, bit for bit.
  bool exact = false;
  Stream stream = Stream::channels;
};

struct Fit {
  std::vector<FittedPart> parts;
  std::vector<at::Tensor> teacher_features;  // by batch
};

/// Refits parts (with What::heads only takes their features) that were cut from `teacher` (a
/// folder, read layer by layer), side by side and front to back, so that each matrix makes the best
/// of what its part has become before it:
///   - what reads the stream aims at the teacher's values of the units that were kept,
///   - what writes to it at the teacher's stream less the part's own; the last half before layers
///     that are dropped aims at the stream behind them,
///   - where norms come after each half, their weight and bias are fitted too.
/// What nothing was cut before stays as it is. Memory: the parts, one layer of the teacher, the
/// streams of all over all rows, the largest Gram matrix four times. The same on any number of
/// threads. `progress` counts layers. Throws std::invalid_argument where components are asked for
/// of a part that is not rotatable.
Fit fit_parts(const std::filesystem::path& teacher, const std::vector<KeepList>& keeps,
              std::vector<model::Transformer> parts, const FitRows& rows,
              const FitOptions& options = {}, const base::ProgressCallback& progress = {});

/// Throws std::invalid_argument where the stream of a part cannot be cut by components: its norms
/// come after each half, or it has a head of its own over texts.
void expect_rotatable(const model::ModelConfig& teacher, const model::ModelConfig& part);

}  // namespace cleave::decompose
