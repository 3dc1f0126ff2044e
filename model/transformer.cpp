#include "model/transformer.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include <ATen/ATen.h>

#include "model/tokenizer/segment.hpp"

namespace cleave::model {
namespace {

const LayerShape& layer_shape(const Transformer& model, int layer) {
  return model.config.layers.at(static_cast<std::size_t>(layer));
}

/// Units [begin, end) of `unit` elements of a parameter, of those that the model has; the tensor
/// itself where nothing is left out.
Tensor take(const Transformer& model, const std::string& name, std::int64_t axis, Range range,
            std::int64_t unit = 1) {
  const Tensor& x = model[name];
  const auto kept = model.begins.find(name);
  const std::int64_t first = kept == model.begins.end() ? 0 : kept->second;
  const std::int64_t begin = range.begin * unit - first, size = range.size() * unit;
  if (begin < 0 || begin + size > x.size(axis))
    throw std::out_of_range("[model] " + name + ": saw " + std::to_string(first) + " to " +
                            std::to_string(first + x.size(axis)) + ", needs " +
                            std::to_string(range.begin * unit) + " to " +
                            std::to_string(range.end * unit));
  return size == x.size(axis) ? x : x.narrow(axis, begin, size);
}

Tensor activate(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::relu:
      return at::relu(x);
    case Activation::silu:
      return at::silu(x);
  }
  throw std::logic_error("unknown activation");
}

/// Operands of products as `compute` wants them, and results back in fp32; both are free where
/// nothing changes.
Tensor rounded(const Tensor& x, Compute compute) {
  return compute == Compute::bf16 ? x.to(at::kBFloat16) : x;
}
Tensor widened(const Tensor& x) { return x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x; }

/// linear(), left in the number format that it was multiplied in: inside one half of a block
/// nothing needs more.
Tensor product(const Tensor& x, const Tensor& weight, const Tensor* bias, Compute compute) {
  const c10::optional<Tensor> no_bias;
  if (compute == Compute::f32) return at::linear(x, weight, bias != nullptr ? *bias : no_bias);
  Tensor y = at::linear(rounded(x, compute), rounded(weight, compute));
  // Faster than linear's own bias, which is copied into the result before the product is added.
  if (bias != nullptr) y += rounded(*bias, compute);
  return y;
}

/// Heads of the queries, or those of keys and values that a group shares.
Range heads_of(const Transformer& model, int layer, Projection which) {
  const std::int64_t heads = layer_shape(model, layer).heads;
  return {0, which == Projection::query ? heads : heads / model.config.group};
}

/// Some heads' queries, keys or values side by side. [B, N, D] -> [B, N, h·K].
Tensor project_flat(const Transformer& model, int layer, Projection which, Range heads,
                    const Tensor& x) {
  const std::string name = projection_prefix(layer, which);
  const std::int64_t width = model.config.head_width;
  const Tensor weight = take(model, name + ".weight", 0, heads, width);
  if (!model.config.qkv_bias) return product(x, weight, nullptr, model.compute);
  const Tensor bias = take(model, name + ".bias", 0, heads, width);
  return product(x, weight, &bias, model.compute);
}

/// linear() with the bias where there is one.
Tensor with_weights_of(const Transformer& model, const std::string& name, const Tensor& x) {
  return linear(x, model[name + ".weight"], model.find(name + ".bias"), model.compute);
}

/// Each pair (i, i + K/2) turned by its position's angle (Su et al. 2021, as Llama pairs them).
Tensor rotate(const Tensor& x, const Sight& sight) {
  if (!sight.cosines.defined()) return x;
  const std::int64_t half = x.size(-1) / 2;
  const Tensor turned = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  return x * sight.cosines.to(x.scalar_type()) + turned * sight.sines.to(x.scalar_type());
}

bool all_equal(const std::vector<std::int64_t>& values) {
  return std::equal(values.begin() + 1, values.end(), values.begin());
}

/// Positions of the rows' tokens. B past lengths -> int64 [1, N] where they agree, else [B, N].
Tensor positions_of(const std::vector<std::int64_t>& past, std::int64_t tokens, at::Device device) {
  const at::TensorOptions options(at::kLong);
  const Tensor steps = at::arange(tokens, options);
  const auto rows = static_cast<std::int64_t>(all_equal(past) ? 1 : past.size());
  const Tensor begin =
      at::tensor(at::IntArrayRef(past.data(), static_cast<std::size_t>(rows)), options);
  return (begin.unsqueeze(1) + steps).to(device);
}

/// Adds the keys or values of new tokens behind those that a text has, and returns all of them. [B,
/// g, N, K] -> [B, g, M, K]. What fills up a shorter row lands behind its last token: nobody sees
/// it there before the next token of the row overwrites it.
Tensor append(Tensor& all, const Tensor& fresh, const Sight& sight) {
  if (!all.defined())
    all = at::zeros({static_cast<std::int64_t>(sight.cache->lengths.size()), fresh.size(1),
                     sight.cache->capacity, fresh.size(3)},
                    fresh.options());
  Tensor kept = all.narrow(0, sight.first_text, fresh.size(0));
  const std::int64_t tokens = fresh.size(2);
  const std::int64_t longest = *std::max_element(sight.past.begin(), sight.past.end());
  if (all_equal(sight.past)) {
    kept.narrow(2, longest, tokens).copy_(fresh);
  } else {
    const Tensor rows = at::arange(fresh.size(0), at::TensorOptions(at::kLong)).unsqueeze(1);
    const Tensor positions = positions_of(sight.past, tokens, at::kCPU);
    kept.transpose(1, 2).index_put_({rows.to(kept.device()), positions.to(kept.device())},
                                    fresh.transpose(1, 2).to(kept.scalar_type()));
  }
  return kept.narrow(2, 0, longest + tokens);
}

/// Some MLP columns of `name`. [B, N, D] -> [B, N, columns].
Tensor mlp_columns(const Transformer& model, const std::string& name, Range columns,
                   const Tensor& x) {
  const Tensor weight = take(model, name + ".weight", 0, columns);
  if (model.find(name + ".bias") == nullptr) return product(x, weight, nullptr, model.compute);
  const Tensor bias = take(model, name + ".bias", 0, columns);
  return product(x, weight, &bias, model.compute);
}

/// libtorch, as it goes: values are tensors, the stream [B, N, D].
class Eager {
 public:
  using Value = Tensor;
  Eager(const Transformer& model, const Sight& sight, const Observer* observer)
      : model_(model), sight_(sight), observer_(observer) {}

