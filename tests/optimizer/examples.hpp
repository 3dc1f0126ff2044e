#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/program.hpp"
#include "optimizer/plan/strategies/shared_pass.hpp"

namespace cleave::examples {

/// What continues texts that have tokens already.
inline plan::RequestShape continuing(std::int64_t batch, std::int64_t tokens) {
  plan::RequestShape shape;
  shape.batch = batch;
  shape.tokens = tokens;
  shape.continues = true;
  return shape;
}
/// Of a causal language model, answered for every token.
inline plan::RequestShape every_token(std::int64_t batch, std::int64_t tokens) {
  plan::RequestShape shape;
  shape.batch = batch;
  shape.tokens = tokens;
  shape.every_token = true;
  return shape;
}

/// A ViT of this shape: every layer alike, head width D / H, MLP width 4 D.
inline model::ModelConfig vit(std::int64_t layers, std::int64_t width, std::int64_t heads,
                              std::int64_t image, std::int64_t patch, std::int64_t channels,
                              std::int64_t classes) {
  model::ModelConfig config;
  config.width = width;
  config.head_width = width / heads;
  config.layers.assign(static_cast<std::size_t>(layers), {heads, 4 * width});
  config.image_height = config.image_width = image;
  config.patch = patch;
  config.channels = channels;
  config.classes = classes;
  config.processing.height = config.processing.width = image;
  config.processing.mean.assign(static_cast<std::size_t>(channels), 0.5);
  config.processing.std.assign(static_cast<std::size_t>(channels), 0.5);
  return config;
}

/// 50 tokens, 2.7 M parameters.
inline model::ModelConfig fashion_vit() { return vit(6, 192, 6, 28, 4, 1, 10); }
inline model::ModelConfig vit_base() { return vit(12, 768, 12, 224, 16, 3, 1000); }
inline model::ModelConfig vit_large() { return vit(24, 1024, 16, 224, 16, 3, 1000); }

/// A Llama: `group` queries on each head of keys and values, a gated MLP, rotary positions.
inline model::ModelConfig llama(std::int64_t layers, std::int64_t width, std::int64_t heads,
                                std::int64_t group, std::int64_t mlp_width, std::int64_t vocabulary,
                                std::int64_t context) {
  model::ModelConfig config;
  config.family = model::Family::llama;
  config.task = model::Task::causal_lm;
  config.causal = true;
  config.width = width;
  config.head_width = width / heads;
  config.group = group;
  config.layers.assign(static_cast<std::size_t>(layers), {heads, mlp_width});
  config.gated = true;
  config.activation = model::Activation::silu;
  config.norm_kind = model::NormKind::rms;
  config.qkv_bias = config.output_bias = config.mlp_bias = false;
  config.rotary_base = 10000;
  config.vocabulary = config.classes = vocabulary;
  config.context = context;
  return config;
}

/// 4 layers, 12 heads on 4 of keys and values, 192 wide: 1.7 M parameters beside 500 tokens.
inline model::ModelConfig small_llama() { return llama(4, 192, 12, 3, 512, 500, 2048); }
/// Two texts of 100 tokens, 60 more of each.
inline plan::RequestShape generated_texts() { return {2, 100, 60}; }

/// A device at `speed` times 60 GFLOP/s and 10 GB/s, as one writes it by hand.
inline plan::Device device(const std::string& name, double speed, double memory_bytes = 8e9) {
  plan::Device made;
  made.name = name;
  made.memory_bytes = memory_bytes;
  made.speed = speed;
  for (plan::KernelCost& cost : made.profile.cost.kernels) cost = {5e-6, 60e9, 10e9};
  made.profile.cost.instruction_s = 20e-6;
  made.profile.cost.message_s = 100e-6;
  made.profile.runtime_bytes = 175e6;
  return made;
}

inline plan::Fleet fleet(std::vector<plan::Device> devices, double bytes_per_s = 12.5e6,
                         double latency_s = 0.3e-3) {
  plan::Fleet made;
  made.may_aggregate.assign(devices.size(), true);
  made.devices = std::move(devices);
  made.default_link = {bytes_per_s, latency_s};
  return made;
}

/// Speeds 1 : 0.6 : 0.35.
inline plan::Fleet three_devices(double memory_bytes = 8e9) {
  return fleet({device("hub", 1, memory_bytes), device("box", 0.6, memory_bytes),
                device("cam", 0.35, memory_bytes)});
}

/// A part that keeps the first `layers` layers of the teacher, cut to these widths.
inline plan::PlanPart part(const model::ModelConfig& teacher, const std::string& device,
                           std::int64_t layers, std::int64_t width, std::int64_t heads,
                           std::int64_t mlp_width) {
  plan::PlanPart made;
  made.device = device;
  made.sub_model().config = teacher;
  made.sub_model().config.width = width;
  made.sub_model().config.layers.assign(static_cast<std::size_t>(layers), {heads, mlp_width});
  for (std::int64_t layer = 0; layer < layers; ++layer) made.sub_model().layers.push_back(layer);
  return made;
}

inline plan::Plan plan_of(const model::ModelConfig& teacher, std::vector<plan::PlanPart> parts,
                          const std::string& aggregator, const std::string& strategy) {
  plan::Plan made;
  made.strategy = strategy;
  made.teacher = teacher;
  made.parts = std::move(parts);
  made.aggregator = aggregator;
  return made;
}

/// "d0", "d1" …
inline std::string nth_device(std::size_t rank) {
  return std::string(1, 'd') += std::to_string(rank);
}

/// Heads, columns and vocabulary equal up to one unit.
inline plan::Plan tensor_plan(const model::ModelConfig& teacher, std::size_t devices) {
  std::vector<plan::PlanPart> parts;
  for (const plan::Share& share :
       plan::find_strategy("tensor").propose(teacher, std::vector<plan::Capacity>(devices)))
    parts.push_back({nth_device(parts.size()), share});
  return plan_of(teacher, std::move(parts), "d0", "tensor");
}

/// Rows in proportion 3 : 1 : 1 …; a fifth device has none.
inline plan::Plan voltage_plan(const model::ModelConfig& teacher, std::size_t devices) {
  std::vector<plan::PlanPart> parts;
  for (std::size_t p = 0; p < devices; ++p) {
    plan::Share share = plan::whole_share(teacher);
    share.rows = p == 0 ? 3 : p == 4 ? 0 : 1;
    parts.push_back({nth_device(p), share});
  }
  return plan_of(teacher, std::move(parts), "d0", "voltage");
}

/// Heads in proportion 8 : 1 : 2 : 1, columns 3 : 2 : 2 : 2 : 2, tokens 1 : 3 : 1 : 0 : 2; a fifth
/// device has no heads.
inline std::vector<plan::Share> uneven_shares(const model::ModelConfig& teacher,
                                              std::size_t devices) {
  const auto by = [&](std::vector<std::int64_t> weights) {
    weights.resize(devices);
    return plan::shares_by_weight(teacher, weights);
  };
  std::vector<plan::Share> shares = by({8, 1, 2, 1, 0});
  const std::vector<plan::Share> columns = by({3, 2, 2, 2, 2}), tokens = by({1, 3, 1, 0, 2});
  for (std::size_t p = 0; p < devices; ++p) {
    for (std::size_t l = 0; l < teacher.layers.size(); ++l)
      shares[p].layers[l].columns = columns[p].layers[l].columns;
    shares[p].vocabulary = tokens[p].vocabulary;
  }
  return shares;
}

inline plan::Plan uneven_plan(const model::ModelConfig& teacher, std::vector<plan::Share> shares,
                              const std::string& strategy) {
  std::vector<plan::PlanPart> parts;
  for (plan::Share& share : shares) parts.push_back({nth_device(parts.size()), std::move(share)});
  return plan_of(teacher, std::move(parts), "d0", strategy);
}

inline plan::Plan hepti_rows_plan(const model::ModelConfig& teacher, std::size_t devices) {
  plan::Plan made = voltage_plan(teacher, devices);
  made.strategy = "hepti";
  return made;
}

/// Rows of attention, 1 : 3 : 1 …, and columns.
inline plan::Plan hepti_columns_plan(const model::ModelConfig& teacher, std::size_t devices) {
  std::vector<plan::Share> shares = uneven_shares(teacher, devices);
  for (std::size_t p = 0; p < devices; ++p) {
    shares[p].rows = p == 1 ? 3 : 1;
    for (std::size_t l = 0; l < teacher.layers.size(); ++l)
      shares[p].layers[l].heads = plan::whole_share(teacher).layers[l].heads;
  }
  return uneven_plan(teacher, std::move(shares), "hepti");
}

inline plan::Plan hepti_heads_plan(const model::ModelConfig& teacher, std::size_t devices) {
  return uneven_plan(teacher, uneven_shares(teacher, devices), "hepti");
}

/// Rows 1 : 3 : 1 …, with products beside the transfers.
inline plan::Plan galaxy_plan(const model::ModelConfig& teacher, std::size_t devices) {
  std::vector<plan::Share> shares = uneven_shares(teacher, devices);
  for (std::size_t p = 0; p < devices; ++p) shares[p].rows = p == 1 ? 3 : 1;
  plan::Plan made = uneven_plan(teacher, std::move(shares), "galaxy");
  made.overlap = true;
  return made;
}

/// The same rows, which the others see as segments of two.
inline plan::Plan prism_plan(const model::ModelConfig& teacher, std::size_t devices) {
  plan::Plan made = voltage_plan(teacher, devices);
  made.strategy = "prism";
  made.segments.emplace();
  made.segments->compression = {200};
  return made;
}

/// A layer on each device, and on the first one what is left over.
inline plan::Plan pipeline_plan(const model::ModelConfig& teacher, std::size_t devices) {
  const plan::Share all = plan::whole_share(teacher);
  std::vector<plan::PlanPart> parts;
  std::size_t begin = 0;
  for (std::size_t p = 0; p < devices; ++p) {
    const std::size_t end = p == 0 ? all.layers.size() - (devices - 1) : begin + 1;
    plan::Share share;
    share.layers.resize(all.layers.size());
    for (; begin < end; ++begin) share.layers[begin] = all.layers[begin];
    parts.push_back({nth_device(p), share});
  }
  return plan_of(teacher, std::move(parts), "d0", "pipeline");
}

}  // namespace cleave::examples
