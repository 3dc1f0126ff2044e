#include "decompose/coupling.hpp"

#include <map>
#include <optional>
#include <stdexcept>
#include <utility>

#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/connected_components.hpp>

#include "model/config/block.hpp"

namespace cleave::decompose {
namespace {

using model::Axis;

using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::undirectedS>;
using Vertex = Graph::vertex_descriptor;

/// One vertex, spelt out.
struct ParameterAxis {
  std::string parameter;
  int number = 0;
  Axis axis;
};

/// Follows the forward pass once with axes in place of numbers: a value is the axis that its last
/// dimension counts, and where the pass adds, scales or multiplies, the two axes that meet are
/// tied.
class Walk {
 public:
  explicit Walk(const model::ModelConfig& config) : config_(config) {
    for (const auto& parameter : model::parameters(config)) {
      for (std::size_t i = 0; i < parameter.axes.size(); ++i) {
        const int number = static_cast<int>(i);
        vertices_[{parameter.name, number}] = boost::add_vertex(graph_);
        axes_.push_back({parameter.name, number, parameter.axes[i]});
      }
    }
    const Vertex features = model::features(*this, config);
    // What stands between features and head is as wide as the residual stream, so that plain
    // Transformers loads a part, too.
    if (const auto pooled = linear("pooler", features)) tie(features, *pooled);
    if (const auto transformed = linear("head_transform", features))
      tie_norm("head_norm", tie(features, *transformed));
    linear("head", features);
    linear("head_distilled", features);
  }

  // ---- the pieces of model/config/block.hpp ----

  using Value = Vertex;
  Vertex embed() { return config_.is_text() ? text() : image(); }
  Vertex norm(int layer, model::NormOf which, Vertex x) {
    return tie_norm(model::norm_prefix(layer, which), x);
  }
  Vertex project(int layer, model::Projection which, Vertex x) {
    return *linear(model::projection_prefix(layer, which), x);
  }
  /// Ties each query head with the keys and values that it shares.
  Vertex attend(int, Vertex query, Vertex key, Vertex value) {
    tie(query, key);
    return tie(key, value);
  }
  Vertex project_out(int layer, Vertex context) {
    return *linear(model::output_prefix(layer, model::Half::attention), context);
  }
  Vertex mlp_up(int layer, Vertex x) {
    const std::string name = model::block_prefix(layer) + "mlp.";
    const Vertex columns = *linear(name + "up", x);
    if (const auto gate = linear(name + "gate", x)) tie(columns, *gate);
    return columns;
  }
  Vertex mlp_down(int layer, Vertex columns) {
    return *linear(model::output_prefix(layer, model::Half::mlp), columns);
  }
  Vertex add(Vertex x, Vertex added) { return tie(x, added); }
  Vertex read_out(Vertex x) { return norm(-1, model::NormOf::feature, x); }

  // ---- what it found ----

  const std::vector<ParameterAxis>& axes() const { return axes_; }

  /// Component of each vertex, numbered in the order of the vertices.
  std::vector<std::size_t> components() const {
    std::vector<std::size_t> component(boost::num_vertices(graph_));
    boost::connected_components(graph_, component.data());
    return component;
  }

 private:
  Vertex text() {
    const Vertex tokens = at("embedding.token", 1);
    tie_if_there(tokens, "embedding.position", 1);
    tie_if_there(tokens, "embedding.type", 1);
    return tokens;
  }

  Vertex image() {
    const Vertex tokens = at("embedding.patch.weight", 0);
    tie_if_there(tokens, "embedding.patch.bias", 0);
    tie_if_there(tokens, "embedding.class_token", 2);
    tie_if_there(tokens, "embedding.distillation_token", 2);
    tie_if_there(tokens, "embedding.position", 2);
    return tokens;
  }

  /// Absent where the model has no such layer (a model without a classifier).
  std::optional<Vertex> linear(const std::string& name, Vertex x) {
    if (!tie_if_there(x, name + ".weight", 1)) return std::nullopt;
    const Vertex result = at(name + ".weight", 0);
    tie_if_there(result, name + ".bias", 0);
    return result;
  }

  Vertex tie_norm(const std::string& prefix, Vertex x) {
    tie_if_there(x, prefix + ".weight", 0);
    tie_if_there(x, prefix + ".bias", 0);
    return x;
  }

  Vertex at(const std::string& parameter, int axis) const {
    const auto found = vertices_.find({parameter, axis});
    if (found == vertices_.end()) {
      throw std::logic_error("[coupling] " + parameter + ": the model's parameters have no axis " +
                             std::to_string(axis) + " of it");
    }
    return found->second;
  }

  Vertex tie(Vertex a, Vertex b) {
    boost::add_edge(a, b, graph_);
    return a;
  }

  bool tie_if_there(Vertex x, const std::string& parameter, int axis) {
    if (vertices_.count({parameter, axis}) == 0) return false;
    tie(x, at(parameter, axis));
    return true;
  }

  const model::ModelConfig& config_;
  Graph graph_;
  std::vector<ParameterAxis> axes_;
  std::map<std::pair<std::string, int>, Vertex> vertices_;
};

WidthGroup group_of(const Axis& axis) {
  WidthGroup group;
  group.kind = axis.kind;
  group.layer = axis.kind == Axis::Kind::residual ? -1 : axis.layer;
  group.size = axis.size / axis.unit;
  return group;
}

bool same_units(const WidthGroup& a, const WidthGroup& b) {
  return a.kind == b.kind && a.layer == b.layer && a.size == b.size;
}

}  // namespace

std::vector<WidthGroup> width_groups(const model::ModelConfig& config) {
  const Walk walk(config);
  const auto components = walk.components();
  std::vector<WidthGroup> by_component;
  for (std::size_t v = 0; v < components.size(); ++v) {
    const auto& [parameter, number, axis] = walk.axes()[v];
    const WidthGroup described = group_of(axis);
    if (components[v] == by_component.size()) by_component.push_back(described);
    WidthGroup& group = by_component[components[v]];
    if (!same_units(group, described)) {
      throw std::logic_error("[coupling] " + parameter + " axis " + std::to_string(number) +
                             ": the forward pass ties it to an axis of another size or kind");
    }
    group.members.push_back({parameter, number, axis.unit});
  }
  std::vector<WidthGroup> groups;
  for (auto& group : by_component) {
    if (group.kind != Axis::Kind::fixed) groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace cleave::decompose
