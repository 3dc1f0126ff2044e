#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cleave::model {

/// What a checkpoint calls itself; a family is a name map plus a config reader, never a forward
/// pass of its own.
enum class Family { vit, deit, bert, roberta, distilbert, gpt2, llama, qwen2, mistral };
enum class NormPlacement { before, after };
enum class NormKind { layer, rms };
enum class Activation { gelu, gelu_tanh, relu, silu };

/// What is asked of a model; it fixes which states are its *feature* and what its head makes of
/// them.
enum class Task {
  classification,  // summary tokens -> C logits
  embedding,       // what `pooling` reads: the feature itself is the answer
  masked_lm,       // every token -> V logits
  causal_lm,       // every token -> V logits of the next one
};

/// What the outputs of a classification head mean: Transformers' `problem_type`.
enum class Problem {
  single_label,  // one of C classes: softmax
  multi_label,   // each of C classes or not: a sigmoid each
  regression,    // C numbers
};

/// What a sentence embedding is made of: Sentence Transformers' `pooling_mode`.
enum class Pooling {
  mean,   // the states of all tokens
  first,  // the state of the first token ([CLS])
};

/// Units [begin, end) of a width: heads, columns, rows, layers.
struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Range& other) const { return begin == other.begin && end == other.end; }
};

/// Shape of one layer of a model that may have been cut.
struct LayerShape {
  /// Query heads kept, each `ModelConfig::head_width` wide; with grouped keys and values a multiple
  /// of `ModelConfig::group`. 0: this layer has no attention.
  std::int64_t heads = 0;
  /// Width F of the MLP. 0: this layer has no MLP.
  std::int64_t mlp_width = 0;
  bool operator==(const LayerShape& other) const;
};

/// How an image becomes the model's input: resize to `height` x `width`, then (x · rescale − mean)
/// / std for each channel.
struct ImageProcessing {
  std::int64_t height = 224, width = 224;
  bool resize = true;
  /// Pillow's numbers: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
  int resample = 2;
  /// DeiT: resize to this first, then cut out the centre of `height` x `width`. 0: no crop.
  std::int64_t crop_from = 0;
  /// CLIP, ConvNext: only the shorter side is resized to that, the other keeps the aspect.
  bool keep_aspect = false;
  double rescale = 1.0 / 255;
  std::vector<double> mean = {0.5, 0.5, 0.5}, std = {0.5, 0.5, 0.5};
  bool operator==(const ImageProcessing& other) const;
};

/// How the angles that rotary positions turn by, a from one token to the next, are scaled for a
/// context longer than that of training: Transformers' `rope_scaling` (modeling_rope_utils).
/// linear: a / factor.
/// llama3 (Dubey and others 2024), by the turns t = original_context · a / 2π in that of training:
///   t < low: a / factor; t > high: a; between, with s = (t − low) / (high − low):
///   (1 − s) · a / factor + s · a.
struct RotaryScaling {
  enum class Kind { none, linear, llama3 } kind = Kind::none;
  double factor = 1;
  // Of llama3 alone: low, high and the context of training.
  double low_frequency_factor = 1, high_frequency_factor = 4;
  std::int64_t original_context = 0;
  bool operator==(const RotaryScaling& other) const;
};

/// How the next token is drawn where the user says nothing: generation_config.json.
struct SamplingDefaults {
  /// 0: the likeliest token (`do_sample` false).
  double temperature = 0;
  std::int64_t top_k = 0;  // 0: all
  double top_p = 1;
  double repetition_penalty = 1;
  bool operator==(const SamplingDefaults& other) const;
};

/// Which rows of its training data a model did not learn from, because they decide (recipe's
/// `validation`): what learns from the model later keeps the same apart. Rows are pairs where texts
/// come in pairs, and tokens of a running text.
struct HeldOut {
  std::int64_t rows = 0;   // of all training data; 0: nobody knows
  std::int64_t count = 0;  // held out
  std::string digest;      // SHA-256 of `rows` and which are held out
  bool operator==(const HeldOut& other) const;
};

