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

/// A model is a value: config + named fp32 tensors (canonical names, `model::stored_tensors`); of
/// fp64 tensors on fp64 pixels, or on ids, everything is fp64. Copies share the tensors.
struct Transformer {
  ModelConfig config;
  std::map<std::string, Tensor> tensors;
  /// Of a tensor that is only some of its parameter along the axis that shares cut: the first unit
  /// that is there.
  std::map<std::string, std::int64_t> begins;
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
  /// By layer [B, g, capacity, K] for the heads that attend here; undefined before they did.
  std::vector<Tensor> keys, values;
  /// Tokens that each text has so far, B of them.
  std::vector<std::int64_t> lengths;
  std::int64_t capacity = 0;
  /// Where rows stand for several tokens (segments.hpp): by layer the logarithms of what each of
  /// those weighs that stand before a text's own keys [B, n]; and of how many of a text's tokens
  /// the keys are not here, B of them. Undefined and empty where every token has its key.
  std::vector<Tensor> before;
  std::vector<std::int64_t> elsewhere;
  std::int64_t longest() const;
  /// Tokens that each text has got more.
  void add(const std::vector<std::int64_t>& tokens);
};
/// An empty cache for B texts of at most `capacity` tokens (at most the model's context).
KvCache make_cache(const ModelConfig& config, std::int64_t batch, std::int64_t capacity);

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
  /// Added to the scores: [B or 1, 1, N or 1, M]; undefined where every row sees everything.
  Tensor bias;
  /// Rotary positions: cosines and sines [B or 1, 1, N, K]; undefined where positions are learned.
  Tensor cosines, sines;
  /// Position of each row's first token, B of them; all 0 without a cache.
  std::vector<std::int64_t> past;
  /// 1 for tokens, 0 for what fills up the row [B, N]; undefined where nothing is filled up.
  Tensor real;
  KvCache* cache = nullptr;
  /// The rows are these texts of the cache.
  std::int64_t first_text = 0;
};
Sight sight(const Transformer& model, const Input& input);
/// Of some texts of the batch alone.
Sight of_texts(const Sight& sight, Range texts);

/// uint8 [B, c, h, w] or normalised float pixels -> normalised float (rescale, mean, std of the
/// config). [B, c, h, w].
Tensor normalise_pixels(const ModelConfig& config, const Tensor& pixels);
/// Pixels or ids -> tokens with positions, normalised where the family does that [B, N, D].
Tensor embed(const Transformer& model, const Input& input);
/// The same before the norm. `past`: tokens before each text's. Of some rows of the vocabulary: the
/// other tokens are zero, and what does not hang on the token is there with `positions` alone. Of
/// some rows of each sequence [B, rows, D]; none: of all.
Tensor embed_tokens(const Transformer& model, const Tensor& values,
                    const std::vector<std::int64_t>& past, Range vocabulary, bool positions,
                    Range rows = {});
/// The family's norm `prefix`.{weight,bias}. [B, N, D] -> [B, N, D].
Tensor norm(const Transformer& model, const std::string& prefix, const Tensor& x);
/// Queries, keys or values of some heads (of keys and values: of some groups) side by side, without
/// rotation. [B, N, D] -> [B, N, h·K], h = heads.size().
Tensor project(const Transformer& model, int layer, Projection which, Range heads, const Tensor& x);
/// [B, N, h·K] -> [B, h, N, K], a view.
Tensor split_heads(const Tensor& x, std::int64_t head_width);
/// What project() gave of some heads, turned and with what the cache has before it -> their
/// context. q [B, N, h·K], k and v [B, N, h/G·K] -> [B, N, h·K].
Tensor attend(const Transformer& model, int layer, const Sight& sight, const Tensor& q,
              const Tensor& k, const Tensor& v);
/// The same with the queries of some of what keys are of, q [B, rows, h·K]; of keys and values
/// those of the heads `kept` are kept, where the sight has a cache. Throws std::invalid_argument
/// where that one is not empty.
Tensor attend_rows(const Transformer& model, int layer, const Sight& sight, const Tensor& q,
                   const Tensor& k, const Tensor& v, Range rows, Range kept);
