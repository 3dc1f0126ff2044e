#include "model/config/config.hpp"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <tuple>

namespace cleave::model {
namespace {

// Far above any model that exists, and low enough that no product of three of them overflows 63
// bits.
constexpr std::int64_t max_width = 1 << 20;
constexpr std::int64_t max_heads = 1 << 14;
constexpr std::int64_t max_layers = 1 << 12;
constexpr std::int64_t max_image = 1 << 14;
constexpr std::int64_t max_channels = 1 << 8;
constexpr std::int64_t max_classes = 1 << 22;
constexpr std::int64_t max_context = 1 << 22;

[[noreturn]] void refuse(const std::string& field, const std::string& saw,
                         const std::string& needs) {
  throw std::invalid_argument("[config] " + field + ": saw " + saw + ", needs " + needs);
}

void expect_within(const std::string& field, std::int64_t value, std::int64_t low,
                   std::int64_t high) {
  if (value < low || value > high)
    refuse(field, std::to_string(value), std::to_string(low) + ".." + std::to_string(high));
}

void check_layers(const ModelConfig& config) {
  expect_within("layers", config.num_layers(), 1, max_layers);
  for (std::size_t l = 0; l < config.layers.size(); ++l) {
    const std::string layer = "layers[" + std::to_string(l) + "].";
    expect_within(layer + "heads", config.layers[l].heads, 0, max_heads);
    expect_within(layer + "mlp_width", config.layers[l].mlp_width, 0, max_width);
  }
}

void check_image(const ModelConfig& config) {
  expect_within("channels", config.channels, 1, max_channels);
  expect_within("patch", config.patch, 1, max_image);
  for (const auto& [field, size] : {std::pair("image_height", config.image_height),
                                    std::pair("image_width", config.image_width)}) {
    expect_within(field, size, 1, max_image);
    if (size % config.patch != 0)
      refuse(field, std::to_string(size), "a multiple of patch = " + std::to_string(config.patch));
  }
}

void check_processing(const ModelConfig& config) {
  const ImageProcessing& processing = config.processing;
  const auto channels = static_cast<std::size_t>(config.channels);
  if (processing.height != config.image_height || processing.width != config.image_width)
    refuse("processing",
           std::to_string(processing.height) + " x " + std::to_string(processing.width),
           "the model's image of " + std::to_string(config.image_height) + " x " +
               std::to_string(config.image_width));
  if (processing.mean.size() != channels || processing.std.size() != channels)
    refuse("processing.mean, std",
           std::to_string(processing.mean.size()) + " and " +
               std::to_string(processing.std.size()) + " values",
           "one for each of " + std::to_string(channels) + " channels");
  if (std::any_of(processing.std.begin(), processing.std.end(),
                  [](double std) { return !(std > 0); }))
    refuse("processing.std", "a value that is not positive", "numbers above 0");
  expect_within("processing.crop_from", processing.crop_from, 0, max_image);
  if (processing.keep_aspect && processing.crop_from == 0 && processing.height != processing.width)
    refuse("processing.keep_aspect", "true for an oblong", "a square, or a centre to cut out");
  expect_within("processing.resample", processing.resample, 0, 5);
}

/// How a family's checkpoints name things. `#` is the layer's number; keys with one letter for
/// several parameters (GPT-2's c_attn) hold them side by side.
struct Keys {
  std::string layer;
  std::string query, key, value, output, norm_attention;
  std::string gate, up, down, norm_mlp;
  std::string norm;
  std::string token, position;
  // Of the heads, prefix included where there is one.
  std::string pooler, head, transform, transform_norm, language_head, language_bias;
  bool transposed = false;  // Conv1D
};

Keys image_keys() {
  Keys keys;
  keys.layer = "encoder.layer.#.";
  keys.query = "attention.attention.query";
  keys.key = "attention.attention.key";
  keys.value = "attention.attention.value";
  keys.output = "attention.output.dense";
  keys.norm_attention = "layernorm_before";
  keys.up = "intermediate.dense";
  keys.down = "output.dense";
  keys.norm_mlp = "layernorm_after";
  keys.norm = "layernorm";
  return keys;
}

Keys bert_keys() {
  Keys keys;
  keys.layer = "encoder.layer.#.";
  keys.query = "attention.self.query";
  keys.key = "attention.self.key";
  keys.value = "attention.self.value";
  keys.output = "attention.output.dense";
  keys.norm_attention = "attention.output.LayerNorm";
  keys.up = "intermediate.dense";
  keys.down = "output.dense";
  keys.norm_mlp = "output.LayerNorm";
  keys.token = "embeddings.word_embeddings.weight";
  keys.position = "embeddings.position_embeddings.weight";
  keys.pooler = "bert.pooler.dense";
  keys.head = "classifier";
  keys.transform = "cls.predictions.transform.dense";
  keys.transform_norm = "cls.predictions.transform.LayerNorm";
  keys.language_head = "cls.predictions.decoder.weight";
  keys.language_bias = "cls.predictions.bias";
  return keys;
}

Keys roberta_keys() {
  Keys keys = bert_keys();
  keys.pooler = "classifier.dense";
  keys.head = "classifier.out_proj";
  keys.transform = "lm_head.dense";
  keys.transform_norm = "lm_head.layer_norm";
  keys.language_head = "lm_head.decoder.weight";
  keys.language_bias = "lm_head.bias";
  return keys;
}

Keys distilbert_keys() {
  Keys keys = bert_keys();
  keys.layer = "transformer.layer.#.";
  keys.query = "attention.q_lin";
  keys.key = "attention.k_lin";
  keys.value = "attention.v_lin";
  keys.output = "attention.out_lin";
  keys.norm_attention = "sa_layer_norm";
  keys.up = "ffn.lin1";
  keys.down = "ffn.lin2";
  keys.norm_mlp = "output_layer_norm";
  keys.pooler = "pre_classifier";
  keys.transform = "vocab_transform";
  keys.transform_norm = "vocab_layer_norm";
  keys.language_head = "vocab_projector.weight";
  keys.language_bias = "vocab_projector.bias";
  return keys;
}

Keys gpt2_keys() {
  Keys keys;
  keys.layer = "h.#.";
  keys.query = keys.key = keys.value = "attn.c_attn";
  keys.output = "attn.c_proj";
  keys.norm_attention = "ln_1";
  keys.up = "mlp.c_fc";
  keys.down = "mlp.c_proj";
  keys.norm_mlp = "ln_2";
  keys.norm = "ln_f";
  keys.token = "wte.weight";
  keys.position = "wpe.weight";
  keys.language_head = "lm_head.weight";
  keys.transposed = true;
  return keys;
}

Keys llama_keys() {
  Keys keys;
  keys.layer = "layers.#.";
  keys.query = "self_attn.q_proj";
  keys.key = "self_attn.k_proj";
  keys.value = "self_attn.v_proj";
  keys.output = "self_attn.o_proj";
  keys.norm_attention = "input_layernorm";
  keys.gate = "mlp.gate_proj";
  keys.up = "mlp.up_proj";
  keys.down = "mlp.down_proj";
  keys.norm_mlp = "post_attention_layernorm";
  keys.norm = "norm";
  keys.token = "embed_tokens.weight";
  keys.language_head = "lm_head.weight";
  return keys;
}

Keys keys_of(Family family) {
  switch (family) {
    case Family::vit:
    case Family::deit:
      return image_keys();
    case Family::bert:
      return bert_keys();
    case Family::roberta:
      return roberta_keys();
    case Family::distilbert:
      return distilbert_keys();
    case Family::gpt2:
      return gpt2_keys();
    case Family::llama:
    case Family::qwen2:
    case Family::mistral:
      return llama_keys();
  }
  throw std::logic_error("unknown family");
}

/// Collects the parameters of one model; each method appends one layer's worth of names, keys and
/// axes.
class ParameterList {
 public:
  explicit ParameterList(const ModelConfig& config)
      : config_(config), keys_(keys_of(config.family)), prefix_(key_prefix(config.family)) {}

