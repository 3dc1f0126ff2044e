// As cut_model_test, of the families that read texts.
#include <cstdlib>
#include <cstring>
#include <numeric>

#include <gtest/gtest.h>

#include "decompose/coupling.hpp"
#include "decompose/slice.hpp"
#include "model/config/hugging_face.hpp"
#include "tests/decompose/running.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using model::Axis;
using model::Family;
using testing::cut;
using testing::expect_equal;
using testing::expect_near;
using testing::lively_model;
using testing::lively_teacher;
using testing::mask;
using testing::Scratch;
using testing::spare;

/// Three unlike layers of width 16; the heads of Llama and its like share keys and values in twos.
model::ModelConfig config_of(Family family) {
  auto config = model::testing::tiny_text_config(family);
  config.layers = {{4, 20}, {2, 12}, {4, 10}};
  return config;
}

/// Texts of 7, 3 and 1 tokens.
Tensor texts(const model::ModelConfig& config) {
  Tensor ids = at::full({3, 7}, -1, at::kLong);
  const std::int64_t lengths[] = {7, 3, 1};
  for (std::int64_t row = 0; row < 3; ++row)
    for (std::int64_t i = 0; i < lengths[row]; ++i)
      ids[row][i] = (5 * row + 3 * i + 1) % config.vocabulary;
  return ids;
}

class CutText : public ::testing::TestWithParam<Family> {};
INSTANTIATE_TEST_SUITE_P(Families, CutText, ::testing::ValuesIn(model::testing::text_families),
                         [](const auto& name) { return std::string(name_of(name.param)); });

TEST_P(CutText, KeepingEverythingChangesNothing) {
  const Scratch scratch;
  const auto config = config_of(GetParam());
  const auto part = cut(scratch, lively_teacher(scratch, config), keep_all(config));
  expect_equal(model::forward(part, texts(config)),
               model::forward(lively_model(config), texts(config)));
}

TEST_P(CutText, WithoutHeadsAndMlpUnitsIsTheTeacherWithThemMasked) {
  const Scratch scratch;
  const auto config = config_of(GetParam());
  auto keep = keep_all(config);
  // Of Llama's, groups: its queries go with their keys and values.
  keep.heads = config.group == 2 ? std::vector<std::vector<std::int64_t>>{{1}, {0}, {0}}
                                 : std::vector<std::vector<std::int64_t>>{{0, 2}, {1}, {1, 2, 3}};
  keep.mlp = {{1, 2, 3, 11, 19}, {0, 11}, {4}};
  const auto part = cut(scratch, lively_teacher(scratch, config), keep);
  EXPECT_EQ(part.config.layers[0].heads, 2);
  auto masked = lively_model(config);
  for (std::size_t l = 0; l < keep.layers.size(); ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    mask(masked.tensors[block + "attention.output.weight"], keep.heads[l],
         config.head_width * config.group);
    mask(masked.tensors[block + "mlp.down.weight"], keep.mlp[l], 1);
  }
  expect_near(model::forward(part, texts(config)), model::forward(masked, texts(config)), 3e-6);
}

TEST_P(CutText, WithoutALayerIsTheTeacherWithItsBlockSkipped) {
  const Scratch scratch;
  const auto config = config_of(GetParam());
  auto keep = keep_all(config);
  for (auto* lists : {&keep.heads, &keep.mlp}) lists->erase(lists->begin() + 1);
  keep.layers = {0, 2};
  const auto part = cut(scratch, lively_teacher(scratch, config), keep);
  const auto teacher = lively_model(config);
  const Tensor ids = texts(config).narrow(0, 0, 1);
  const auto sight = model::sight(teacher, ids);
  Tensor x = model::block(teacher, 0, model::embed(teacher, ids), sight);
  x = model::block(teacher, 2, x, sight);
  Tensor y = model::block(part, 1, model::block(part, 0, model::embed(part, ids), sight), sight);
  expect_equal(y, x);
}

TEST_P(CutText, TheVocabularyIsWholeAndItsRowsAreNarrower) {
  const Scratch scratch;
  const auto config = config_of(GetParam());
  auto keep = keep_all(config);
  keep.channels = {0, 3, 4, 7, 9, 15};
  const auto teacher = lively_model(config);
  const auto part = cut(scratch, lively_teacher(scratch, config), keep);
  EXPECT_EQ(part.config.vocabulary, config.vocabulary);
  const Tensor channels = at::tensor(keep.channels, at::kLong);
  for (const auto& [name, tensor] : teacher.tensors)
    if (tensor.dim() == 2 && tensor.size(0) == config.vocabulary) {
      expect_equal(part[name], tensor.index_select(1, channels));
    }
}

