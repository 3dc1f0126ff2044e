#pragma once

#include <vector>

namespace cleave::optimizer {

/// Importance of what can be kept, by layer, each summing to 1 over the model; from
/// decompose::importance, or uniform when empty. Only sums are needed here: which unit is kept is
/// decided when cutting.
struct ImportanceProfile {
  std::vector<double> layers;                   // of each layer
  std::vector<std::vector<double>> heads, mlp;  // by layer, descending
  std::vector<double> channels;                 // of residual channels, descending
};

}  // namespace cleave::optimizer
