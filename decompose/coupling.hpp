#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::decompose {

/// Axes of parameters that must be cut together: a connected component of the coupling graph. To
/// keep unit u of a group is to keep the elements [u·unit, (u+1)·unit) of every member's axis.
struct WidthGroup {
  /// residual (one group), heads (one for each layer with attention) or mlp (one for each layer
  /// with an MLP).
  model::Axis::Kind kind = model::Axis::Kind::fixed;
  int layer = -1;         // −1: residual
  std::int64_t size = 0;  // units
  std::int64_t unit = 1;  // elements a unit
  struct Member {
    std::string parameter;
    int axis = 0;
  };
  std::vector<Member> members;  // in the order of the forward pass
};

/// The coupling graph (Boost.Graph): a vertex for each (parameter, axis), an edge where the forward
/// pass ties two axes. Its components of axes that can be cut, in the order of the forward pass:
/// every such axis is in exactly one group. Throws std::logic_error where the pass ties axes that
/// the family describes as different.
std::vector<WidthGroup> width_groups(const model::ModelConfig& config);

}  // namespace cleave::decompose
