#include "model/transformer.hpp"

#include <cmath>
#include <stdexcept>

#include <ATen/ATen.h>

namespace cleave::model {
namespace {

std::string block_prefix(int layer) { return "blocks." + std::to_string(layer) + "."; }

const LayerShape& layer_shape(const Transformer& model, int layer) {
  return model.config.layers.at(static_cast<std::size_t>(layer));
}

std::string_view name_of(Projection which) {
  switch (which) {
    case Projection::query:
      return "query";
    case Projection::key:
      return "key";
    case Projection::value:
      return "value";
  }
  return "?";
}

/// Rows [begin, end) in units of `unit`; the whole tensor itself where nothing is left out.
Tensor take(const Tensor& x, std::int64_t axis, Range range, std::int64_t unit = 1) {
  if (range.size() * unit == x.size(axis)) return x;
  return x.narrow(axis, range.begin * unit, range.size() * unit);
}

Tensor activate(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::relu:
      return at::relu(x);
  }
  throw std::logic_error("unknown activation");
}

/// Operands of products as `compute` wants them, and results back in fp32; both are free where
/// nothing changes.
Tensor rounded(const Tensor& x, Compute compute) {
  return compute == Compute::bf16 ? x.to(at::kBFloat16) : x;
}
Tensor widened(const Tensor& x) { return x.to(at::kFloat); }

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

/// Some heads' queries, keys or values side by side. [B, N, D] -> [B, N, h·K].
Tensor project_flat(const Transformer& model, int layer, Projection which, Range heads,
                    const Tensor& x) {
  const std::string name = block_prefix(layer) + "attention." + std::string(name_of(which));
  const std::int64_t width = model.config.head_width;
  const Tensor weight = take(model[name + ".weight"], 0, heads, width);
  if (!model.config.qkv_bias) return product(x, weight, nullptr, model.compute);
  const Tensor bias = take(model[name + ".bias"], 0, heads, width);
  return product(x, weight, &bias, model.compute);
}

/// [B, N, h·K] -> [B, h, N, K], a view.
Tensor split_heads(const Tensor& x, std::int64_t head_width) {
  return x.unflatten(2, {x.size(2) / head_width, head_width}).transpose(1, 2);
}

Tensor with_weights_of(const Transformer& model, const std::string& name, const Tensor& x) {
  return linear(x, model[name + ".weight"], &model[name + ".bias"], model.compute);
}

/// Attention with its output bias. [B, N, D] -> [B, N, D].
Tensor attention(const Transformer& model, int layer, const Tensor& normed,
                 const Observer* observer) {
  const Range heads{0, layer_shape(model, layer).heads};
  const Tensor x = rounded(normed, model.compute);  // once for all three
  const Tensor q = project_flat(model, layer, Projection::query, heads, x);
  const Tensor k = project_flat(model, layer, Projection::key, heads, x);
  const Tensor v = project_flat(model, layer, Projection::value, heads, x);
  if (observer != nullptr && observer->on_attention)
    observer->on_attention(layer, widened(q), widened(k), widened(v));
  const std::int64_t width = model.config.head_width;
  const Tensor context =
      attend(split_heads(q, width), split_heads(k, width), split_heads(v, width));
  if (observer != nullptr && observer->on_context) observer->on_context(layer, widened(context));
  return with_weights_of(model, block_prefix(layer) + "attention.output", context);
}

/// Activations of some MLP columns after the non-linearity. [B, N, D] -> [B, N, columns].
Tensor mlp_activations(const Transformer& model, int layer, Range columns, const Tensor& x,
                       const Observer* observer) {
  const std::string name = block_prefix(layer) + "mlp.up";
  const Tensor bias = take(model[name + ".bias"], 0, columns);
  const Tensor h =
      activate(model.config.activation,
               product(x, take(model[name + ".weight"], 0, columns), &bias, model.compute));
  if (observer != nullptr && observer->on_mlp) observer->on_mlp(layer, widened(h));
  return h;
}

/// Square patches as rows, in the order of the projection's weight (channel, row, column). [B, c,
/// h, w] -> [B, n, c·p·p].
Tensor unfold(const Tensor& pixels, std::int64_t patch) {
  const std::int64_t rows = pixels.size(2) / patch, columns = pixels.size(3) / patch;
  return pixels.reshape({pixels.size(0), pixels.size(1), rows, patch, columns, patch})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({pixels.size(0), rows * columns, pixels.size(1) * patch * patch});
}

Tensor per_channel(const std::vector<double>& values, at::Device device) {
  const auto channels = static_cast<std::int64_t>(values.size());
  return at::tensor(values, at::kDouble).to(device, at::kFloat).view({1, channels, 1, 1});
}

}  // namespace

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