  std::vector<StoredTensor> take() {
    config_.is_text() ? add_text_embedding() : add_image_embedding();
    for (int l = 0; l < static_cast<int>(config_.layers.size()); ++l) add_block(l);
    if (config_.norm_placement == NormPlacement::before) add_norm("norm", prefix_ + keys_.norm);
    if (config_.classes > 0) add_heads();
    return std::move(list_);
  }

 private:
  static Axis fixed(std::int64_t size) { return {Axis::Kind::fixed, -1, size, 1}; }
  Axis residual() const { return {Axis::Kind::residual, -1, config_.width, 1}; }
  /// Queries, or the heads of keys and values that they share.
  Axis heads(int layer, bool shared) const {
    const std::int64_t groups =
        config_.layers[static_cast<std::size_t>(layer)].heads / config_.group;
    const std::int64_t unit = config_.head_width * (shared ? 1 : config_.group);
    return {Axis::Kind::heads, layer, groups * unit, unit};
  }
  Axis mlp(int layer) const {
    return {Axis::Kind::mlp, layer, config_.layers[static_cast<std::size_t>(layer)].mlp_width, 1};
  }

  /// Parameters that follow each other under one key are stored side by side.
  void add(std::string name, std::string key, std::vector<Axis> axes, bool transposed = false) {
    Parameter parameter{std::move(name), std::move(axes)};
    // GPT-2's bias stands between two weights that belong together, so one step back is not enough.
    for (std::size_t back = 1; back <= std::min<std::size_t>(2, list_.size()); ++back) {
      StoredTensor& stored = list_[list_.size() - back];
      if (stored.key != key) continue;
      stored.parts.push_back(std::move(parameter));
      return;
    }
    list_.push_back({std::move(key), {std::move(parameter)}, transposed});
  }
  void add_pair(const std::string& name, const std::string& key, std::vector<Axis> weight,
                Axis bias, bool biased = true) {
    add(name + ".weight", key + ".weight", std::move(weight));
    if (biased) add(name + ".bias", key + ".bias", {bias});
  }
  /// A product inside a block: Conv1D in GPT-2.
  void add_product(const std::string& name, const std::string& key, Axis out, Axis in,
                   bool biased) {
    add(name + ".weight", key + ".weight", {out, in}, keys_.transposed);
    if (biased) add(name + ".bias", key + ".bias", {out});
  }
  void add_norm(const std::string& name, const std::string& key) {
    add_pair(name, key, {residual()}, residual(), config_.norm_kind == NormKind::layer);
  }