  Tensor norm(int layer, NormOf which, const Tensor& x) const {
    return model::norm(model_, norm_prefix(layer, which), x);
  }
  /// [B, N, D] -> [B, N, h·K].
  Tensor project(int layer, Projection which, const Tensor& x) {
    return project_flat(model_, layer, which, heads_of(model_, layer, which), rounded_once(x));
  }
  Tensor attend(int layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    read_ = rounded_ = Tensor();
    if (observer_ != nullptr && observer_->on_attention)
      observer_->on_attention(layer, widened(q), widened(k), widened(v));
    const Tensor context = model::attend(model_, layer, sight_, q, k, v);
    if (observer_ != nullptr && observer_->on_context)
      observer_->on_context(layer, widened(context));
    return context;
  }
  Tensor project_out(int layer, const Tensor& context) const {
    const Range heads = heads_of(model_, layer, Projection::query);
    return model::project_out(model_, layer, heads, context, true);
  }
  Tensor mlp_up(int layer, const Tensor& x) const {
    return model::mlp_up(model_, layer, columns(layer), x, observer_);
  }
  Tensor mlp_down(int layer, const Tensor& activations) const {
    return model::mlp_down(model_, layer, columns(layer), activations, true);
  }
  Tensor add(const Tensor& x, const Tensor& added) const {
    const bool changes = observer_ != nullptr && observer_->change_addition;
    return x + (changes ? observer_->change_addition(added) : added);
  }

 private:
  Range columns(int layer) const { return {0, layer_shape(model_, layer).mlp_width}; }
  /// What three products read is rounded once, and let go behind them.
  const Tensor& rounded_once(const Tensor& x) {
    if (!read_.is_same(x)) {
      read_ = x;
      rounded_ = rounded(x, model_.compute);
    }
    return rounded_;
  }

