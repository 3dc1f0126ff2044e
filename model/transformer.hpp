#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config/config.hpp"

namespace cleave::model {

// Dimensions, everywhere: B batch · N tokens · D width · H heads · K width of a head · F MLP width
// · L layers · S segments of a part (PRISM) · C classes · V vocabulary · P devices; D_p is the
// width that device p keeps.

using at::Tensor;

/// Heads or columns or rows [begin, end).
struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

/// A model is a value: config + named fp32 tensors (canonical names, `model::parameters`). Copies
/// share the tensors.
struct Transformer {
  ModelConfig config;
  std::map<std::string, Tensor> tensors;
  Compute compute = Compute::f32;

  /// Throws std::out_of_range with the name.
  const Tensor& operator[](const std::string& name) const;
  const Tensor* find(const std::string& name) const;
};

/// What a forward pass shows on request, layer by layer, in fp32: for distillation and importance.
/// Null functions cost nothing. With Compute::bf16 all but on_block get copies, which a gradient
/// leaves through and the answer's does not reach.
struct Observer {
  /// Queries, keys, values of a layer, heads concatenated: [B, N, H·K].
  std::function<void(int layer, const Tensor& q, const Tensor& k, const Tensor& v)> on_attention;
  /// Each head's context before the output projection [B, N, H·K]; the MLP's activations after the
  /// non-linearity [B, N, F].
  std::function<void(int layer, const Tensor& context)> on_context;
  std::function<void(int layer, const Tensor& activations)> on_mlp;
  /// The residual stream after a block [B, N, D].
  std::function<void(int layer, const Tensor& x)> on_block;
};

enum class Projection { query, key, value };

/// x · weightᵀ + bias over the last axis: the only place where a weight is multiplied. [.., I] x
/// [O, I] -> [.., O].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor* bias,
              Compute compute = Compute::f32);
/// uint8 [B, c, h, w] or normalised float pixels -> normalised float (rescale, mean, std of the
/// config). [B, c, h, w].
Tensor normalise_pixels(const ModelConfig& config, const Tensor& pixels);
/// Normalised pixels [B, c, h, w] -> tokens with positions [B, N, D].
Tensor embed(const Transformer& model, const Tensor& pixels);
/// LayerNorm `prefix`.{weight,bias}. [B, N, D] -> [B, N, D].
Tensor norm(const Transformer& model, const std::string& prefix, const Tensor& x);
/// Queries, keys or values of some heads. [B, N, D] -> [B, h, N, K], h = heads.size().
Tensor project(const Transformer& model, int layer, Projection which, Range heads, const Tensor& x);
/// softmax(q·kᵀ/√K + bias)·v. [B, h, N, K] -> [B, N, h·K].
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v);
/// Context of some heads -> its share of the output, bias left out. [B, N, h·K] -> [B, N, D].
Tensor project_out(const Transformer& model, int layer, Range heads, const Tensor& context);
/// MLP columns' share of the output, bias of the down projection left out. [B, N, D] -> [B, N, D].
Tensor mlp(const Transformer& model, int layer, Range columns, const Tensor& x,
           const Observer* observer = nullptr);
/// One whole block, residuals and biases included. [B, N, D] -> [B, N, D].
Tensor block(const Transformer& model, int layer, const Tensor& x,
             const Observer* observer = nullptr);
/// Normalised pixels -> last states of the summary tokens after the last norm: the model's
/// *feature*. [B, T, D], T = 1 or 2.
Tensor features(const Transformer& model, const Tensor& pixels, const Observer* observer = nullptr);
/// The classifier(s) on features, averaged for a distilled DeiT. [B, T, D] -> [B, C].
Tensor classify(const Transformer& model, const Tensor& features);
/// classify(features(pixels)): logits [B, C].
Tensor forward(const Transformer& model, const Tensor& pixels, const Observer* observer = nullptr);

/// Throws std::invalid_argument "[what] saw [2, 5], needs [2, 5, 16]"; −1 in `dims` takes any size.
void expect_dims(const Tensor& x, const std::vector<std::int64_t>& dims, const std::string& what);

}  // namespace cleave::model
