// What slice() writes, run: a cut model computes what the teacher computes without the units that
// were cut.
#include <cstdlib>

#include <gtest/gtest.h>

#include "decompose/coupling.hpp"
#include "decompose/slice.hpp"
#include "tests/decompose/running.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using model::Axis;
using testing::cut;
using testing::expect_equal;
using testing::expect_near;
using testing::lively_model;
using testing::lively_teacher;
using testing::mask;
using testing::pictures;
using testing::Scratch;
using testing::spare;
using testing::tiny_config;

TEST(CutModel, KeepingEverythingChangesNothing) {
  for (const auto& config : {tiny_config(), testing::tiny_distilled_config()}) {
    const Scratch scratch;
    const auto part = cut(scratch, lively_teacher(scratch, config), keep_all(config));
    const auto x = pictures(config, 3);
    expect_equal(model::features(part, x), model::features(lively_model(config), x));
    expect_equal(model::forward(part, x), model::forward(lively_model(config), x));
  }
}

TEST(CutModel, WithoutHeadsAndMlpUnitsIsTheTeacherWithThemMasked) {
  const Scratch scratch;
  const auto config = tiny_config();
  auto keep = keep_all(config);
  keep.heads = {{0, 2}, {1}, {1, 2}};
  keep.mlp = {{1, 2, 3, 11, 19}, {0, 15}, {4}};
  const auto part = cut(scratch, lively_teacher(scratch), keep);
  auto masked = lively_model();
  for (std::size_t l = 0; l < keep.layers.size(); ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    mask(masked.tensors[block + "attention.output.weight"], keep.heads[l], config.head_width);
    mask(masked.tensors[block + "mlp.down.weight"], keep.mlp[l], 1);
  }
  const auto x = pictures(config, 4);
  expect_near(model::forward(part, x), model::forward(masked, x), 2e-6);
}

TEST(CutModel, WithoutLayersIsTheTeacherWithTheirBlocksSkipped) {
  const Scratch scratch;
  const auto config = tiny_config();
  auto keep = keep_all(config);
  for (auto* lists : {&keep.heads, &keep.mlp}) lists->erase(lists->begin() + 1);
  keep.layers = {0, 2};
  const auto part = cut(scratch, lively_teacher(scratch), keep);
  const auto teacher = lively_model();
  const auto pixels = pictures(config, 4);
  const auto x = model::block(teacher, 2, model::block(teacher, 0, model::embed(teacher, pixels)));
  expect_equal(model::features(part, pixels), model::norm(teacher, "norm", x.narrow(1, 0, 1)));
}

TEST(CutModel, WithoutTheClassifierGivesTheSameFeatures) {
  const Scratch scratch;
  auto keep = testing::tiny_keep();
  const auto teacher = lively_teacher(scratch);
  const auto x = pictures(tiny_config(), 2);
  const auto with = model::features(cut(scratch, teacher, keep), x);
  keep.classifier = false;
  expect_equal(model::features(cut(scratch, teacher, keep), x), with);
}

TEST(CutModel, CuttingAnyGroupAnywhereLeavesAModelThatRuns) {
  for (const auto& config : {tiny_config(), testing::tiny_distilled_config()}) {
    const Scratch scratch;
    const auto teacher = lively_teacher(scratch, config);
    const auto x = pictures(config, 2);
    const auto whole = model::forward(lively_model(config), x);
    for (const auto& group : width_groups(config)) {
      for (const std::int64_t unit : {std::int64_t{0}, group.size - 1}) {
        const auto logits = model::forward(cut(scratch, teacher, spare(config, group, unit)), x);
        ASSERT_EQ(logits.sizes(), whole.sizes());
        EXPECT_TRUE(logits.isfinite().all().item<bool>());
        EXPECT_FALSE(at::allclose(logits, whole)) << "layer " << group.layer << " unit " << unit;
      }
    }
  }
}

/// 16 of 24 channels, two of three heads (others in each layer), half of the MLP, two of three
/// layers: D = H·K again.
KeepList uniform_keep() {
  KeepList keep;
  keep.layers = {0, 2};
  for (std::int64_t c = 0; c < 24; ++c) {
    if (c % 3 != 1) keep.channels.push_back(c);
  }
  keep.heads = {{0, 2}, {1, 2}};
  keep.mlp.resize(2);
  for (std::int64_t u = 0; u < 40; u += 2) {
    keep.mlp[0].push_back(u);
    keep.mlp[1].push_back(u + 1);
  }
  return keep;
}

// The goldens are such parts as Transformers loaded and ran them
// (tests/goldens/make_part_goldens.py).
TEST(CutModel, IsWhatTransformersLoadsWhereItIsUniform) {
  const std::filesystem::path goldens = std::filesystem::path(CLEAVE_SOURCE_DIR) / "tests/goldens";
  for (const std::string name : {"vit", "deit_distilled_f16"}) {
    const Scratch scratch;
    const auto part = cut(scratch, goldens / "models" / name, uniform_keep());
    EXPECT_TRUE(part.config.is_uniform());
    if (std::getenv("CLEAVE_WRITE_GOLDENS") != nullptr) {
      slice(goldens / "models" / name, uniform_keep(), goldens / "parts" / name);
      continue;
    }
    for (const char* file : {"config.json", "preprocessor_config.json", "model.safetensors"}) {
      EXPECT_EQ(base::read_text(scratch.path() / "part" / file),
                base::read_text(goldens / "parts" / name / file))
          << file;
    }
    const model::TensorFiles files(goldens / "parts" / name / "golden.safetensors");
    const auto golden = [&](const std::string& key) {
      return model::read_tensor(files, files.at(key));
    };
    expect_near(model::features(part, golden("pixels")), golden("features"), 1e-5);
    expect_near(model::forward(part, golden("pixels")), golden("logits"), 1e-5);
  }
}

}  // namespace
}  // namespace cleave::decompose