  void add_image_embedding() {
    const std::string key = prefix_ + "embeddings.";
    add_pair("embedding.patch", key + "patch_embeddings.projection",
             {residual(), fixed(config_.channels), fixed(config_.patch), fixed(config_.patch)},
             residual());
    add("embedding.class_token", key + "cls_token", {fixed(1), fixed(1), residual()});
    if (config_.learned_tokens() == 2)
      add("embedding.distillation_token", key + "distillation_token",
          {fixed(1), fixed(1), residual()});
    add("embedding.position", key + "position_embeddings",
        {fixed(1), fixed(config_.num_tokens()), residual()});
  }

  void add_text_embedding() {
    add("embedding.token", prefix_ + keys_.token, {fixed(config_.vocabulary), residual()});
    if (config_.rotary_base == 0)
      add("embedding.position", prefix_ + keys_.position,
          {fixed(config_.position_offset + config_.context), residual()});
    if (config_.token_types > 0)
      add("embedding.type", prefix_ + "embeddings.token_type_embeddings.weight",
          {fixed(config_.token_types), residual()});
    if (config_.norm_placement == NormPlacement::after)
      add_norm("embedding.norm", prefix_ + "embeddings.LayerNorm");
  }

  void add_block(int layer) {
    const auto& shape = config_.layers[static_cast<std::size_t>(layer)];
    const std::string name = "blocks." + std::to_string(layer) + ".";
    std::string key = prefix_ + keys_.layer;
    key.replace(key.find('#'), 1, std::to_string(layer));
    if (shape.heads > 0) add_attention(layer, name, key);
    if (shape.mlp_width > 0) add_mlp(layer, name, key);
  }

  void add_attention(int layer, const std::string& name, const std::string& key) {
    add_norm(name + "norm_attention", key + keys_.norm_attention);
    const std::string attention = name + "attention.";
    add_product(attention + "query", key + keys_.query, heads(layer, false), residual(),
                config_.qkv_bias);
    add_product(attention + "key", key + keys_.key, heads(layer, true), residual(),
                config_.qkv_bias);
    add_product(attention + "value", key + keys_.value, heads(layer, true), residual(),
                config_.qkv_bias);
    add_product(attention + "output", key + keys_.output, residual(), heads(layer, false),
                config_.output_bias);
  }

  void add_mlp(int layer, const std::string& name, const std::string& key) {
    const bool biased = config_.mlp_bias;
    add_norm(name + "norm_mlp", key + keys_.norm_mlp);
    if (config_.gated)
      add_product(name + "mlp.gate", key + keys_.gate, mlp(layer), residual(), biased);
    add_product(name + "mlp.up", key + keys_.up, mlp(layer), residual(), biased);
    add_product(name + "mlp.down", key + keys_.down, residual(), mlp(layer), biased);
  }

