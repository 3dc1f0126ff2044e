#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/progress.hpp"
#include "base/remark.hpp"
#include "decompose/slice.hpp"
#include "model/dataset.hpp"
#include "model/fusion.hpp"
#include "model/transformer.hpp"

namespace cleave::decompose {

struct FitOptions {
  /// Parts and heads; or one of them, to see what each brings: parts under heads that average, or
  /// heads over parts as they were cut.
  enum class What { all, parts, heads } what = What::all;
  Stream stream = Stream::channels;
  /// Ridges (see decompose/ridge.hpp) of what reads the stream (q, k, v, MLP up and gate), of what
  /// writes to it (attention output, MLP down), of the fusion heads.
  double reader_ridge = 1e-4, writer_ridge = 1e-3, head_ridge = 1e-3;
  std::int64_t batch = 64;  // rows of the data
  int threads = 0;          // 0: as many as the machine has
  /// Throws std::invalid_argument.
  void check() const;
};

/// The rows that parts are fitted on, as forward passes take them, in batches.
class FitRows {
 public:
  /// Throws std::invalid_argument where there are none.
  FitRows(const model::ModelConfig& teacher, const model::Dataset& data, std::int64_t batch);
  std::size_t batches() const { return inputs_.size(); }
  const at::Tensor& inputs(std::size_t batch) const { return inputs_[batch]; }
  const model::Sight& sight(std::size_t batch) const { return sights_[batch]; }
  /// What is a token, without what only fills up rows. [B, N, ..] -> [n, ..].
  at::Tensor tokens(std::size_t batch, const at::Tensor& x) const;
  /// Of these, what the model's answer is read from. [B, N, ..] -> [n, ..].
  at::Tensor read_tokens(std::size_t batch, const at::Tensor& x) const;
  std::int64_t num_tokens() const { return tokens_; }
  std::int64_t num_read_tokens() const { return first_ > 0 ? first_ * rows_ : tokens_; }

 private:
  std::vector<at::Tensor> inputs_;
  std::vector<model::Sight> sights_;
  std::vector<at::Tensor> places_;  // of the tokens in a batch; undefined: all
  std::int64_t tokens_ = 0, rows_ = 0;
  std::int64_t first_ = 0;  // tokens of a row that are read, its first; 0: all
};

/// Said where rows are few: a regression has up to this many inputs, and wants twice as many
/// tokens.
base::Remarks too_few_tokens(const std::vector<model::ModelConfig>& parts, const FitRows& rows);

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
/// of a model that cannot be rotated.
Fit fit_parts(const std::filesystem::path& teacher, const std::vector<KeepList>& keeps,
              std::vector<model::Transformer> parts, const FitRows& rows,
              const FitOptions& options = {}, const base::ProgressCallback& progress = {});

/// The heads of `fusion` in closed form, by ridge regression of the teacher's features on those of
/// the parts: one for each set, from one Gram matrix. Where more parts share one head, each is
/// absent from a third of the rows, independently of the others. One part that is exact keeps its
/// head.
void fit_heads(model::FusionHead& fusion, const Fit& fit, double ridge);

}  // namespace cleave::decompose