  const Transformer& model_;
  const Sight& sight_;
  const Observer* observer_;
  Tensor read_, rounded_;
};

using Past = std::vector<std::int64_t>;

Past past_of(const Input& input) {
  if (input.cache != nullptr) return input.cache->lengths;
  return std::vector<std::int64_t>(static_cast<std::size_t>(input.values.size(0)), 0);
}

/// Square patches as rows, in the order of the projection's weight (channel, row, column). [B, c,
/// h, w] -> [B, n, c·p·p].
Tensor unfold(const Tensor& pixels, std::int64_t patch) {
  const std::int64_t rows = pixels.size(2) / patch, columns = pixels.size(3) / patch;
  return pixels.reshape({pixels.size(0), pixels.size(1), rows, patch, columns, patch})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({pixels.size(0), rows * columns, pixels.size(1) * patch * patch});
}

/// Normalised pixels -> tokens with positions [B, N, D].
Tensor embed_image(const Transformer& model, const Tensor& pixels, Range rows) {
  const ModelConfig& config = model.config;
  expect_dims(pixels, {-1, config.channels, config.image_height, config.image_width}, "pixels");
  if (rows.size() == 0) rows = {0, config.num_tokens()};
  const std::int64_t learned = config.learned_tokens();
  const Range patches{std::max(rows.begin - learned, std::int64_t{0}),
                      std::max(rows.end - learned, std::int64_t{0})};
  const Tensor weight = model["embedding.patch.weight"].flatten(1);
  std::vector<Tensor> tokens;
  const std::vector<std::int64_t> shape = {pixels.size(0), 1, config.width};
  if (rows.begin == 0) tokens.push_back(model["embedding.class_token"].expand(shape));
  if (learned == 2 && rows.begin <= 1 && rows.end > 1)
    tokens.push_back(model["embedding.distillation_token"].expand(shape));
  if (patches.size() > 0)
    tokens.push_back(linear(unfold(pixels, config.patch).narrow(1, patches.begin, patches.size()),
                            weight, &model["embedding.patch.bias"], model.compute));
  return at::cat(tokens, 1) + model["embedding.position"].narrow(1, rows.begin, rows.size());
}

/// RoBERTa counts from behind its padding token's number, and past that token where a text has it:
/// there the position is the number itself. [B, N].
Tensor positions_behind_padding(const ModelConfig& config, const Tensor& ids) {
  const std::int64_t padding = config.position_offset - 1;
  const Tensor counted = (ids != padding).to(at::kLong);
  return counted.cumsum(1) * counted + padding;
}

/// Ids -> their tokens' rows; those of other tokens are zero.
Tensor look_up(const Transformer& model, const Tensor& ids, Range vocabulary) {
  const std::string name = "embedding.token";
  if (vocabulary.size() == model.config.vocabulary) return at::embedding(model[name], ids);
  const Tensor here = (ids >= vocabulary.begin).logical_and(ids < vocabulary.end);
  const Tensor rows = (ids - vocabulary.begin).clamp(0, vocabulary.size() - 1);
  return at::embedding(take(model, name, 0, vocabulary), rows)
      .masked_fill(here.logical_not().unsqueeze(-1), 0);
}

/// Ids -> tokens with positions [B, N, D]; what fills up a row becomes some token or other.
Tensor embed_text(const Transformer& model, const Tensor& values, const Past& past,
                  Range vocabulary, bool with_positions, Range rows) {
  const auto of_rows = [&](const Tensor& x) {
    return rows.size() == 0 ? x : x.narrow(1, rows.begin, rows.size());
  };
  const Tensor ids = values.to(at::kLong);
  // Padding becomes the first token of the vocabulary.
  const Tensor real = of_rows(ids.clamp_min(0));
  Tensor x = look_up(model, real.bitwise_and(second_text - 1), vocabulary);
  if (!with_positions) return x;
  if (const Tensor* position = model.find("embedding.position")) {
    const Tensor positions = model.config.position_offset > 0
                                 ? positions_behind_padding(model.config, ids)
                                 : positions_of(past, ids.size(1), ids.device());
    x = x + at::embedding(*position, of_rows(positions).clamp_max(position->size(0) - 1));
  }
  if (const Tensor* type = model.find("embedding.type"))
    x = x + at::embedding(*type, real.bitwise_and(second_text).ne(0).to(at::kLong));
  return x;
}

/// −∞ where a token may not be looked at, 0 where it may.
Tensor bias_of(const Tensor& allowed) {
  return at::zeros(allowed.sizes(), at::TensorOptions(at::kFloat).device(allowed.device()))
      .masked_fill_(allowed.logical_not(), -std::numeric_limits<float>::infinity());
}

/// Token i of a text sees tokens 0 … past + i.
Tensor causal_bias(const std::vector<std::int64_t>& past, std::int64_t tokens, at::Device device) {
  if (tokens == 1 && all_equal(past)) return {};
  const std::int64_t seen = *std::max_element(past.begin(), past.end()) + tokens;
  const Tensor columns = at::arange(seen, at::TensorOptions(at::kLong).device(device));
  return bias_of(columns <= positions_of(past, tokens, device).unsqueeze(-1)).unsqueeze(1);
}

/// The angles that rotary positions turn by, K/2 of them, as RotaryScaling says.
Tensor scaled_angles(const RotaryScaling& scaling, const Tensor& angles) {
  if (scaling.kind == RotaryScaling::Kind::none) return angles;
  const Tensor slowed = angles / scaling.factor;
  if (scaling.kind == RotaryScaling::Kind::linear) return slowed;
  const double low = scaling.low_frequency_factor, high = scaling.high_frequency_factor;
  const Tensor turns = static_cast<double>(scaling.original_context) * angles / (2 * M_PI);
  const Tensor share = ((turns - low) / (high - low)).clamp(0, 1);
  return (1 - share) * slowed + share * angles;
}

/// A sight where a text's tokens stand behind `before` other keys of the cache, not behind as many
/// as came before them.
Sight behind_others(const Sight& sight, std::size_t layer, std::int64_t tokens) {
  const auto texts = static_cast<std::int64_t>(sight.past.size());
  const Tensor before = sight.cache->before.at(layer).narrow(0, sight.first_text, texts);
  Sight seen = sight;
  for (std::size_t text = 0; text < seen.past.size(); ++text)
    seen.past[text] += before.size(1) -
                       sight.cache->elsewhere.at(static_cast<std::size_t>(sight.first_text) + text);
  const std::int64_t keys = *std::max_element(seen.past.begin(), seen.past.end()) + tokens;
  const Tensor bias = causal_bias(seen.past, tokens, before.device());
  seen.bias = at::zeros({texts, 1, tokens, keys}, before.options());
  if (bias.defined()) seen.bias.add_(bias);
  seen.bias.narrow(3, 0, before.size(1)).add_(before.unsqueeze(1).unsqueeze(1));
  return seen;
}

void turn_by_position(const ModelConfig& config, const Tensor& positions, Sight& sight) {
  const std::int64_t width = config.head_width;
  const Tensor exponents =
      at::arange(0, width, 2, at::TensorOptions(at::kFloat)) / static_cast<double>(width);
  const Tensor frequencies =
      scaled_angles(config.rotary_scaling, 1 / at::pow(config.rotary_base, exponents));
  const Tensor half = positions.to(at::kFloat).unsqueeze(-1) * frequencies.to(positions.device());
  const Tensor angles = at::cat({half, half}, -1).unsqueeze(1);
  sight.cosines = angles.cos();
  sight.sines = angles.sin();
}

Tensor per_channel(const std::vector<double>& values, at::Device device) {
  const auto channels = static_cast<std::int64_t>(values.size());
  return at::tensor(values, at::kDouble).to(device, at::kFloat).view({1, channels, 1, 1});
}

void expect_head(const ModelConfig& config) {
  if (config.classes == 0)
    throw std::invalid_argument("[classify] saw a model without a head, needs one");
}

[[noreturn]] void refuse_row(std::int64_t row, const std::string& saw, const std::string& needs) {
  throw std::invalid_argument("[tokens] text " + std::to_string(row) + ": saw " + saw + ", needs " +
                              needs);
}

/// Ids within the vocabulary, a second text's where the model tells two apart, −1 at the end only.
/// [N] of one row.
void check_row(const std::int64_t* ids, std::int64_t tokens, std::int64_t row,
               const ModelConfig& config) {
  bool ended = false;
  for (std::int64_t i = 0; i < tokens; ++i) {
    if (in_second_text(ids[i]) && config.token_types < 2)
      refuse_row(row, "a token of a pair's second text", "none: the model has no token types");
    if (ids[i] < -1 || token_of(ids[i]) >= config.vocabulary)
      refuse_row(row, "token " + std::to_string(token_of(ids[i])),
                 "0.." + std::to_string(config.vocabulary - 1) + ", the model's vocabulary");
    if (ids[i] >= 0 && ended) refuse_row(row, "a token after its end", "-1 at the end only");
    ended = ended || ids[i] < 0;
  }
}

}  // namespace

