#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "decompose/coupling.hpp"
#include "model/checkpoint.hpp"
#include "model/transformer.hpp"
#include "tests/decompose/teacher.hpp"

namespace cleave::testing {

inline at::Tensor seeded(const std::vector<std::int64_t>& dims, std::uint64_t seed,
                         double deviation = 1) {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::normal(0, deviation, dims, generator);
}

/// Weights large enough that every head, unit and layer changes the answer.
inline model::Transformer lively_model(const model::ModelConfig& config = tiny_config()) {
  auto model = model::random_model(config, 3);
  std::uint64_t seed = 100;
  for (auto& [name, tensor] : model.tensors) {
    const bool scale = tensor.dim() == 1 && name.find("norm") != std::string::npos &&
                       name.find("weight") != std::string::npos;
    tensor = seeded(tensor.sizes().vec(), ++seed, scale ? 0.1 : 0.5) + (scale ? 1 : 0);
  }
  return model;
}

inline std::filesystem::path lively_teacher(const Scratch& scratch,
                                            const model::ModelConfig& config = tiny_config()) {
  model::save(lively_model(config), scratch / "teacher");
  return scratch / "teacher";
}

/// Normalised pixels.
inline at::Tensor pictures(const model::ModelConfig& config, std::int64_t count) {
  return seeded({count, config.channels, config.image_height, config.image_width}, 5);
}

inline void expect_equal(const at::Tensor& a, const at::Tensor& b) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_TRUE(at::equal(a, b)) << "largest difference " << (a - b).abs().max().item<float>();
}

/// Within `relative` of the largest number.
inline void expect_near(const at::Tensor& a, const at::Tensor& b, double relative) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a - b).abs().max().item<double>(), relative * b.abs().max().item<double>());
}

/// The part of `teacher` that `keep` names.
inline model::Transformer cut(const Scratch& scratch, const std::filesystem::path& teacher,
                              const decompose::KeepList& keep) {
  decompose::slice(teacher, keep, scratch / "part");
  return model::load(scratch / "part");
}

/// Zeroes what the units that are not in `kept` add to the residual stream.
inline void mask(at::Tensor& outgoing, const std::vector<std::int64_t>& kept, std::int64_t unit) {
  at::Tensor on = at::zeros({outgoing.size(1) / unit});
  for (const auto u : kept) on[u] = 1;
  outgoing = outgoing * on.repeat_interleave(unit);
}

/// Everything but `without` of one group.
inline decompose::KeepList spare(const model::ModelConfig& config,
                                 const decompose::WidthGroup& group, std::int64_t without) {
  auto keep = decompose::keep_all(config);
  const auto layer = static_cast<std::size_t>(std::max(group.layer, 0));
  auto& list = group.kind == model::Axis::Kind::residual ? keep.channels
               : group.kind == model::Axis::Kind::heads  ? keep.heads[layer]
                                                         : keep.mlp[layer];
  list.erase(list.begin() + static_cast<std::ptrdiff_t>(without));
  return keep;
}

}  // namespace cleave::testing