/// The same without keys and values, of what they would be computed from, x [B, N, D]; nothing is
/// kept. A query of a head goes through its key weights, and what it sees through its value weights
/// (plan::AttendInputs).
Tensor attend_inputs(const Transformer& model, int layer, const Sight& sight, Range heads,
                     const Tensor& q, const Tensor& x, Range rows);
/// What rows see of keys that stand for several tokens, or for one: `marks` [B, M, 2] says of how
/// many each (its score grows by the logarithm: softmax weighs it as often) and their mean
/// position, where its key is turned; a causal model's rows see no later position.
Sight sight_of_marks(const Transformer& model, const Tensor& marks);
/// attend_rows() of such keys, seen as sight_of_marks() says. `sight`: of the texts. Where all
/// heads are kept the text goes on with attend().
Tensor attend_rows(const Transformer& model, int layer, const Sight& sight, const Sight& of_marks,
                   const Tensor& marks, const Tensor& q, const Tensor& k, const Tensor& v,
                   Range rows, Range kept);
/// softmax(q·kᵀ/√K + bias)·v. q [B, h, N, K], k and v [B, h/G, M, K] -> [B, N, h·K].
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias = {});
/// Context of some heads -> its share of the output, its bias as asked. [B, N, h·K] -> [B, N, D].
Tensor project_out(const Transformer& model, int layer, Range heads, const Tensor& context,
                   bool with_bias = false);
/// Activations of some MLP columns, behind the non-linearity and the gate. [B, N, D] -> [B, N, c].
Tensor mlp_up(const Transformer& model, int layer, Range columns, const Tensor& x,
              const Observer* observer = nullptr);
/// Activations of some MLP columns -> their share of the output, its bias as asked. [B, N, c] ->
/// [B, N, D].
Tensor mlp_down(const Transformer& model, int layer, Range columns, const Tensor& activations,
                bool with_bias = false);
/// One whole block, residuals, norms and biases included. [B, N, D] -> [B, N, D].
Tensor block(const Transformer& model, int layer, const Tensor& x, const Sight& sight = {},
             const Observer* observer = nullptr);
/// The states that the task reads, after the last norm. [B, N, D] -> the model's *feature*: the
/// summary tokens [B, T, D]; for an embedding what its `pooling` reads [B, 1, D]; for a language
/// model every token [B, N, D].
Tensor read_out(const Transformer& model, const Tensor& x, const Sight& sight);
/// What some rows of each sequence bring to the feature: a partial sum. x [B, rows, D], and the
/// tokens of each text [B] (undefined: of images) -> [B, T, D].
Tensor read_out_rows(const Transformer& model, const Tensor& x, const Tensor& lengths, Range rows);
/// Each text's last token. [B, N, D] and lengths [B] -> [B, 1, D]; of a text without a token
/// anything.
Tensor last_token(const Tensor& x, const Tensor& lengths);
/// Input -> feature: embed, all blocks, read_out.
Tensor features(const Transformer& model, const Input& input, const Observer* observer = nullptr);
/// The head on features: logits averaged over the classifiers of a distilled DeiT [B, T, D] -> [B,
/// C]; an embedding's direction [B, 1, D] -> [B, D]; a language model's logits [.., D] -> [.., V].
Tensor classify(const Transformer& model, const Tensor& features);
/// A language model's head for some rows of its vocabulary. [.., D] -> [.., v].
Tensor language_logits(const Transformer& model, const Tensor& features, Range vocabulary);
/// classify(features(input)).
Tensor forward(const Transformer& model, const Input& input, const Observer* observer = nullptr);

/// Throws std::invalid_argument "[what] saw [2, 5], needs [2, 5, 16]"; −1 in `dims` takes any size.
void expect_dims(const Tensor& x, const std::vector<std::int64_t>& dims, const std::string& what);

}  // namespace cleave::model
