#include "calibrate/start.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "model/checkpoint.hpp"

namespace cleave::calibrate {
namespace {

constexpr double position_amplitude = 0.3;

/// [1, N, D], in place; the rows of summary tokens stay as they are.
void fill_positions(const model::ModelConfig& config, at::Tensor& positions) {
  const std::int64_t columns = config.image_width / config.patch, waves = config.width / 4;
  const std::int64_t first = config.num_tokens() - config.num_patches();
  auto values = positions.accessor<float, 3>();
  for (std::int64_t patch = 0; patch < config.num_patches(); ++patch) {
    const auto row = static_cast<double>(patch / columns),
               column = static_cast<double>(patch % columns);
    for (std::int64_t wave = 0; wave < waves; ++wave) {
      const double turn = std::pow(100.0, -static_cast<double>(wave) / static_cast<double>(waves));
      const double at[] = {std::sin(column * turn), std::cos(column * turn), std::sin(row * turn),
                           std::cos(row * turn)};
      for (std::int64_t k = 0; k < 4; ++k)
        values[0][first + patch][k * waves + wave] = static_cast<float>(position_amplitude * at[k]);
    }
  }
}

/// Glorot's deviation instead of the 0.02 that it was drawn with.
void rescale(at::Tensor& weight) {
  const auto outputs = static_cast<double>(weight.size(0));
  const auto inputs = static_cast<double>(weight.numel()) / outputs;
  weight.mul_(std::sqrt(2 / (inputs + outputs)) / 0.02);
}

/// Two matrices [rank, D] whose product aᵀ·b is nearest to noise·Z + same·I.
std::pair<at::Tensor, at::Tensor> factors(std::int64_t width, std::int64_t rank, double noise,
                                          double same, at::Generator& generator) {
  const at::Tensor z =
      at::normal(0, 1 / std::sqrt(static_cast<double>(width)), {width, width}, generator);
  const auto [u, s, v] = at::linalg_svd(noise * z + same * at::eye(width));
  const at::Tensor root = s.narrow(0, 0, rank).sqrt().unsqueeze(1);
  return {root * u.t().narrow(0, 0, rank), root * v.narrow(0, 0, rank)};
}

void start_attention(const model::ModelConfig& config, int layer, at::Generator& generator,
                     model::Transformer& model) {
  const std::int64_t heads = config.layers[static_cast<std::size_t>(layer)].heads,
                     width = config.head_width;
  const std::int64_t rank = std::min(width, config.width);
  const std::string prefix = "blocks." + std::to_string(layer) + ".attention.";
  at::Tensor query = model.tensors.at(prefix + "query.weight"),
             key = model.tensors.at(prefix + "key.weight");
  for (std::int64_t head = 0; head < heads; ++head) {
    const auto [q, k] = factors(config.width, rank, 0.7, 0.7, generator);
    query.narrow(0, head * width, rank).copy_(q);
    key.narrow(0, head * width, rank).copy_(k);
  }
  const std::int64_t inner = std::min(heads * width, config.width);
  const auto [v, o] = factors(config.width, inner, 0.4, -0.4, generator);
  model.tensors.at(prefix + "value.weight").narrow(0, 0, inner).copy_(v);
  model.tensors.at(prefix + "output.weight").narrow(1, 0, inner).copy_(o.t());
}

}  // namespace

model::Transformer starting_point(const model::ModelConfig& config, std::uint64_t seed) {
  model::Transformer model = model::random_model(config, seed);
  if (config.is_text()) {
    // GPT-2's way: what each half adds begins small, so that the stream does not grow with depth.
    const double share = 1 / std::sqrt(2 * static_cast<double>(config.num_layers()));
    for (auto& [name, tensor] : model.tensors)
      if (name.find("attention.output.weight") != std::string::npos ||
          name.find("mlp.down.weight") != std::string::npos)
        tensor.mul_(share);
    return model;
  }
  for (auto& [name, tensor] : model.tensors)
    if ((tensor.dim() == 2 || tensor.dim() == 4) && name.rfind("head", 0) != 0) rescale(tensor);
  fill_positions(config, model.tensors.at("embedding.position"));
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  for (int layer = 0; layer < static_cast<int>(config.num_layers()); ++layer)
    if (config.layers[static_cast<std::size_t>(layer)].heads > 0)
      start_attention(config, layer, generator, model);
  return model;
}

}  // namespace cleave::calibrate
