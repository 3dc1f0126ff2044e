#include <cmath>
#include <cstring>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "decompose/decompose.hpp"
#include "model/config/folder_fields.hpp"
#include "model/config/hugging_face.hpp"
#include "tests/decompose/teacher.hpp"

namespace cleave::decompose {
namespace {

using testing::message_of;
using testing::Scratch;
using testing::tiny_config;

std::vector<float> floats(const model::TensorFiles& files, const std::string& key) {
  const auto& entry = files.at(key);
  std::vector<float> values(entry.bytes / sizeof(float));
  std::memcpy(values.data(), files.data(entry), entry.bytes);
  return values;
}

TEST(Init, WritesAFolderThatSaysItIsRandom) {
  const Scratch scratch;
  init(tiny_config(), 7, scratch / "model");
  const auto config = model::read_config(scratch / "model");
  EXPECT_TRUE(config.random_weights);
  auto expected = tiny_config();
  expected.random_weights = true;
  EXPECT_TRUE(config == expected);
  const model::TensorFiles files(scratch / "model");
  EXPECT_NO_THROW(model::check_tensors(config, files));
}

TEST(Init, ShardsHoldTheSameWeightsAndGoWhereOneFileComes) {
  const Scratch scratch;
  init(tiny_config(), 7, scratch / "one");
  init(tiny_config(), 7, scratch / "shards", {}, 10000);
  const model::TensorFiles one(scratch / "one"), shards(scratch / "shards");
  ASSERT_EQ(one.entries().size(), shards.entries().size());
  for (const auto& [name, entry] : one.entries())
    EXPECT_EQ(std::memcmp(one.data(entry), shards.data(shards.at(name)), entry.bytes), 0) << name;
  EXPECT_FALSE(std::filesystem::exists(scratch / "shards/model.safetensors"));
  init(tiny_config(), 7, scratch / "shards");
  init(tiny_config(), 7, scratch / "one", {}, 10000);
  EXPECT_TRUE(std::filesystem::exists(scratch / "shards/model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "shards/model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "one/model.safetensors"));
}

TEST(Init, WeightsAreNormalBiasesZeroAndNormsOne) {
  const Scratch scratch;
  auto config = tiny_config();
  config.width = 64;
  config.layers[0].mlp_width = 1024;
  init(config, 7, scratch / "model");
  const model::TensorFiles files(scratch / "model");
  for (const float one : floats(files, "vit.encoder.layer.1.layernorm_after.weight"))
    EXPECT_EQ(one, 1.0F);
  for (const float one : floats(files, "vit.layernorm.weight")) EXPECT_EQ(one, 1.0F);
  for (const float zero : floats(files, "vit.encoder.layer.1.output.dense.bias"))
    EXPECT_EQ(zero, 0.0F);
  for (const float zero : floats(files, "vit.layernorm.bias")) EXPECT_EQ(zero, 0.0F);
  const auto weights =
      floats(files, "vit.encoder.layer.0.intermediate.dense.weight");  // 65536 of them
  double sum = 0, squares = 0, largest = 0;
  std::int64_t within_one = 0;
  for (const double w : weights) {
    sum += w;
    squares += w * w;
    largest = std::max(largest, std::abs(w));
    within_one += std::abs(w) < 0.02;
  }
  const auto count = static_cast<double>(weights.size());
  EXPECT_NEAR(sum / count, 0, 3e-4);
  EXPECT_NEAR(std::sqrt(squares / count), 0.02 * 0.8796,
              2e-4);  // what the cut at two deviations leaves
  EXPECT_NEAR(static_cast<double>(within_one) / count, 0.6827 / 0.9545, 0.01);
  EXPECT_LE(largest, 0.04);
  EXPECT_GT(largest, 0.039);
}

TEST(Init, SameSeedSameBytesOtherSeedOthers) {
  const Scratch scratch;
  init(tiny_config(), 7, scratch / "a");
  init(tiny_config(), 7, scratch / "b");
  init(tiny_config(), 8, scratch / "c");
  const auto weights = [&](const std::string& name) {
    return base::read_text(scratch / name / "model.safetensors");
  };
  EXPECT_EQ(weights("a"), weights("b"));
  EXPECT_NE(weights("a"), weights("c"));
}

TEST(Init, NumbersAreTheSameOnEveryMachine) {
  // Written down once; integer arithmetic and one exact division leave nothing to the machine.
  const Scratch scratch;
  init(tiny_config(), 7, scratch / "model");
  const model::TensorFiles files(scratch / "model");
  const auto bytes =
      testing::bytes_of(files, files.at("vit.encoder.layer.0.intermediate.dense.weight"));
  EXPECT_EQ(base::sha256(bytes).substr(0, 16), "a22e172d37b747d6");
}

TEST(Init, TensorsDoNotRepeatEachOther) {
  const Scratch scratch;
  init(tiny_config(), 7, scratch / "model");
  const model::TensorFiles files(scratch / "model");
  EXPECT_NE(floats(files, "vit.encoder.layer.0.attention.attention.query.weight"),
            floats(files, "vit.encoder.layer.0.attention.attention.key.weight"));
}

TEST(Init, RefusesAFolderThatIsNoModel) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "photos");
  std::ofstream(scratch / "photos" / "cat.png") << "x";
  EXPECT_EQ(message_of([&] { init(tiny_config(), 7, scratch / "photos"); }),
            "[" + (scratch / "photos").string() +
                "] exists and is no model folder: saw no config.json, needs a new, an empty or "
                "such a folder");
  EXPECT_EQ(base::read_text(scratch / "photos" / "cat.png"), "x");
}

