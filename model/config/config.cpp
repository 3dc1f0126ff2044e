#include "model/config/config.hpp"

#include <algorithm>
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
  if (processing.crop_from != 0)
    expect_within("processing.crop_from", processing.crop_from,
                  std::max(processing.height, processing.width), max_image);
  if (processing.crop_from != 0 && !processing.resize)
    refuse("processing.resize", "false with crop_from", "true, or crop_from = 0");
  if (processing.resample != 0 && processing.resample != 2 && processing.resample != 3)
    refuse("processing.resample", std::to_string(processing.resample),
           "0 (nearest), 2 (bilinear) or 3 (bicubic)");
}

/// Collects the parameters of one model; each method appends one layer's worth of names, keys and
/// axes.
class ParameterList {
 public:
  explicit ParameterList(const ModelConfig& config)
      : config_(config), base_(std::string(name_of(config.family)) + ".") {}

  std::vector<Parameter> take() {
    add_embedding();
    for (int l = 0; l < static_cast<int>(config_.layers.size()); ++l) add_block(l);
    add_pair("norm", base_ + "layernorm", {residual()}, residual());
    if (config_.classes > 0) add_heads();
    return std::move(list_);
  }

 private:
  static Axis fixed(std::int64_t size) { return {Axis::Kind::fixed, -1, size, 1}; }
  Axis residual() const { return {Axis::Kind::residual, -1, config_.width, 1}; }
  Axis heads(int layer) const {
    return {Axis::Kind::heads, layer,
            config_.layers[static_cast<std::size_t>(layer)].heads * config_.head_width,
            config_.head_width};
  }
  Axis mlp(int layer) const {
    return {Axis::Kind::mlp, layer, config_.layers[static_cast<std::size_t>(layer)].mlp_width, 1};
  }

  void add(std::string name, std::string key, std::vector<Axis> axes) {
    list_.push_back({std::move(name), std::move(key), std::move(axes)});
  }
  void add_pair(const std::string& name, const std::string& key, std::vector<Axis> weight,
                Axis bias) {
    add(name + ".weight", key + ".weight", std::move(weight));
    add(name + ".bias", key + ".bias", {bias});
  }

  void add_embedding() {
    const std::string key = base_ + "embeddings.";
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

  void add_block(int layer) {
    const auto& shape = config_.layers[static_cast<std::size_t>(layer)];
    const std::string name = "blocks." + std::to_string(layer) + ".";
    const std::string key = base_ + "encoder.layer." + std::to_string(layer) + ".";
    if (shape.heads > 0) add_attention(layer, name, key);
    if (shape.mlp_width > 0) {
      add_pair(name + "norm_mlp", key + "layernorm_after", {residual()}, residual());
      add_pair(name + "mlp.up", key + "intermediate.dense", {mlp(layer), residual()}, mlp(layer));
      add_pair(name + "mlp.down", key + "output.dense", {residual(), mlp(layer)}, residual());
    }
  }

  void add_attention(int layer, const std::string& name, const std::string& key) {
    add_pair(name + "norm_attention", key + "layernorm_before", {residual()}, residual());
    for (const std::string which : {"query", "key", "value"}) {
      add(name + "attention." + which + ".weight", key + "attention.attention." + which + ".weight",
          {heads(layer), residual()});
      if (config_.qkv_bias)
        add(name + "attention." + which + ".bias", key + "attention.attention." + which + ".bias",
            {heads(layer)});
    }
    add_pair(name + "attention.output", key + "attention.output.dense", {residual(), heads(layer)},
             residual());
  }

  void add_heads() {
    const bool distilled = config_.summary_tokens == 2;
    const std::vector<Axis> weight = {fixed(config_.classes), residual()};
    add_pair("head", distilled ? "cls_classifier" : "classifier", weight, fixed(config_.classes));
    if (distilled)
      add_pair("head_distilled", "distillation_classifier", weight, fixed(config_.classes));
  }

  const ModelConfig& config_;
  std::string base_;
  std::vector<Parameter> list_;
};

}  // namespace

bool LayerShape::operator==(const LayerShape& other) const {
  return heads == other.heads && mlp_width == other.mlp_width;
}

bool ImageProcessing::operator==(const ImageProcessing& other) const {
  const auto all = [](const ImageProcessing& p) {
    return std::tie(p.height, p.width, p.resize, p.resample, p.crop_from, p.rescale, p.mean, p.std);
  };
  return all(*this) == all(other);
}

bool ModelConfig::operator==(const ModelConfig& other) const {
  const auto all = [](const ModelConfig& c) {
    return std::tie(c.family, c.width, c.head_width, c.layers, c.activation, c.norm_placement,
                    c.norm_eps, c.qkv_bias, c.image_height, c.image_width, c.patch, c.channels,
                    c.summary_tokens, c.classes, c.labels, c.processing, c.random_weights);
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
  check_image(*this);
  if (norm_placement != NormPlacement::before)
    refuse("norm_placement", "after",
           "before (" + std::string(name_of(family)) + " normalises before)");
  if (!(norm_eps > 0 && norm_eps <= 1))
    refuse("norm_eps", std::to_string(norm_eps), "a number above 0, at most 1");
  expect_within("summary_tokens", summary_tokens, 1, learned_tokens());
  expect_within("classes", classes, 0, max_classes);
  if (!labels.empty() && static_cast<std::int64_t>(labels.size()) != classes)
    refuse("labels", std::to_string(labels.size()) + " names",
           std::to_string(classes) + ", one for each class");
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

std::vector<Parameter> parameters(const ModelConfig& config) {
  return ParameterList(config).take();
}

std::int64_t count_parameters(const ModelConfig& config, bool blocks_only) {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters(config))
    if (!blocks_only || parameter.name.rfind("blocks.", 0) == 0) count += parameter.count();
  return count;
}

std::string_view name_of(Family family) { return family == Family::deit ? "deit" : "vit"; }

}  // namespace cleave::model
