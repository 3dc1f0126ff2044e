#pragma once

#include <ATen/core/Tensor.h>

#include "model/transformer.hpp"

namespace cleave::calibrate {

// Losses of each sample, [B], so that they can be weighted; all differentiable in their first
// argument. Logits of a language model are [B, N, C] with labels [B, N]: a sample's loss is the
// mean over its tokens.

/// Cross-entropy with labels, which share `smoothing` with all classes. [B, C], int64 [B] -> [B].
at::Tensor label_loss(const at::Tensor& logits, const at::Tensor& labels, double smoothing);
/// T² · KL(softmax(teacher / T) ‖ softmax(logits / T)), T = temperature. [B, C], [B, C] -> [B].
at::Tensor soft_target_loss(const at::Tensor& logits, const at::Tensor& teacher,
                            double temperature);
/// Mean squared distance. [B, T, D], [B, T, D] -> [B].
at::Tensor feature_loss(const at::Tensor& features, const at::Tensor& teacher);

/// The same over every token that is one: `real` [B, N], undefined where all are. [B, N, D],
/// [B, N, D] -> [B].
at::Tensor token_loss(const at::Tensor& tokens, const at::Tensor& teacher, const at::Tensor& real);

/// How the directions of a batch lie to each other, as the teacher's do: KL between the row
/// softmaxes of cosines / T, T = temperature, a sample with itself left out. [B, D], [B, D] -> [B].
at::Tensor similarity_loss(const at::Tensor& directions, const at::Tensor& teacher,
                           double temperature);

/// How much each sample weighs for the next part: 1/2 + w/2 with w = (1 − p_label)^focus over its
/// mean. [B, C], [B] -> [B].
at::Tensor attention_to_errors(const at::Tensor& logits, const at::Tensor& labels, double focus);

/// Queries, keys and values of a layer, heads side by side: [B, N, h·K] each.
struct Relations {
  at::Tensor query, key, value;
};
/// Those of `layer`, without gradients; the layers above are not computed.
Relations relations_at(const model::Transformer& model, int layer, const at::Tensor& inputs);
/// 0.2, 0.1, 0.3 times the KL between row softmaxes of X·Xᵀ/√K, X the queries, keys, values: N x N
/// whatever the width, so that a narrow model can be compared with a wide one. A scalar, mean over
/// samples and rows; `real` [B, N] (may be undefined) says which rows are tokens.
at::Tensor relation_loss(const Relations& student, const Relations& teacher, double head_width,
                         const at::Tensor& real = {});

}  // namespace cleave::calibrate
