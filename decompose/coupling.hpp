#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::decompose {

/// Axes of parameters that must be cut together: a connected component of the coupling graph. To
/// keep unit u of a group is to keep the elements [u·unit, (u+1)·unit) of each member's axis.
struct WidthGroup {
  /// residual (one group), heads (one for each layer with attention; its units are the heads of
  /// keys and values, each with the queries on it) or mlp (one for each layer with an MLP).
  model::Axis::Kind kind = model::Axis::Kind::fixed;
  int layer = -1;         // −1: residual
  std::int64_t size = 0;  // units
  struct Member {
    std::string parameter;
    int axis = 0;
    /// Elements a unit: with grouped keys and values a head's keys are K, its queries G·K.
    std::int64_t unit = 1;
  };
  std::vector<Member> members;  // in the order of the forward pass
};

/// The coupling graph (Boost.Graph): a vertex for each (parameter, axis), an edge where the forward
/// pass ties two axes. Its components of axes that can be cut, in the order of the forward pass:
/// every such axis is in exactly one group. Throws std::logic_error where the pass ties axes that
/// the family describes as different.
std::vector<WidthGroup> width_groups(const model::ModelConfig& config);

}  // namespace cleave::decompose
