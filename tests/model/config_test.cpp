#include "model/config/config.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using testing::cut_config;
using testing::error_of;
using testing::expect_contains;
using testing::tiny_config;

const Parameter& named(const std::vector<Parameter>& list, const std::string& name) {
  const auto found =
      std::find_if(list.begin(), list.end(), [&](const auto& p) { return p.name == name; });
  if (found == list.end()) throw std::out_of_range(name);
  return *found;
}

bool has(const std::vector<Parameter>& list, const std::string& name) {
  return std::any_of(list.begin(), list.end(), [&](const auto& p) { return p.name == name; });
}

TEST(ModelConfig, CountsTokens) {
  EXPECT_EQ(tiny_config().num_patches(), 4);
  EXPECT_EQ(tiny_config().num_tokens(), 5);
  EXPECT_EQ(tiny_config(Family::deit).num_tokens(), 6);
}

TEST(ModelConfig, IsUniformOnlyWhereTransformersCanSayIt) {
  EXPECT_TRUE(tiny_config().is_uniform());
  EXPECT_FALSE(cut_config().is_uniform());
  for (const auto& change : std::vector<std::function<void(ModelConfig&)>>{
           [](ModelConfig& c) { c.width = 13; }, [](ModelConfig& c) { c.layers[1].heads = 2; },
           [](ModelConfig& c) { c.layers[2].mlp_width = 21; },
           [](ModelConfig& c) { c.layers.clear(); },
           [](ModelConfig& c) {
             for (auto& layer : c.layers) layer.mlp_width = 0;
           }}) {
    ModelConfig config = tiny_config();
    change(config);
    EXPECT_FALSE(config.is_uniform());
  }
}

TEST(ModelConfig, AcceptsWhatIsSound) {
  for (const Family family : {Family::vit, Family::deit}) {
    EXPECT_NO_THROW(tiny_config(family).check());
    EXPECT_NO_THROW(cut_config(family).check());
  }
  ModelConfig distilled = tiny_config(Family::deit);
  distilled.summary_tokens = 2;
  EXPECT_NO_THROW(distilled.check());
}

/// The checkpoint's key of a parameter.
std::string key_of(const ModelConfig& config, const std::string& name) {
  for (const StoredTensor& stored : stored_tensors(config))
    for (const Parameter& part : stored.parts)
      if (part.name == name) return stored.key;
  return "";
}

TEST(ModelConfig, NamesTheFieldThatIsWrong) {
  struct Case {
    std::string field;
    std::function<void(ModelConfig&)> change;
  };
  const std::vector<Case> cases = {
      {"width: saw 0", [](ModelConfig& c) { c.width = 0; }},
      {"head_width: saw -1", [](ModelConfig& c) { c.head_width = -1; }},
      {"layers: saw 0", [](ModelConfig& c) { c.layers.clear(); }},
      {"layers[1].heads: saw -3", [](ModelConfig& c) { c.layers[1].heads = -3; }},
      {"layers[2].mlp_width: saw 9223372036854775807",
       [](ModelConfig& c) { c.layers[2].mlp_width = INT64_MAX; }},
      {"patch: saw 0", [](ModelConfig& c) { c.patch = 0; }},
      {"image_height: saw 9, needs a multiple of patch = 4",
       [](ModelConfig& c) { c.image_height = 9; }},
      {"channels: saw 0", [](ModelConfig& c) { c.channels = 0; }},
      {"norm_placement: saw after",
       [](ModelConfig& c) { c.norm_placement = NormPlacement::after; }},
      {"norm_eps", [](ModelConfig& c) { c.norm_eps = 0; }},
      {"summary_tokens: saw 2, needs 1..1", [](ModelConfig& c) { c.summary_tokens = 2; }},
      {"classes: saw -1", [](ModelConfig& c) { c.classes = -1; }},
      {"labels: saw 1 names, needs 4", [](ModelConfig& c) { c.labels = {"cat"}; }},
      {"processing: saw 4 x 8", [](ModelConfig& c) { c.processing.height = 4; }},
      {"processing.mean, std", [](ModelConfig& c) { c.processing.mean = {0.5}; }},
      {"processing.std", [](ModelConfig& c) { c.processing.std[1] = 0; }},
      {"processing.crop_from: saw -1", [](ModelConfig& c) { c.processing.crop_from = -1; }},
      {"processing.keep_aspect: saw true for an oblong",
       [](ModelConfig& c) {
         c.processing.keep_aspect = true;
         c.image_height = c.processing.height = 4;
       }},
      {"processing.resample: saw 6", [](ModelConfig& c) { c.processing.resample = 6; }},
  };
  for (const Case& c : cases) {
    ModelConfig config = tiny_config();
    c.change(config);
    expect_contains(error_of([&] { config.check(); }), "[config] " + c.field);
    EXPECT_FALSE(config == tiny_config()) << c.field;
  }
}

