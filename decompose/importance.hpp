#pragma once

#include <filesystem>
#include <vector>

#include "model/dataset.hpp"
#include "model/transformer.hpp"
#include "optimizer/search.hpp"

namespace cleave::decompose {

/// Importance of every unit that can be kept or cut; larger is worth more. Not normalised across
/// groups.
struct Importance {
  std::vector<double> channels;            // [D] residual channels
  std::vector<std::vector<double>> heads;  // [L][H_l]
  std::vector<std::vector<double>> mlp;    // [L][F_l]
  std::vector<double> layers;              // [L]
};

struct ImportanceOptions {
  /// Images of the calibration data that gradients and activations are taken on.
  std::int64_t images = 512;
  std::int64_t batch = 64;
  /// score = taylor · |w·∂loss/∂w| + (1 − taylor) · activation energy, each normalised to sum 1 in
  /// its group.
  double taylor = 0.7;
};

/// From a batch: first-order Taylor |w·grad| (Molchanov et al. 2019) and activation energy.
Importance measure_importance(const model::Transformer& teacher, const model::Dataset& data,
                              const ImportanceOptions& options = {});
/// From weight norms alone, tensor by tensor, where the model is too large for gradients.
Importance weight_importance(const std::filesystem::path& teacher);

optimizer::ImportanceProfile summarise(const Importance& importance);

}  // namespace cleave::decompose