/// What a model is: everything that fixes the names and shapes of its tensors and its forward pass.
///
/// Dimensions (one legend in the whole project): B batch, N tokens, D width, H heads, K head width,
/// F MLP width, L layers, C classes, V vocabulary, P devices; D_p is the width that device p keeps.
struct ModelConfig {
  Family family = Family::vit;
  std::int64_t width = 0;       // D
  std::int64_t head_width = 0;  // K; the attention's inner width is H·K and need not be D
  std::vector<LayerShape> layers;
  Activation activation = Activation::gelu;
  NormPlacement norm_placement = NormPlacement::before;
  NormKind norm_kind = NormKind::layer;
  double norm_eps = 1e-12;
  bool qkv_bias = true;
  /// Of the attention's output.
  bool output_bias = true;
  bool mlp_bias = true;
  /// Query heads on each head of keys and values. The unit of share is the group.
  std::int64_t group = 1;
  /// SwiGLU: down(act(gate(x)) · up(x)).
  bool gated = false;
  /// A token sees itself and those before it.
  bool causal = false;
  Task task = Task::classification;

  // Text; all 0 for a model of images.
  std::int64_t vocabulary = 0;  // V
  std::int64_t context = 0;     // most tokens N of a request
  /// Tokens that a token sees at most (Mistral's `sliding_window`): the context stays within. 0:
  /// all.
  std::int64_t window = 0;
  std::int64_t token_types = 0;  // BERT's segments: the second text of a pair is of type 1
  /// Row of the position table that a text's first token takes: 2 in RoBERTa, whose padding token's
  /// number it is plus 1.
  std::int64_t position_offset = 0;
  /// Base of the rotary positions; 0: positions are learned.
  double rotary_base = 0;
  RotaryScaling rotary_scaling;
  /// The language model's head is the embedding of the tokens.
  bool tied_head = false;
  /// Any of these ends a text.
  std::vector<std::int64_t> end_tokens;
  SamplingDefaults sampling;
  /// Tokens that a text is cut to where nothing else is asked for (`max_seq_length`); 0: context.
  std::int64_t text_length = 0;
  /// Of an embedding: what it is made of, and whether it is scaled to length 1.
  Pooling pooling = Pooling::mean;
  bool normalised = true;

  // Images; all 0 for a model of text.
  std::int64_t image_height = 0, image_width = 0, patch = 0, channels = 0;
  /// Tokens whose last state is the model's feature: the class token, and a distilled DeiT's
  /// distillation token (2). A plain DeiT has both tokens in its sequence, but only the class token
  /// is read (1).
  std::int64_t summary_tokens = 1;
  /// C, outputs of the head: classes, or V for a language model. 0: no head, features only.
  std::int64_t classes = 0;
  std::vector<std::string> labels;  // C names, or empty
  Problem problem = Problem::single_label;
  ImageProcessing processing;
  /// Made by `init`, never trained: marked so that nobody takes its answers for real.
  bool random_weights = false;
  /// Of a model that was trained here.
  HeldOut held_out;
  /// Of a classifier of text that was trained here: whether it learned from one text a row, or from
  /// two. 0: nobody knows.
  std::int64_t texts_per_row = 0;

  std::int64_t num_layers() const { return static_cast<std::int64_t>(layers.size()); }
  bool is_text() const { return vocabulary > 0; }
  /// What a text that is too long does not fit into.
  const char* context_name() const {
    return window > 0 ? "the window that its attention sees" : "the model's context";
  }
  /// Tokens that a text is cut to where nothing else is asked for.
  std::int64_t usual_length() const { return text_length > 0 ? text_length : context; }
  /// It can answer by itself: it has a head, or its feature is the answer.
  bool answers() const { return classes > 0 || task == Task::embedding; }
  /// Every token's state is read, not a summary's.
  bool reads_every_token() const { return task == Task::masked_lm || task == Task::causal_lm; }
  std::int64_t num_patches() const { return (image_height / patch) * (image_width / patch); }
  /// Tokens that are learned, not seen: a class token; in a DeiT, plain or distilled, a
  /// distillation token after it.
  std::int64_t learned_tokens() const { return family == Family::deit ? 2 : 1; }
  /// N: learned tokens first, then patches.
  std::int64_t num_tokens() const { return num_patches() + learned_tokens(); }
  /// What a language model's head applies between transform and norm: RoBERTa's is always gelu.
  Activation head_activation() const {
    return family == Family::roberta ? Activation::gelu : activation;
  }
  /// A text classifier's pooler: relu in DistilBERT, tanh in the others.
  bool pools_with_relu() const { return family == Family::distilbert; }
  /// Every layer alike and D = H·K: plain Hugging Face Transformers can load it.
  bool is_uniform() const;
  /// Throws std::invalid_argument "[config] layers[3].heads: saw …, needs …".
  void check() const;
  bool operator==(const ModelConfig& other) const;
};

