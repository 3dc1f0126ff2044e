#pragma once

#include <string>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::decompose {

/// Which axes of which parameters must be cut together: the connected components of the coupling graph.
struct WidthGroup {
  model::Axis::Kind kind = model::Axis::Kind::fixed;
  int layer = -1;
  std::int64_t size = 0;  // units
  std::int64_t unit = 1;  // elements a unit
  struct Member {
    std::string parameter;
    int axis = 0;
  };
  std::vector<Member> members;
};

/// Boost.Graph: a vertex for each (parameter, axis) that can be cut, an edge where the forward pass ties two axes.
std::vector<WidthGroup> width_groups(const model::ModelConfig& config);

}  // namespace cleave::decompose
