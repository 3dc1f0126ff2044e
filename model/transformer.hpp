#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config/block.hpp"
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

/// A model is a value: config + named fp32 tensors (canonical names, `model::stored_tensors`); of
/// fp64 tensors on fp64 pixels, or on ids, everything is fp64. Copies share the tensors.
struct Transformer {
  ModelConfig config;
  std::map<std::string, Tensor> tensors;
  Compute compute = Compute::f32;

  /// Throws std::out_of_range with the name.
  const Tensor& operator[](const std::string& name) const;
  const Tensor* find(const std::string& name) const;
  /// Where its tensors are, and so where it computes; inputs have to be there too.
  at::Device device() const;
  void move_to(at::Device device);
};

/// What a forward pass shows on request, layer by layer, in fp32: for distillation and importance.
/// Null functions cost nothing. With Compute::bf16 all but on_block get copies, which a gradient
/// leaves through and the answer's does not reach.
struct Observer {
  /// Queries, keys, values of a layer before any rotation, heads concatenated: [B, N, H·K] (keys
  /// and values [B, N, H/G·K]).
  std::function<void(int layer, const Tensor& q, const Tensor& k, const Tensor& v)> on_attention;
  /// Each head's context before the output projection [B, N, H·K]; the MLP's activations after the
  /// non-linearity [B, N, F].
  std::function<void(int layer, const Tensor& context)> on_context;
  std::function<void(int layer, const Tensor& activations)> on_mlp;
  /// The residual stream after a block [B, N, D].
  std::function<void(int layer, const Tensor& x)> on_block;
  /// What each half of a block adds to the stream [B, N, D] -> what is added: dropout, in training.
  std::function<Tensor(const Tensor& added)> change_addition;
};

/// x · weightᵀ + bias over the last axis: the only place where a weight is multiplied. [.., I] x
/// [O, I] -> [.., O].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor* bias,
              Compute compute = Compute::f32);
/// K/V state of a batch of texts: what earlier tokens left for later ones. A value that grows.
struct KvCache {
  /// By layer [B, H/G, capacity, K]; undefined for a layer without attention.
  std::vector<Tensor> keys, values;
  /// Tokens that each text has so far, B of them.
  std::vector<std::int64_t> lengths;
  std::int64_t capacity = 0;
  std::int64_t longest() const;
};
/// An empty cache for B texts of at most `capacity` tokens (at most the model's context).
KvCache make_cache(const Transformer& model, std::int64_t batch, std::int64_t capacity);

/// What a request asks of a model. Images: uint8 [B, c, h, w] or normalised float pixels. Text:
/// token ids [B, N], int32 or int64; −1 fills up the end of the shorter rows, so that lengths
/// travel with the ids and masks are derived where they are needed. Ids of a pair's second text are
/// marked (second_text in model/tokenizer/segment.hpp).
struct Input {
  Tensor values;
  /// Causal models: the ids go on where the cache ends, and are added to it.
  KvCache* cache = nullptr;

  Input(Tensor what, KvCache* onto = nullptr) : values(std::move(what)), cache(onto) {}
};

/// Throws std::invalid_argument where `values` are no input of the model: shape, an id beyond the
/// vocabulary, a second text for a model without token types, −1 before the end of a row, an empty
/// row, more tokens than the context.
void check_input(const Transformer& model, const Input& input);
/// Tokens of each row. [B, N] -> B numbers.
std::vector<std::int64_t> lengths_of(const Tensor& ids);

/// Where the rows of a batch stand in their texts, and what each may attend to; the same for every
/// layer.
struct Sight {
  /// Added to the scores: [N, M], [B, 1, N, M] or undefined where every row sees everything.
  Tensor bias;
  /// Rotary positions: cosines and sines [B or 1, 1, N, K]; undefined where positions are learned.
  Tensor cosines, sines;
  /// Position of each row's first token, B of them; all 0 without a cache.
  std::vector<std::int64_t> past;
  /// 1 for tokens, 0 for what fills up the row [B, N]; undefined where nothing is filled up.
  Tensor real;
  KvCache* cache = nullptr;
};
Sight sight(const Transformer& model, const Input& input);

/// uint8 [B, c, h, w] or normalised float pixels -> normalised float (rescale, mean, std of the
/// config). [B, c, h, w].
Tensor normalise_pixels(const ModelConfig& config, const Tensor& pixels);
/// Pixels or ids -> tokens with positions [B, N, D].
Tensor embed(const Transformer& model, const Input& input);
/// The family's norm `prefix`.{weight,bias}. [B, N, D] -> [B, N, D].
Tensor norm(const Transformer& model, const std::string& prefix, const Tensor& x);
/// Queries, keys or values of some heads (of keys and values: of some groups), without rotation.
/// [B, N, D] -> [B, h, N, K], h = heads.size().
Tensor project(const Transformer& model, int layer, Projection which, Range heads, const Tensor& x);
/// softmax(q·kᵀ/√K + bias)·v. q [B, h, N, K], k and v [B, h/G, M, K] -> [B, N, h·K].
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias = {});
/// Context of some heads -> its share of the output, bias left out. [B, N, h·K] -> [B, N, D].
Tensor project_out(const Transformer& model, int layer, Range heads, const Tensor& context);
/// MLP columns' share of the output, bias of the down projection left out. [B, N, D] -> [B, N, D].
Tensor mlp(const Transformer& model, int layer, Range columns, const Tensor& x,
           const Observer* observer = nullptr);
/// One whole block, residuals, norms and biases included. [B, N, D] -> [B, N, D].
Tensor block(const Transformer& model, int layer, const Tensor& x, const Sight& sight = {},
             const Observer* observer = nullptr);
/// The states that the task reads, after the last norm. [B, N, D] -> the model's *feature*: the
/// summary tokens [B, T, D]; for an embedding what its `pooling` reads [B, 1, D]; for a language
/// model every token [B, N, D].
Tensor read_out(const Transformer& model, const Tensor& x, const Sight& sight);
/// Each text's last token of what a language model features() gave. [B, N, D] and ids [B, N] -> [B,
/// 1, D]; of a text without a token anything.
Tensor last_token(const Tensor& features, const Tensor& ids);
/// Input -> feature: embed, all blocks, read_out.
Tensor features(const Transformer& model, const Input& input, const Observer* observer = nullptr);
/// The head on features: logits averaged over the classifiers of a distilled DeiT [B, T, D] -> [B,
/// C]; an embedding's direction [B, 1, D] -> [B, D]; a language model's logits [.., D] -> [.., V].
Tensor classify(const Transformer& model, const Tensor& features);
/// classify(features(input)).
Tensor forward(const Transformer& model, const Input& input, const Observer* observer = nullptr);

/// Throws std::invalid_argument "[what] saw [2, 5], needs [2, 5, 16]"; −1 in `dims` takes any size.
void expect_dims(const Tensor& x, const std::vector<std::int64_t>& dims, const std::string& what);

}  // namespace cleave::model
