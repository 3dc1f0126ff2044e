#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/remark.hpp"
#include "model/dataset.hpp"
#include "model/transformer.hpp"

namespace cleave::decompose {

/// The rows that parts are fitted on, as forward passes take them, in batches.
class FitRows {
 public:
  /// Pixels as `element`: at::kFloat, or at::kDouble. Throws std::invalid_argument where there are
  /// no rows.
  FitRows(const model::ModelConfig& teacher, const model::Dataset& data, std::int64_t batch,
          at::ScalarType element = at::kFloat);
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

}  // namespace cleave::decompose