  void add_heads() {
    const Axis classes = fixed(config_.classes);
    switch (config_.task) {
      case Task::classification:
        return add_classifiers(classes);
      case Task::masked_lm:
        add_pair("head_transform", keys_.transform, {residual(), residual()}, residual());
        add_norm("head_norm", keys_.transform_norm);
        if (!config_.tied_head) add("head.weight", keys_.language_head, {classes, residual()});
        return add("head.bias", keys_.language_bias, {classes});
      case Task::causal_lm:
        if (!config_.tied_head) add("head.weight", keys_.language_head, {classes, residual()});
        return;
      case Task::embedding:
        return;
    }
  }

  void add_classifiers(Axis classes) {
    const bool distilled = config_.summary_tokens == 2;
    const std::vector<Axis> weight = {classes, residual()};
    if (config_.is_text()) {
      add_pair("pooler", keys_.pooler, {residual(), residual()}, residual());
      return add_pair("head", keys_.head, weight, classes);
    }
    add_pair("head", distilled ? "cls_classifier" : "classifier", weight, classes);
    if (distilled) add_pair("head_distilled", "distillation_classifier", weight, classes);
  }

  const ModelConfig& config_;
  Keys keys_;
  std::string prefix_;
  std::vector<StoredTensor> list_;
};

bool is_one_of(Family family, std::initializer_list<Family> families) {
  return std::find(families.begin(), families.end(), family) != families.end();
}

/// Whatever a family says of itself that its checkpoints cannot be without.
void check_family(const ModelConfig& config) {
  const std::string name(name_of(config.family));
  const bool post = is_one_of(config.family, {Family::bert, Family::roberta, Family::distilbert});
  if ((config.norm_placement == NormPlacement::after) != post)
    refuse("norm_placement", post ? "before" : "after",
           (post ? "after (" : "before (") + name + " normalises " + (post ? "after)" : "before)"));
  const bool text = !is_one_of(config.family, {Family::vit, Family::deit});
  if (text != config.is_text())
    refuse("vocabulary", std::to_string(config.vocabulary),
           text ? "a number above 0 (" + name + " reads text)" : "0 (" + name + " reads images)");
  if (config.causal != (text && !post))
    refuse("causal", config.causal ? "true" : "false", config.causal ? "false" : "true");
}

void check_sampling(const SamplingDefaults& sampling) {
  const auto expect = [](const char* field, double value, bool holds, const char* needs) {
    if (!holds) refuse(std::string("sampling.") + field, std::to_string(value), needs);
  };
  const double temperature = sampling.temperature, penalty = sampling.repetition_penalty;
  expect("temperature", temperature, temperature >= 0 && temperature <= 1000, "0..1000");
  expect("top_k", static_cast<double>(sampling.top_k), sampling.top_k >= 0, "0 or more");
  expect("top_p", sampling.top_p, sampling.top_p > 0 && sampling.top_p <= 1,
         "a number above 0, at most 1");
  expect("repetition_penalty", penalty, penalty > 0 && penalty <= 1000,
         "a number above 0, at most 1000");
}

/// Biases that a family's checkpoints have or not; only Llama's config.json can say it, of queries,
/// keys, values and output together.
void check_biases(const ModelConfig& config) {
  const auto expect = [&](const char* field, bool value, bool needed) {
    if (value != needed) refuse(field, value ? "true" : "false", needed ? "true" : "false");
  };
  if (config.norm_kind != NormKind::rms) return;
  const bool llama = config.family == Family::llama;
  expect("qkv_bias", config.qkv_bias, llama ? config.output_bias : config.family == Family::qwen2);
  if (llama) return;
  expect("output_bias", config.output_bias, false);
  expect("mlp_bias", config.mlp_bias, false);
}

void check_rotary(const ModelConfig& config) {
  if (!(config.rotary_base >= 0 && config.rotary_base <= 1e12))
    refuse("rotary_base", std::to_string(config.rotary_base), "0..1e12");
  if (config.rotary_base > 0 && config.head_width % 2 != 0)
    refuse("head_width", std::to_string(config.head_width),
           "an even number (positions are rotary)");
  const RotaryScaling& scaling = config.rotary_scaling;
  if (scaling.kind == RotaryScaling::Kind::none) return;
  if (config.rotary_base == 0) refuse("rotary_scaling", "a factor", "none (positions are learned)");
  if (!(scaling.factor >= 1 && scaling.factor <= 1e6))
    refuse("rotary_scaling.factor", std::to_string(scaling.factor), "1..1e6");
  if (scaling.kind != RotaryScaling::Kind::llama3) return;
  if (!(scaling.low_frequency_factor > 0 &&
        scaling.low_frequency_factor < scaling.high_frequency_factor))
    refuse("rotary_scaling.high_freq_factor", std::to_string(scaling.high_frequency_factor),
           "a number above low_freq_factor = " + std::to_string(scaling.low_frequency_factor) +
               ", which is above 0");
  expect_within("rotary_scaling.original_max_position_embeddings", scaling.original_context, 1,
                max_context);
}

void check_text(const ModelConfig& config) {
  expect_within("vocabulary", config.vocabulary, 1, max_classes);
  expect_within("context", config.context, 1, max_context);
  if (!is_one_of(config.family, {Family::qwen2, Family::mistral}))
    expect_within("window", config.window, 0, 0);
  else if (config.window != 0)
    expect_within("window", config.window, config.context, max_context);
  const bool typed = is_one_of(config.family, {Family::bert, Family::roberta});
  expect_within("token_types", config.token_types, typed ? 1 : 0, typed ? 1 << 10 : 0);
  expect_within("position_offset", config.position_offset, config.family == Family::roberta ? 1 : 0,
                config.family == Family::roberta ? config.vocabulary : 0);
  for (const std::int64_t token : config.end_tokens)
    expect_within("end_tokens", token, 0, config.vocabulary - 1);
  check_rotary(config);
  check_biases(config);
  if (config.reads_every_token() && config.classes != 0 && config.classes != config.vocabulary)
    refuse("classes", std::to_string(config.classes),
           "0 or the vocabulary of " + std::to_string(config.vocabulary));
  if (config.task == Task::embedding) expect_within("classes", config.classes, 0, 0);
  expect_within("summary_tokens", config.summary_tokens, 1, 1);
  expect_within("text_length", config.text_length, 0, config.context);
  check_sampling(config.sampling);
}

void check_groups(const ModelConfig& config) {
  expect_within("group", config.group, 1, max_heads);
  for (std::size_t l = 0; l < config.layers.size(); ++l)
    if (config.layers[l].heads % config.group != 0)
      refuse("layers[" + std::to_string(l) + "].heads", std::to_string(config.layers[l].heads),
             "a multiple of group = " + std::to_string(config.group));
}

}  // namespace

bool LayerShape::operator==(const LayerShape& other) const {
  return heads == other.heads && mlp_width == other.mlp_width;
}

bool ImageProcessing::operator==(const ImageProcessing& other) const {
  const auto all = [](const ImageProcessing& p) {
    return std::tie(p.height, p.width, p.resize, p.resample, p.crop_from, p.keep_aspect, p.rescale,
                    p.mean, p.std);
  };
  return all(*this) == all(other);
}

bool RotaryScaling::operator==(const RotaryScaling& other) const {
  const auto all = [](const RotaryScaling& s) {
    return std::tie(s.kind, s.factor, s.low_frequency_factor, s.high_frequency_factor,
                    s.original_context);
  };
  return all(*this) == all(other);
}

bool SamplingDefaults::operator==(const SamplingDefaults& other) const {
  const auto all = [](const SamplingDefaults& s) {
    return std::tie(s.temperature, s.top_k, s.top_p, s.repetition_penalty);
  };
  return all(*this) == all(other);
}

bool HeldOut::operator==(const HeldOut& other) const {
  return std::tie(rows, count, digest) == std::tie(other.rows, other.count, other.digest);
}

bool ModelConfig::operator==(const ModelConfig& other) const {
  const auto all = [](const ModelConfig& c) {
    return std::tie(c.family, c.width, c.head_width, c.layers, c.activation, c.norm_placement,
                    c.norm_kind, c.norm_eps, c.qkv_bias, c.output_bias, c.mlp_bias, c.group,
                    c.gated, c.causal, c.task, c.vocabulary, c.context, c.window, c.token_types,
                    c.position_offset, c.rotary_base, c.rotary_scaling, c.tied_head, c.end_tokens,
                    c.sampling, c.text_length, c.pooling, c.normalised, c.image_height,
                    c.image_width, c.patch, c.channels, c.summary_tokens, c.classes, c.labels,
                    c.problem, c.processing, c.random_weights, c.held_out, c.texts_per_row);
  };
  return all(*this) == all(other);
}

bool ModelConfig::is_uniform() const {
  return !layers.empty() && layers.front().heads > 0 && layers.front().mlp_width > 0 &&
         width == layers.front().heads * head_width &&
         std::all_of(layers.begin(), layers.end(),
                     [&](const LayerShape& layer) { return layer == layers.front(); });
}

void ModelConfig::check() const {
  expect_within("width", width, 1, max_width);
  expect_within("head_width", head_width, 1, max_width);
  check_layers(*this);
  check_groups(*this);
  check_family(*this);
  if (!(norm_eps > 0 && norm_eps <= 1))
    refuse("norm_eps", std::to_string(norm_eps), "a number above 0, at most 1");
  expect_within("classes", classes, 0, max_classes);
  if (!labels.empty() && static_cast<std::int64_t>(labels.size()) != classes)
    refuse("labels", std::to_string(labels.size()) + " names",
           std::to_string(classes) + ", one for each class");
  if (is_text()) return check_text(*this);
  check_image(*this);
  expect_within("summary_tokens", summary_tokens, 1, learned_tokens());
  check_processing(*this);
}

std::vector<std::int64_t> Parameter::dims() const {
  std::vector<std::int64_t> dims;
  for (const Axis& axis : axes) dims.push_back(axis.size);
  return dims;
}

std::int64_t Parameter::count() const {
  std::int64_t count = 1;
  for (const Axis& axis : axes) count *= axis.size;
  return count;
}

std::vector<std::int64_t> StoredTensor::dims() const {
  std::vector<std::int64_t> dims = parts.front().dims();
  dims.front() = 0;
  for (const Parameter& part : parts) dims.front() += part.axes.front().size;
  if (transposed) std::swap(dims.at(0), dims.at(1));
  return dims;
}

std::vector<StoredTensor> stored_tensors(const ModelConfig& config) {
  return ParameterList(config).take();
}

std::vector<Parameter> parameters(const ModelConfig& config) {
  std::vector<Parameter> list;
  for (StoredTensor& stored : stored_tensors(config))
    for (Parameter& part : stored.parts) list.push_back(std::move(part));
  return list;
}

std::shared_ptr<const ParametersByName> parameters_by_name(const ModelConfig& config) {
  thread_local ModelConfig last;
  thread_local std::shared_ptr<const ParametersByName> known;
  if (known && last == config) return known;
  ParametersByName by_name;
  for (Parameter& parameter : parameters(config)) {
    const std::string name = parameter.name;
    by_name.emplace(name, std::move(parameter));
  }
  last = config;
  known = std::make_shared<const ParametersByName>(std::move(by_name));
  return known;
}

std::vector<Parameter> head_parameters(const ModelConfig& config) {
  std::vector<Parameter> list;
  if (config.classes == 0) return list;
  const bool tied = config.reads_every_token() && config.tied_head;
  for (Parameter& parameter : parameters(config)) {
    const bool own = parameter.name.rfind("head", 0) == 0 || parameter.name.rfind("pooler", 0) == 0;
    if (own || (tied && parameter.name == "embedding.token")) list.push_back(std::move(parameter));
  }
  return list;
}

std::int64_t count_parameters(const ModelConfig& config, bool blocks_only) {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters(config))
    if (!blocks_only || parameter.name.rfind("blocks.", 0) == 0) count += parameter.count();
  return count;
}

std::string_view name_of(Compute compute) { return compute == Compute::bf16 ? "bf16" : "f32"; }

std::string_view name_of(Family family) {
  switch (family) {
    case Family::vit:
      return "vit";
    case Family::deit:
      return "deit";
    case Family::bert:
      return "bert";
    case Family::roberta:
      return "roberta";
    case Family::distilbert:
      return "distilbert";
    case Family::gpt2:
      return "gpt2";
    case Family::llama:
      return "llama";
    case Family::qwen2:
      return "qwen2";
    case Family::mistral:
      return "mistral";
  }
  return "?";
}

std::string_view key_prefix(Family family) {
  switch (family) {
    case Family::vit:
      return "vit.";
    case Family::deit:
      return "deit.";
    case Family::bert:
      return "bert.";
    case Family::roberta:
      return "roberta.";
    case Family::distilbert:
      return "distilbert.";
    case Family::gpt2:
      return "transformer.";
    case Family::llama:
    case Family::qwen2:
    case Family::mistral:
      return "model.";
  }
  return "";
}

}  // namespace cleave::model
