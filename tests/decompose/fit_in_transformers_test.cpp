#include "decompose/fit/fit.hpp"
#include "tests/decompose/fitting.hpp"
#include "tests/model/in_transformers.hpp"

// Fitted parts that are uniform are plain checkpoints: Hugging Face Transformers computes the same
// features from them, on channels and on components.

namespace cleave::decompose {
namespace {

using model::Family;
using testing::rows_of;
using testing::Scratch;

/// Half of the heads, as wide as they are together; a layer less.
KeepList uniform_cut(const model::ModelConfig& config) {
  auto keep = keep_all(config);
  const std::int64_t groups = config.layers[0].heads / config.group / 2;
  keep.layers.resize(2);
  keep.heads.resize(2);
  keep.mlp.resize(2);
  for (auto& heads : keep.heads) heads.resize(static_cast<std::size_t>(groups));
  for (auto& mlp : keep.mlp) mlp.resize(10);
  keep.channels.resize(static_cast<std::size_t>(groups * config.group * config.head_width));
  keep.classifier = false;
  return keep;
}

TEST(FitInTransformers, UniformPartsAgree) {
  std::map<std::string, model::ModelConfig> configs = {
      {"vit", testing::tiny_config()}, {"deit_distilled", testing::tiny_distilled_config()}};
  for (const Family family : {Family::bert, Family::gpt2, Family::llama, Family::qwen2})
    configs[std::string(name_of(family))] = model::testing::tiny_text_config(family);
  const Scratch scratch;
  std::vector<std::filesystem::path> folders;
  for (const auto& [name, config] : configs) {
    for (const auto stream : {Stream::channels, Stream::components}) {
      const bool rotates = stream == Stream::components;
      if (rotates && config.norm_placement == model::NormPlacement::after) continue;
      SCOPED_TRACE(name);
      const Scratch own;
      testing::lively_teacher(own, config);
      const auto keep = uniform_cut(config);
      FitOptions options;
      options.stream = stream;
      const auto rows = rows_of(config, 200);
      const auto fit = fit_parts(own / "teacher", {keep},
                                 {testing::cut(own, own / "teacher", keep)}, rows, options);
      folders.push_back(scratch / (name + (rotates ? "_components" : "_channels")));
      model::testing::write_model(fit.parts[0].model, folders.back(), model::shard_bytes);
    }
  }
  model::testing::expect_transformers_agrees(folders);
}

}  // namespace
}  // namespace cleave::decompose