TEST_P(CutText, CuttingAnyGroupAnywhereLeavesAModelThatRuns) {
  const Scratch scratch;
  const auto config = config_of(GetParam());
  const auto teacher = lively_teacher(scratch, config);
  const auto whole = model::forward(lively_model(config), texts(config));
  std::size_t cuts = 0;
  for (const auto& group : width_groups(config)) {
    for (const std::int64_t unit : {std::int64_t{0}, group.size - 1}) {
      if (group.size == 1) continue;  // Llama's middle layer has one group of heads
      const auto part = cut(scratch, teacher, spare(config, group, unit));
      const auto answers = model::forward(part, texts(config));
      ++cuts;
      EXPECT_TRUE(answers.isfinite().all().item<bool>());
      if (answers.sizes() == whole.sizes())
        EXPECT_FALSE(at::allclose(answers, whole)) << "layer " << group.layer << " unit " << unit;
      else
        EXPECT_EQ(group.kind, Axis::Kind::residual);  // an embedding has as many numbers
    }
  }
  EXPECT_GE(cuts, 12U);
}

TEST_P(CutText, PaddingNeverChangesWhatAPartSays) {
  const Scratch scratch;
  const auto config = config_of(GetParam());
  auto keep = keep_all(config);
  keep.channels = {0, 1, 2, 5, 7, 8, 11};
  keep.mlp = {{0, 3, 4}, {2, 9}, {1}};
  const auto part = cut(scratch, lively_teacher(scratch, config), keep);
  const Tensor ids = texts(config);
  const Tensor together = model::features(part, ids);
  const std::int64_t lengths[] = {7, 3, 1};
  for (std::int64_t row = 0; row < 3; ++row) {
    const Tensor alone = model::features(part, ids.narrow(0, row, 1).narrow(1, 0, lengths[row]));
    expect_near(together.narrow(0, row, 1).narrow(1, 0, alone.size(1)), alone, 2e-6);
  }
}

/// Of the goldens' models (width 24, three layers, MLPs of 40): two layers with two of three heads
/// (Llama: one of two groups of three), D = H·K again, half of the MLP.
KeepList uniform_keep(const model::ModelConfig& config) {
  const bool grouped = config.group > 1;
  KeepList keep;
  keep.layers = {0, 2};
  for (std::int64_t c = 0; c < 24; ++c)
    if (grouped ? c % 2 == 0 : c % 3 != 1) keep.channels.push_back(c);
  keep.heads = grouped ? std::vector<std::vector<std::int64_t>>{{1}, {0}}
                       : std::vector<std::vector<std::int64_t>>{{0, 2}, {1, 2}};
  keep.mlp.resize(2);
  for (std::int64_t u = 0; u < 40; u += 2) {
    keep.mlp[0].push_back(u);
    keep.mlp[1].push_back(u + 1);
  }
  return keep;
}

// The goldens are such parts as Transformers loaded and ran them
// (tests/goldens/make_part_goldens.py).
TEST(CutText, IsWhatTransformersLoadsWhereItIsUniform) {
  const std::filesystem::path goldens = std::filesystem::path(CLEAVE_SOURCE_DIR) / "tests/goldens";
  for (const std::string name : {"bert_classifier", "gpt2", "llama"}) {
    const Scratch scratch;
    const auto keep = uniform_keep(model::read_config(goldens / "models" / name));
    const auto part = cut(scratch, goldens / "models" / name, keep);
    EXPECT_TRUE(part.config.is_uniform());
    if (std::getenv("CLEAVE_WRITE_GOLDENS") != nullptr) {
      slice(goldens / "models" / name, keep, goldens / "parts" / name);
      continue;
    }
    for (const char* file : {"config.json", "model.safetensors"})
      EXPECT_EQ(base::read_text(scratch.path() / "part" / file),
                base::read_text(goldens / "parts" / name / file))
          << file;
    const model::TensorFiles files(goldens / "parts" / name / "golden.safetensors");
    Tensor ids = at::empty(files.at("ids").dims, at::kLong);
    std::memcpy(ids.data_ptr(), files.data(files.at("ids")), ids.nbytes());
    const auto expect_golden = [&](const Tensor& found, const std::string& key) {
      const bool by_token = found.dim() == 3 && found.size(1) == ids.size(1);
      expect_near(by_token ? found * (ids >= 0).unsqueeze(-1) : found,
                  model::read_tensor(files, files.at(key)), 1e-5);
    };
    expect_golden(model::features(part, ids), "features");
    expect_golden(model::forward(part, ids), "answer");
  }
}

}  // namespace
}  // namespace cleave::decompose
