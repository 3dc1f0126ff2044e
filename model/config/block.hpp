#pragma once

#include <cstdint>
#include <string>

#include "model/config/config.hpp"

namespace cleave::model {

enum class Projection { query, key, value };

/// "blocks.3.": what the names of a layer's parameters begin with.
inline std::string block_prefix(int layer) { return "blocks." + std::to_string(layer) + "."; }

// How a transformer is computed, told once, over the pieces of a *machine*: libtorch computes with
// tensors (model/transformer.cpp), the coupling graph follows widths (decompose/coupling.cpp),
// prices count kernels (optimizer/plan/work.cpp). A machine has
//
//   Value                                what its pieces take and give
//   embed() -> x                         what is read, as tokens with positions
//   norm(prefix, x)                      the norm `prefix`.{weight,bias}
//   project(layer, which, x)             queries, keys or values
//   attend(layer, q, k, v) -> context    with the cache and the rotation that belong to it
//   project_out(layer, context)          with its bias
//   mlp(layer, x)                        both its products, with biases
//   add(x, added)                        into the residual stream
//   read_out(x) -> feature               what the task reads, after the last norm
//
// block() needs no embed() and no read_out(); libtorch's pass goes from block to block by itself,
// as it shows each of them to an observer. A layer may lack a half. A norm stands before each half,
// and before the feature; or behind each sum.

/// Attention on what it reads. x -> what is added.
template <class Machine>
typename Machine::Value attention(Machine& machine, int layer, const typename Machine::Value& x) {
  const auto query = machine.project(layer, Projection::query, x);
  const auto key = machine.project(layer, Projection::key, x);
  const auto value = machine.project(layer, Projection::value, x);
  return machine.project_out(layer, machine.attend(layer, query, key, value));
}

/// One whole block: x -> x.
template <class Machine>
typename Machine::Value block(Machine& machine, const ModelConfig& config, int layer,
                              typename Machine::Value x) {
  const LayerShape& shape = config.layers.at(static_cast<std::size_t>(layer));
  const bool before = config.norm_placement == NormPlacement::before;
  const auto half = [&](const char* name, const auto& inner) {
    const std::string norm = block_prefix(layer) + name;
    const auto added = inner(before ? machine.norm(norm, x) : x);  // what it read may go
    x = machine.add(x, added);
    if (!before) x = machine.norm(norm, x);
  };
  if (shape.heads > 0)
    half("norm_attention", [&](const auto& read) { return attention(machine, layer, read); });
  if (shape.mlp_width > 0)
    half("norm_mlp", [&](const auto& read) { return machine.mlp(layer, read); });
  return x;
}

/// What is read -> the model's feature.
template <class Machine>
typename Machine::Value features(Machine& machine, const ModelConfig& config) {
  typename Machine::Value x = machine.embed();
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer)
    x = block(machine, config, layer, x);
  return machine.read_out(x);
}

}  // namespace cleave::model