/// The group of units that an axis of a parameter counts, before anything is tied: see
/// `parameters`.
struct Axis {
  /// Residual width D, heads of a layer (units of K rows; with grouped keys and values a group is
  /// the unit, G·K rows of the queries and K of the keys), MLP of a layer, or an axis that is never
  /// cut.
  enum class Kind { fixed, residual, heads, mlp } kind = Kind::fixed;
  int layer = -1;         // for heads and mlp
  std::int64_t size = 0;  // elements along the axis
  std::int64_t unit = 1;  // elements that move together: K or G·K for heads, 1 else
};

/// One parameter of a model: its canonical name, its shape and what each axis counts.
struct Parameter {
  std::string name;  // "blocks.3.attention.query.weight"
  std::vector<Axis> axes;
  std::vector<std::int64_t> dims() const;
  std::int64_t count() const;
};

/// What a checkpoint holds under one key: one parameter, or several of one shape side by side along
/// their first axis (GPT-2's queries, keys and values).
struct StoredTensor {
  std::string key;  // "vit.encoder.layer.3.attention.attention.query.weight"
  std::vector<Parameter> parts;
  /// Stored [I, O] where a parameter is [O, I] (GPT-2's Conv1D).
  bool transposed = false;
  /// As stored, all parts together.
  std::vector<std::int64_t> dims() const;
};

/// Every parameter of the model as its checkpoint stores it, in the order of the forward pass.
/// Canonical names:
///   images: embedding.{class_token [1,1,D], distillation_token [1,1,D], position [1,N,D],
///     patch.weight [D,c,p,p], patch.bias [D]}
///   text: embedding.{token [V,D], position [offset + N,D], type [2,D], norm.{weight,bias}}
///   blocks.<l>.{norm_attention, norm_mlp}.{weight,bias},
///   blocks.<l>.attention.query.{weight [H·K,D], bias}, .{key,value}.{weight [H/G·K,D], bias},
///   blocks.<l>.attention.output.{weight [D,H·K], bias},
///   blocks.<l>.mlp.{gate [F,D], up [F,D], down [D,F]}.{weight,bias}, norm.{weight,bias},
///   pooler.{weight [D,D], bias}, head_transform.{weight [D,D], bias}, head_norm.{weight, bias},
///   head.{weight [C,D], bias}, head_distilled.{weight,bias}.
/// A tied head has no weight of its own.
std::vector<StoredTensor> stored_tensors(const ModelConfig& config);
/// The same, parameter by parameter.
std::vector<Parameter> parameters(const ModelConfig& config);
using ParametersByName = std::map<std::string, Parameter>;
/// The same; those of the last model that a thread asked for are kept, as plans of one model ask
/// thousands of times.
std::shared_ptr<const ParametersByName> parameters_by_name(const ModelConfig& config);

/// What the head needs of them: poolers, classifiers, a tied embedding. Empty for an embedding.
std::vector<Parameter> head_parameters(const ModelConfig& config);

/// Numbers in all parameters; in the blocks alone with `blocks_only`.
std::int64_t count_parameters(const ModelConfig& config, bool blocks_only = false);

/// "vit", "roberta", "qwen2" …: Hugging Face's `model_type`.
std::string_view name_of(Family family);
/// What the keys of a model alone are missing, inside a model with a head: "vit.", "transformer." …
std::string_view key_prefix(Family family);

/// Parts up to which a fusion head has one head for every set of parts that may be present (see
/// model/fusion.hpp); more parts share one.
inline constexpr std::size_t most_parts_with_subsets = 4;

/// Number format of the products. bf16: operands are rounded, sums are fp32, and what passes from
/// one product to the next inside one half of a block stays rounded; the residual stream, norms,
/// features and parameters are fp32 all the same.
enum class Compute { f32, bf16 };
std::string_view name_of(Compute compute);

}  // namespace cleave::model