TEST(Parameters, FollowHeadsAndWidthsOfEachLayer) {
  const auto list = parameters(cut_config());
  using Dims = std::vector<std::int64_t>;
  EXPECT_EQ(named(list, "blocks.0.attention.query.weight").dims(), (Dims{8, 7}));
  EXPECT_EQ(named(list, "blocks.2.attention.output.weight").dims(), (Dims{7, 12}));
  EXPECT_EQ(named(list, "blocks.1.mlp.up.weight").dims(), (Dims{5, 7}));
  EXPECT_EQ(named(list, "blocks.1.mlp.down.weight").dims(), (Dims{7, 5}));
  EXPECT_EQ(named(list, "embedding.patch.weight").dims(), (Dims{7, 2, 4, 4}));
  EXPECT_EQ(named(list, "embedding.position").dims(), (Dims{1, 5, 7}));
  EXPECT_EQ(named(list, "head.weight").dims(), (Dims{4, 7}));
}

TEST(Parameters, LeaveOutHalvesThatALayerDoesNotHave) {
  const auto list = parameters(cut_config());
  EXPECT_FALSE(has(list, "blocks.1.attention.query.weight"));
  EXPECT_FALSE(has(list, "blocks.1.norm_attention.weight"));
  EXPECT_TRUE(has(list, "blocks.1.norm_mlp.weight"));
  EXPECT_FALSE(has(list, "blocks.2.mlp.up.weight"));
  EXPECT_FALSE(has(list, "blocks.2.norm_mlp.bias"));
}

TEST(Parameters, SayWhatEachAxisCounts) {
  const auto list = parameters(cut_config());
  const Axis heads = named(list, "blocks.2.attention.value.weight").axes[0];
  EXPECT_EQ(heads.kind, Axis::Kind::heads);
  EXPECT_EQ(heads.layer, 2);
  EXPECT_EQ(heads.unit, 4);
  EXPECT_EQ(named(list, "blocks.2.attention.output.weight").axes[1].kind, Axis::Kind::heads);
  EXPECT_EQ(named(list, "blocks.0.mlp.up.bias").axes[0].kind, Axis::Kind::mlp);
  EXPECT_EQ(named(list, "blocks.0.mlp.down.bias").axes[0].kind, Axis::Kind::residual);
  EXPECT_EQ(named(list, "embedding.class_token").axes[2].kind, Axis::Kind::residual);
  EXPECT_EQ(named(list, "head.weight").axes[0].kind, Axis::Kind::fixed);
}

TEST(Parameters, TellPlainAndDistilledDeiTApart) {
  ModelConfig config = tiny_config(Family::deit);
  EXPECT_EQ(key_of(config, "embedding.distillation_token"), "deit.embeddings.distillation_token");
  EXPECT_EQ(key_of(config, "head.weight"), "classifier.weight");
  EXPECT_FALSE(has(parameters(config), "head_distilled.weight"));
  config.summary_tokens = 2;
  EXPECT_EQ(key_of(config, "head.bias"), "cls_classifier.bias");
  EXPECT_EQ(key_of(config, "head_distilled.weight"), "distillation_classifier.weight");
}

TEST(Parameters, WithoutClassifierOrQkvBiasHaveNone) {
  ModelConfig config = tiny_config();
  config.classes = 0;
  config.qkv_bias = false;
  const auto list = parameters(config);
  EXPECT_FALSE(has(list, "head.weight"));
  EXPECT_FALSE(has(list, "blocks.0.attention.key.bias"));
  EXPECT_TRUE(has(list, "blocks.0.attention.output.bias"));
}

TEST(Parameters, AreCounted) {
  // By hand: block = 4·(12·12 + 12) + (12·20 + 20) + (20·12 + 12) + 4·12 = 1184.
  EXPECT_EQ(count_parameters(tiny_config(), true), 3 * 1184);
  // Patch 12·32 + 12, class token 12, positions 5·12, norm 24, head 4·12 + 4.
  EXPECT_EQ(count_parameters(tiny_config()), 3 * 1184 + 396 + 12 + 60 + 24 + 52);
}

}  // namespace
}  // namespace cleave::model