Tensor embed(const Transformer& model, const Tensor& pixels) {
  const ModelConfig& config = model.config;
  expect_dims(pixels, {-1, config.channels, config.image_height, config.image_width}, "pixels");
  const Tensor weight = model["embedding.patch.weight"].flatten(1);
  const Tensor patches =
      linear(unfold(pixels, config.patch), weight, &model["embedding.patch.bias"], model.compute);
  std::vector<Tensor> tokens;
  const std::vector<std::int64_t> shape = {pixels.size(0), 1, config.width};
  tokens.push_back(model["embedding.class_token"].expand(shape));
  if (config.learned_tokens() == 2)
    tokens.push_back(model["embedding.distillation_token"].expand(shape));
  tokens.push_back(patches);
  return at::cat(tokens, 1) + model["embedding.position"];
}

Tensor norm(const Transformer& model, const std::string& prefix, const Tensor& x) {
  return at::layer_norm(x, {x.size(-1)}, model[prefix + ".weight"], model[prefix + ".bias"],
                        model.config.norm_eps);
}

Tensor project(const Transformer& model, int layer, Projection which, Range heads,
               const Tensor& x) {
  return split_heads(widened(project_flat(model, layer, which, heads, x)), model.config.head_width);
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v) {
  const std::int64_t batch = q.size(0), heads = q.size(1), tokens = q.size(2), width = q.size(3);
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  // One matrix for each head of each image; for a single image these are views, nothing is copied.
  const Tensor scores = at::matmul(q * scale, k.transpose(2, 3));
  const Tensor context = at::matmul(at::softmax(scores, -1), v);
  return context.transpose(1, 2).reshape({batch, tokens, heads * width});
}

Tensor project_out(const Transformer& model, int layer, Range heads, const Tensor& context) {
  const Tensor& weight = model[block_prefix(layer) + "attention.output.weight"];
  return linear(context, take(weight, 1, heads, model.config.head_width), nullptr, model.compute);
}

Tensor mlp(const Transformer& model, int layer, Range columns, const Tensor& x,
           const Observer* observer) {
  const Tensor h = mlp_activations(model, layer, columns, x, observer);
  return linear(h, take(model[block_prefix(layer) + "mlp.down.weight"], 1, columns), nullptr,
                model.compute);
}

Tensor block(const Transformer& model, int layer, const Tensor& input, const Observer* observer) {
  const LayerShape& shape = layer_shape(model, layer);
  const std::string prefix = block_prefix(layer);
  Tensor x = input;
  if (shape.heads > 0)
    x = x + attention(model, layer, norm(model, prefix + "norm_attention", x), observer);
  if (shape.mlp_width > 0) {
    const Tensor normed = norm(model, prefix + "norm_mlp", x);
    const Tensor h = mlp_activations(model, layer, {0, shape.mlp_width}, normed, observer);
    x = x + with_weights_of(model, prefix + "mlp.down", h);
  }
  if (observer != nullptr && observer->on_block) observer->on_block(layer, x);
  return x;
}

Tensor features(const Transformer& model, const Tensor& pixels, const Observer* observer) {
  Tensor x = embed(model, pixels);
  for (int layer = 0; layer < static_cast<int>(model.config.layers.size()); ++layer)
    x = block(model, layer, x, observer);
  // Rows are normalised one by one, so those that nobody reads are left out.
  return norm(model, "norm", x.narrow(1, 0, model.config.summary_tokens));
}

Tensor classify(const Transformer& model, const Tensor& features) {
  const ModelConfig& config = model.config;
  expect_dims(features, {-1, config.summary_tokens, config.width}, "features");
  if (config.classes == 0)
    throw std::invalid_argument("[classify] saw a model without a classifier, needs one");
  const Tensor logits = with_weights_of(model, "head", features.select(1, 0));
  if (config.summary_tokens == 1) return logits;
  return (logits + with_weights_of(model, "head_distilled", features.select(1, 1))) / 2;
}

Tensor forward(const Transformer& model, const Tensor& pixels, const Observer* observer) {
  return classify(model, features(model, pixels, observer));
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
