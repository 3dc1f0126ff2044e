#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/progress.hpp"
#include "model/dataset.hpp"
#include "model/transformer.hpp"
#include "optimizer/decomposed/importance_profile.hpp"

namespace cleave::decompose {

/// Importance of every unit that can be kept or cut; larger is worth more. Heads (MLP units)
/// compare within a layer and between layers, with channels and layers they do not.
struct Importance {
  std::vector<double> channels;            // [D] residual channels
  std::vector<std::vector<double>> heads;  // [L][H_l]
  std::vector<std::vector<double>> mlp;    // [L][F_l]
  std::vector<double> layers;              // [L]
  /// Throws std::invalid_argument "[importance] heads[3]: saw 4 values, needs 12" where it is not
  /// one of `config`.
  void check(const model::ModelConfig& config) const;
};

struct ImportanceOptions {
  std::int64_t batch = 64;
  /// score = taylor · first-order loss change + (1 − taylor) · activation energy, each normalised
  /// to sum 1 in its group.
  double taylor = 0.5;
  /// Throws std::invalid_argument.
  void check() const;
};

/// From images or texts. The first-order change of the loss without a unit is |Σ a·∂loss/∂a| over
/// its activations in a row of the data, which equals |Σ w·∂loss/∂w| over its outgoing weights
/// (Molchanov et al. 2019), averaged over rows; the energy is that of what the unit adds to the
/// residual stream. What only fills up a row has no part in either. Channels sum both over the
/// blocks; a layer's own are of what it adds. Labels are the data's, or the teacher's answers where
/// the data has none. Throws std::invalid_argument: no rows, no head. `progress` counts batches;
/// std::runtime_error where it asks to stop.
Importance measure_importance(const model::Transformer& teacher, const model::Dataset& data,
                              const ImportanceOptions& options = {},
                              const base::ProgressCallback& progress = {});
/// From weight norms alone, tensor by tensor, where the model is too large for gradients.
Importance weight_importance(const std::filesystem::path& teacher);

/// What the planner needs: sums to 1 over the model for each kind, units descending in each layer.
optimizer::ImportanceProfile summarise(const Importance& importance);

}  // namespace cleave::decompose