TEST(Init, DoesNotReplaceWeightsThatAreNotRandom) {
  const Scratch scratch;
  init(tiny_config(), 7, scratch / "model");
  EXPECT_NO_THROW(init(tiny_config(), 8, scratch / "model"));
  const auto mine = scratch / "model";
  auto config = model::read_config(mine);
  config.random_weights = false;
  model::write_config(config, mine);
  const auto weights = base::read_text(mine / "model.safetensors");
  EXPECT_EQ(message_of([&] { init(tiny_config(), 7, mine); }),
            "[" + mine.string() +
                "] holds a model whose weights are not random, needs a new or an empty folder, or "
                "one of random weights");
  EXPECT_EQ(base::read_text(mine / "model.safetensors"), weights);
}

TEST(Init, StopsOnRequestAndLeavesNothing) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] {
              init(tiny_config(), 7, scratch / "model",
                   [](const base::Progress&) { return false; });
            }),
            "[init model] stopped on request");
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Preset, HasThePublishedSizes) {
  // Parameters that Transformers counts for the published checkpoints.
  EXPECT_EQ(model::count_parameters(preset("vit-base")), 86567656);
  EXPECT_EQ(model::count_parameters(preset("vit-large")), 304326632);
  EXPECT_EQ(model::count_parameters(preset("deit-tiny")), 5717416);
  EXPECT_EQ(model::count_parameters(preset("deit-small")), 22050664);
  EXPECT_EQ(model::count_parameters(preset("deit-base")), 86567656);
  EXPECT_EQ(model::count_parameters(preset("bert-base")), 109514298);  // BertForMaskedLM
  EXPECT_EQ(model::count_parameters(preset("bert-large")), 335174458);
  EXPECT_EQ(model::count_parameters(preset("gpt2")), 124439808);
  EXPECT_EQ(model::count_parameters(preset("gpt2-medium")), 354823168);
  EXPECT_EQ(model::count_parameters(preset("gpt2-large")), 774030080);
  EXPECT_EQ(model::count_parameters(preset("gpt2-xl")), 1557611200);
  EXPECT_EQ(model::count_parameters(preset("roberta-base")), 124697433);  // RobertaForMaskedLM
  EXPECT_EQ(model::count_parameters(preset("distilbert-base")), 66985530);
  EXPECT_EQ(model::count_parameters(preset("qwen2.5-0.5b")), 494032768);
  EXPECT_EQ(model::count_parameters(preset("mistral-7b")), 7241732096);
  EXPECT_EQ(model::count_parameters(preset("llama-3.2-1b")), 1235814400);
  for (const auto& name : preset_names()) EXPECT_NO_THROW(preset(name).check()) << name;
}

// The config.json beside each checkpoint, as it is published.
TEST(Preset, IsWhatThePublishedConfigSays) {
  const auto published = nlohmann::json::parse(base::read_text(
      std::filesystem::path(CLEAVE_SOURCE_DIR) / "tests/goldens/published_configs.json"));
  ASSERT_EQ(published.size(), 5U);
  for (const auto& [name, config] : published.items()) {
    const Scratch scratch;
    base::write_whole(scratch / "config.json", config.dump());
    EXPECT_TRUE(model::read_config(scratch.path()) == preset(name)) << name;
    EXPECT_EQ(model::folder_notes(scratch.path()), std::vector<std::string>()) << name;
  }
}

TEST(Preset, UnknownNameListsTheKnown) {
  EXPECT_EQ(message_of([] { preset("vit-bose"); }),
            "[preset] saw 'vit-bose', needs one of vit-base, vit-large, deit-tiny, deit-small, "
            "deit-base, bert-base, bert-large, roberta-base, distilbert-base, gpt2, gpt2-medium, "
            "gpt2-large, gpt2-xl, qwen2.5-0.5b, mistral-7b, llama-3.2-1b (did you mean vit-base?)");
}

}  // namespace
}  // namespace cleave::decompose