std::int64_t KvCache::longest() const {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

void KvCache::add(const std::vector<std::int64_t>& tokens) {
  for (std::size_t row = 0; row < tokens.size(); ++row) lengths[row] += tokens[row];
}

KvCache make_cache(const ModelConfig& config, std::int64_t batch, std::int64_t capacity) {
  KvCache cache;
  cache.capacity = std::min(capacity, config.context);
  cache.lengths.assign(static_cast<std::size_t>(batch), 0);
  cache.keys.resize(config.layers.size());
  cache.values.resize(config.layers.size());
  cache.before.resize(config.layers.size());
  return cache;
}

std::vector<std::int64_t> lengths_of(const Tensor& ids) {
  const Tensor lengths = (ids >= 0).sum(1).to(at::kCPU, at::kLong);
  return {lengths.data_ptr<std::int64_t>(), lengths.data_ptr<std::int64_t>() + lengths.numel()};
}

void check_input(const Transformer& model, const Input& input) {
  const ModelConfig& config = model.config;
  if (!config.is_text())
    return expect_dims(input.values, {-1, config.channels, config.image_height, config.image_width},
                       "pixels");
  expect_dims(input.values, {-1, -1}, "tokens");
  const Tensor ids = input.values.to(at::kCPU, at::kLong).contiguous();
  const std::int64_t rows = ids.size(0), tokens = ids.size(1);
  if (rows == 0 || tokens == 0) throw std::invalid_argument("[tokens] saw none, needs at least 1");
  for (std::int64_t row = 0; row < rows; ++row)
    check_row(ids.data_ptr<std::int64_t>() + row * tokens, tokens, row, config);
  if (input.cache == nullptr) {
    const std::vector<std::int64_t> lengths = lengths_of(ids);
    for (std::size_t row = 0; row < lengths.size(); ++row)
      if (lengths[row] == 0) refuse_row(static_cast<std::int64_t>(row), "no token", "at least 1");
  }
  const std::int64_t room = input.cache == nullptr ? config.context : input.cache->capacity;
  const std::int64_t past = input.cache == nullptr ? 0 : input.cache->longest();
  if (past + tokens > room)
    throw std::invalid_argument(
        "[tokens] saw " + std::to_string(past + tokens) + " tokens in one text, needs at most " +
        std::to_string(room) +
        (room < config.context ? std::string() : std::string(", ") + config.context_name()));
}

Sight sight(const Transformer& model, const Input& input) {
  Sight sight;
  if (!model.config.is_text()) return sight;
  const Tensor& ids = input.values;
  sight.past = past_of(input);
  sight.cache = input.cache;
  const std::vector<std::int64_t> lengths = lengths_of(ids);
  const bool filled = *std::min_element(lengths.begin(), lengths.end()) < ids.size(1);
  if (filled) sight.real = (ids >= 0).to(at::kFloat);
  if (model.config.causal)
    sight.bias = causal_bias(sight.past, ids.size(1), ids.device());
  else if (filled)
    sight.bias = bias_of(ids >= 0).unsqueeze(1).unsqueeze(1);
  if (model.config.rotary_base > 0)
    turn_by_position(model.config, positions_of(sight.past, ids.size(1), ids.device()), sight);
  return sight;
}

const Tensor& Transformer::operator[](const std::string& name) const {
  const Tensor* found = find(name);
  if (found == nullptr)
    throw std::out_of_range("[model] " + name + ": saw no such tensor, needs it");
  return *found;
}

const Tensor* Transformer::find(const std::string& name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

at::Device Transformer::device() const {
  return tensors.empty() ? at::Device(at::kCPU) : tensors.begin()->second.device();
}

void Transformer::move_to(at::Device device) {
  for (auto& [name, tensor] : tensors) tensor = tensor.to(device);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor* bias, Compute compute) {
  return widened(product(x, weight, bias, compute));
}

Tensor normalise_pixels(const ModelConfig& config, const Tensor& pixels) {
  expect_dims(pixels, {-1, config.channels, config.image_height, config.image_width}, "pixels");
  if (pixels.is_floating_point()) return pixels;
  const ImageProcessing& processing = config.processing;
  std::vector<double> scale, shift;
  for (std::size_t c = 0; c < processing.std.size(); ++c) {
    scale.push_back(processing.rescale / processing.std[c]);
    shift.push_back(-processing.mean[c] / processing.std[c]);
  }
  return at::addcmul(per_channel(shift, pixels.device()), pixels.to(at::kFloat),
                     per_channel(scale, pixels.device()));
}

Sight of_texts(const Sight& sight, Range texts) {
  Sight some = sight;
  const auto narrow = [&](Tensor& x) {
    if (x.defined() && x.size(0) > 1) x = x.narrow(0, texts.begin, texts.size());
  };
  some.past.assign(sight.past.begin() + texts.begin, sight.past.begin() + texts.end);
  if (sight.bias.defined()) {
    narrow(some.bias);
    // The longest of them may have fewer keys.
    const std::int64_t fewer = *std::max_element(sight.past.begin(), sight.past.end()) -
                               *std::max_element(some.past.begin(), some.past.end());
    some.bias = some.bias.narrow(-1, 0, some.bias.size(-1) - fewer);
  }
  narrow(some.cosines);
  narrow(some.sines);
  narrow(some.real);
  some.first_text = sight.first_text + texts.begin;
  return some;
}

Tensor embed(const Transformer& model, const Input& input) {
  const Past past = model.config.is_text() ? past_of(input) : Past();
  const Tensor x = embed_tokens(model, input.values, past, {0, model.config.vocabulary}, true);
  if (!norms_embedding(model.config)) return x;
  return norm(model, norm_prefix(-1, NormOf::embedding), x);
}

Tensor embed_tokens(const Transformer& model, const Tensor& values,
                    const std::vector<std::int64_t>& past, Range vocabulary, bool positions,
                    Range rows) {
  if (!model.config.is_text()) return embed_image(model, values, rows);
  return embed_text(model, values, past, vocabulary, positions, rows);
}

Tensor norm(const Transformer& model, const std::string& prefix, const Tensor& x) {
  const Tensor& weight = model[prefix + ".weight"];
  if (model.config.norm_kind == NormKind::rms)
    return x * at::rsqrt(x.square().mean(-1, true) + model.config.norm_eps) * weight;
  return at::layer_norm(x, {x.size(-1)}, weight, model[prefix + ".bias"], model.config.norm_eps);
}

Tensor project(const Transformer& model, int layer, Projection which, Range heads,
               const Tensor& x) {
  return widened(project_flat(model, layer, which, heads, x));
}

Tensor split_heads(const Tensor& x, std::int64_t head_width) {
  return x.unflatten(2, {x.size(2) / head_width, head_width}).transpose(1, 2);
}

Tensor attend(const Transformer& model, int layer, const Sight& sight, const Tensor& q,
              const Tensor& k, const Tensor& v) {
  const std::int64_t width = model.config.head_width;
  const Tensor queries = rotate(split_heads(q, width), sight);
  Tensor keys = rotate(split_heads(k, width), sight), values = split_heads(v, width);
  if (sight.cache == nullptr) return attend(queries, keys, values, sight.bias);
  const auto l = static_cast<std::size_t>(layer);
  const bool all_here = !sight.cache->before.at(l).defined();
  const Sight seen = all_here ? sight : behind_others(sight, l, q.size(1));
  keys = append(sight.cache->keys.at(l), keys, seen);
  values = append(sight.cache->values.at(l), values, seen);
  return attend(queries, keys, values, seen.bias);
}

Tensor attend_rows(const Transformer& model, int layer, const Sight& sight, const Tensor& q,
                   const Tensor& k, const Tensor& v, Range rows, Range kept) {
  const std::int64_t width = model.config.head_width;
  Sight of_queries = sight;
  const auto narrow = [&](Tensor& x) {
    if (x.defined() && x.size(2) > 1) x = x.narrow(2, rows.begin, rows.size());
  };
  narrow(of_queries.bias);
  narrow(of_queries.cosines);
  narrow(of_queries.sines);
  const Tensor queries = rotate(split_heads(q, width), of_queries);
  const Tensor keys = rotate(split_heads(k, width), sight), values = split_heads(v, width);
  if (sight.cache != nullptr) {
    if (*std::max_element(sight.past.begin(), sight.past.end()) > 0)
      throw std::invalid_argument(
          "[attend] saw rows of a text that continues, needs one that begins");
    const auto l = static_cast<std::size_t>(layer);
    if (kept.size() > 0) {
      append(sight.cache->keys.at(l), keys.narrow(1, kept.begin, kept.size()), sight);
      append(sight.cache->values.at(l), values.narrow(1, kept.begin, kept.size()), sight);
    }
  }
  return attend(queries, keys, values, of_queries.bias);
}

Tensor attend_inputs(const Transformer& model, int layer, const Sight& sight, Range heads,
                     const Tensor& q, const Tensor& x, Range rows) {
  const std::int64_t width = model.config.head_width, count = heads.size();
  const auto weight_of = [&](Projection which) {  // [h, K, D]
    return take(model, projection_prefix(layer, which) + ".weight", 0, heads, width)
        .view({count, width, x.size(2)});
  };
  const Tensor queries = at::matmul(split_heads(q, width) / std::sqrt(static_cast<double>(width)),
                                    weight_of(Projection::key));  // [B, h, n, D]
  Tensor scores = at::matmul(queries.flatten(1, 2), x.transpose(1, 2)).unflatten(1, {count, -1});
  if (sight.bias.defined()) {
    const bool by_query = sight.bias.size(2) > 1;
    scores = scores + (by_query ? sight.bias.narrow(2, rows.begin, rows.size()) : sight.bias)
                          .to(scores.scalar_type());
  }
  const Tensor seen =
      at::matmul(at::softmax(scores, -1).flatten(1, 2), x).unflatten(1, {count, -1});
  Tensor context = at::matmul(seen, weight_of(Projection::value).transpose(1, 2));  // [B, h, n, K]
  if (model.config.qkv_bias)
    context = context +
              take(model, projection_prefix(layer, Projection::value) + ".bias", 0, heads, width)
                  .view({count, 1, width});
  return context.transpose(1, 2).flatten(2, 3);
}

Sight sight_of_marks(const Transformer& model, const Tensor& marks) {
  Sight sight;
  const Tensor positions = marks.select(2, 1);
  sight.bias = marks.select(2, 0).log().unsqueeze(1).unsqueeze(1);
  if (model.config.causal) {
    const Tensor later = positions.unsqueeze(1) > positions.unsqueeze(2);
    sight.bias =
        sight.bias.masked_fill(later.unsqueeze(1), -std::numeric_limits<double>::infinity());
  }
  if (model.config.rotary_base > 0) turn_by_position(model.config, positions, sight);
  return sight;
}

Tensor attend_rows(const Transformer& model, int layer, const Sight& sight, const Sight& of_marks,
                   const Tensor& marks, const Tensor& q, const Tensor& k, const Tensor& v,
                   Range rows, Range kept) {
  Sight seen = of_marks;
  seen.past = sight.past;
  seen.cache = sight.cache;
  const Tensor context = attend_rows(model, layer, seen, q, k, v, rows, kept);
  if (sight.cache != nullptr && kept.size() > 0) {
    KvCache& cache = *sight.cache;
    cache.before.at(static_cast<std::size_t>(layer)) =
        marks.select(2, 0).log().narrow(1, 0, rows.begin);
    const auto first = marks.select(2, 1).select(1, rows.begin).max().item<double>();
    cache.elsewhere.clear();
    for (const std::int64_t tokens : cache.lengths)
      cache.elsewhere.push_back(std::min(tokens, static_cast<std::int64_t>(first)));
  }
  return context;
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& bias) {
  const std::int64_t batch = q.size(0), heads = q.size(1), tokens = q.size(2), width = q.size(3);
  const std::int64_t shared = k.size(1), seen = k.size(2);
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  // Rows of the queries that share keys stand under each other, so that keys are never repeated.
  // One matrix for each head of each text; for a single one these are views, nothing is copied.
  const Tensor rows =
      shared == heads ? q : q.reshape({batch, shared, heads / shared * tokens, width});
  Tensor scores = at::matmul(rows * scale, k.transpose(2, 3));
  if (bias.defined())
    scores = (scores.view({batch, heads, tokens, seen}) + bias.to(scores.scalar_type()))
                 .view(scores.sizes());
  const Tensor context = at::matmul(at::softmax(scores, -1), v).view({batch, heads, tokens, width});
  return context.transpose(1, 2).reshape({batch, tokens, heads * width});
}

Tensor project_out(const Transformer& model, int layer, Range heads, const Tensor& context,
                   bool with_bias) {
  const std::string name = output_prefix(layer, Half::attention);
  return linear(context, take(model, name + ".weight", 1, heads, model.config.head_width),
                with_bias ? model.find(name + ".bias") : nullptr, model.compute);
}

Tensor mlp_up(const Transformer& model, int layer, Range columns, const Tensor& x,
              const Observer* observer) {
  const std::string name = block_prefix(layer) + "mlp.";
  const bool gated = model.config.gated;
  Tensor h = activate(model.config.activation,
                      mlp_columns(model, name + (gated ? "gate" : "up"), columns, x));
  if (gated) h = h * mlp_columns(model, name + "up", columns, x);
  if (observer != nullptr && observer->on_mlp) observer->on_mlp(layer, widened(h));
  return h;
}

Tensor mlp_down(const Transformer& model, int layer, Range columns, const Tensor& activations,
                bool with_bias) {
  const std::string name = output_prefix(layer, Half::mlp);
  return linear(activations, take(model, name + ".weight", 1, columns),
                with_bias ? model.find(name + ".bias") : nullptr, model.compute);
}

Tensor block(const Transformer& model, int layer, const Tensor& input, const Sight& sight,
             const Observer* observer) {
  Eager eager(model, sight, observer);
  const Tensor x = block(eager, model.config, layer, input);
  if (observer != nullptr && observer->on_block) observer->on_block(layer, x);
  return x;
}

Tensor read_out(const Transformer& model, const Tensor& x, const Sight& sight) {
  const ModelConfig& config = model.config;
  const auto normed = [&](const Tensor& y) {
    return config.norm_placement == NormPlacement::before ? norm(model, "norm", y) : y;
  };
  // Rows are normalised one by one, so those that nobody reads are left out.
  if (config.task == Task::classification) return normed(x.narrow(1, 0, config.summary_tokens));
  if (config.task != Task::embedding) return normed(x);
  if (config.pooling == Pooling::first) return normed(x.narrow(1, 0, 1));
  if (!sight.real.defined()) return normed(x).mean(1, true);
  const Tensor weight = sight.real.unsqueeze(-1);
  return (normed(x) * weight).sum(1, true) / weight.sum(1, true);
}

Tensor read_out_rows(const Transformer& model, const Tensor& x, const Tensor& lengths, Range rows) {
  const ModelConfig& config = model.config;
  const at::TensorOptions numbers = at::TensorOptions(at::kLong).device(x.device());
  const Tensor row = at::arange(rows.begin, rows.end, numbers);  // [rows]
  const bool pools = config.task == Task::embedding && config.pooling == Pooling::mean;
  Tensor weights;  // of each row in each token of the feature [B or 1, T, rows]
  if (config.task == Task::causal_lm) {
    weights = row == (lengths.to(at::kLong) - 1).view({-1, 1, 1});
  } else if (pools && lengths.defined()) {
    const Tensor tokens = lengths.to(at::kLong).view({-1, 1, 1});
    weights = (row < tokens).to(x.scalar_type()) / tokens.to(x.scalar_type());
  } else if (pools) {
    weights =
        at::full({1, 1, rows.size()}, 1.0 / static_cast<double>(config.num_tokens()), x.options());
  } else {
    weights = row == at::arange(config.summary_tokens, numbers).view({1, -1, 1});
  }
  const Tensor normed = config.norm_placement == NormPlacement::before ? norm(model, "norm", x) : x;
  return at::matmul(weights.to(x.scalar_type()).expand({x.size(0), -1, -1}), normed);
}

Tensor last_token(const Tensor& x, const Tensor& lengths) {
  if (x.size(1) == 1) return x;
  const Tensor last = lengths.to(at::kLong).sub(1).clamp_min(0).view({-1, 1, 1});
  return x.gather(1, last.expand({-1, 1, x.size(2)}));
}

Tensor features(const Transformer& model, const Input& input, const Observer* observer) {
  const Sight sight = model::sight(model, input);
  Tensor x = embed(model, input);
  for (int layer = 0; layer < static_cast<int>(model.config.layers.size()); ++layer)
    x = block(model, layer, x, sight, observer);
  if (input.cache != nullptr) input.cache->add(lengths_of(input.values));
  return read_out(model, x, sight);
}

Tensor classify(const Transformer& model, const Tensor& features) {
  const ModelConfig& config = model.config;
  if (config.reads_every_token()) return language_logits(model, features, {0, config.classes});
  expect_dims(features, {-1, config.summary_tokens, config.width}, "features");
  const Tensor first = features.select(1, 0);
  if (config.task == Task::embedding)
    return config.normalised ? first / first.norm(2, {-1}, true).clamp_min(1e-12) : first;
  expect_head(config);
  if (config.is_text()) {
    const Tensor pooled = with_weights_of(model, "pooler", first);
    return with_weights_of(model, "head",
                           config.pools_with_relu() ? at::relu(pooled) : at::tanh(pooled));
  }
  const Tensor logits = with_weights_of(model, "head", first);
  if (config.summary_tokens == 1) return logits;
  return (logits + with_weights_of(model, "head_distilled", features.select(1, 1))) / 2;
}

Tensor language_logits(const Transformer& model, const Tensor& features, Range vocabulary) {
  expect_head(model.config);
  if (features.size(-1) != model.config.width)
    expect_dims(features, {-1, -1, model.config.width}, "features");
  Tensor x = features;
  if (model.config.task == Task::masked_lm)
    x = norm(model, "head_norm",
             activate(model.config.head_activation(), with_weights_of(model, "head_transform", x)));
  const Tensor weight =
      take(model, model.config.tied_head ? "embedding.token" : "head.weight", 0, vocabulary);
  if (model.find("head.bias") == nullptr) return linear(x, weight, nullptr, model.compute);
  const Tensor bias = take(model, "head.bias", 0, vocabulary);
  return linear(x, weight, &bias, model.compute);
}

Tensor forward(const Transformer& model, const Input& input, const Observer* observer) {
  return classify(model, features(model, input, observer));
}

void expect_dims(const Tensor& x, const std::vector<std::int64_t>& dims, const std::string& what) {
  const auto text = [](at::IntArrayRef sizes) {
    std::string out;
    for (const std::int64_t size : sizes)
      out += (out.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
    return "[" + out + "]";
  };
  bool fits = x.dim() == static_cast<std::int64_t>(dims.size());
  for (std::size_t i = 0; fits && i < dims.size(); ++i)
    fits = dims[i] < 0 || x.size(static_cast<std::int64_t>(i)) == dims[i];
  if (!fits)
    throw std::invalid_argument("[" + what + "] saw " + text(x.sizes()) + ", needs " + text(dims));
}

}  // namespace cleave::model
