#include "calibrate/forward.hpp"

#include <string>

#include <ATen/ATen.h>

namespace cleave::calibrate {
namespace {

using model::Projection;
using model::Range;

/// The last block of rows 0 … rows − 1; all rows are looked at. [B, N, D] -> [B, rows, D].
at::Tensor last_block(const model::Transformer& model, int layer, const at::Tensor& x,
                      std::int64_t rows) {
  const model::LayerShape& shape = model.config.layers[static_cast<std::size_t>(layer)];
  const std::string prefix = "blocks." + std::to_string(layer) + ".";
  const Range heads{0, shape.heads}, columns{0, shape.mlp_width};
  at::Tensor y = x.narrow(1, 0, rows);
  if (shape.heads > 0) {
    const at::Tensor normed = model::norm(model, prefix + "norm_attention", x);
    const at::Tensor context = model::attend(
        model, layer, {},
        model::project(model, layer, Projection::query, heads, normed.narrow(1, 0, rows)),
        model::project(model, layer, Projection::key, heads, normed),
        model::project(model, layer, Projection::value, heads, normed));
    y = y + model::project_out(model, layer, heads, context) +
        model[prefix + "attention.output.bias"];
  }
  if (shape.mlp_width > 0) {
    const at::Tensor normed = model::norm(model, prefix + "norm_mlp", y);
    y = y + model::mlp_down(model, layer, columns, model::mlp_up(model, layer, columns, normed)) +
        model[prefix + "mlp.down.bias"];
  }
  return y;
}

}  // namespace

at::Tensor summary_features(const model::Transformer& model, const at::Tensor& inputs,
                            const model::Observer* observer) {
  const int last = static_cast<int>(model.config.num_layers()) - 1;
  // What an observer wants to see of the last block is all of it.
  const model::ModelConfig& config = model.config;
  if (observer != nullptr || last < 0 || config.is_text())
    return model::features(model, inputs, observer);
  at::Tensor x = model::embed(model, inputs);
  for (int layer = 0; layer < last; ++layer) x = model::block(model, layer, x);
  return model::norm(model, "norm", last_block(model, last, x, config.summary_tokens));
}

TokenFeatures token_features(const model::Transformer& model, const at::Tensor& inputs,
                             const model::Observer* observer) {
  const model::Sight sight = model::sight(model, inputs);
  at::Tensor x = model::embed(model, inputs);
  for (int layer = 0; layer < static_cast<int>(model.config.num_layers()); ++layer)
    x = model::block(model, layer, x, sight, observer);
  const bool before = model.config.norm_placement == model::NormPlacement::before;
  return {before ? model::norm(model, "norm", x) : x, model::read_out(model, x, sight)};
}

}  // namespace cleave::calibrate
