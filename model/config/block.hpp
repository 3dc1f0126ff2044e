#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/config/config.hpp"

namespace cleave::model {

enum class Projection { query, key, value };
enum class Half { attention, mlp };
/// What a norm belongs to: the embedded tokens, a half of a layer, or the feature.
enum class NormOf { embedding, attention, mlp, feature };

std::string_view name_of(Projection which);
std::string_view name_of(Half half);
std::string_view name_of(NormOf which);

/// "blocks.3.": what the names of a layer's parameters begin with.
inline std::string block_prefix(int layer) { return "blocks." + std::to_string(layer) + "."; }
/// "blocks.3.attention.query", "blocks.3.norm_mlp", "embedding.norm", …: what the names of a
/// piece's weight and bias begin with.
std::string projection_prefix(int layer, Projection which);
std::string norm_prefix(int layer, NormOf which);
/// Whether a norm stands behind the embedded tokens.
bool norms_embedding(const ModelConfig& config);
/// What a half writes into the stream: "blocks.3.attention.output", "blocks.3.mlp.down".
std::string output_prefix(int layer, Half half);

// How a transformer is computed, told once, over the pieces of a *machine*: libtorch computes with
// tensors (model/transformer.cpp), the coupling graph follows widths (decompose/coupling.cpp),
// prices count kernels (optimizer/plan/work.cpp). A machine has
//
//   Value                                what its pieces take and give
//   embed() -> x                         what is read, as tokens with positions, before their norm
//   norm(layer, which, x)                its norm; a layer's, or of the embedding or the feature
//   project(layer, which, x)             queries, keys or values
//   attend(layer, q, k, v) -> context    with the cache and the rotation that belong to it
//   project_out(layer, context)          with its bias
//   mlp_up(layer, x) -> activations      behind the non-linearity, and the gate
//   mlp_down(layer, activations)         with its bias
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
  const auto half = [&](NormOf which, const auto& inner) {
    const auto added = inner(before ? machine.norm(layer, which, x) : x);  // what it read may go
    x = machine.add(x, added);
    if (!before) x = machine.norm(layer, which, x);
  };
  if (shape.heads > 0)
    half(NormOf::attention, [&](const auto& read) { return attention(machine, layer, read); });
  if (shape.mlp_width > 0)
    half(NormOf::mlp,
         [&](const auto& read) { return machine.mlp_down(layer, machine.mlp_up(layer, read)); });
  return x;
}

/// What is read -> what the first block gets.
template <class Machine>
typename Machine::Value embedded(Machine& machine, const ModelConfig& config) {
  const auto x = machine.embed();
  return norms_embedding(config) ? machine.norm(-1, NormOf::embedding, x) : x;
}

/// What is read -> what the last block gives.
template <class Machine>
typename Machine::Value states(Machine& machine, const ModelConfig& config) {
  auto x = embedded(machine, config);
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer)
    x = block(machine, config, layer, x);
  return x;
}

/// What is read -> the model's feature.
template <class Machine>
typename Machine::Value features(Machine& machine, const ModelConfig& config) {
  return machine.read_out(states(machine, config));
}

}  // namespace cleave::model
