#include "model/checkpoint.hpp"

#include <cstring>
#include <functional>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.hpp"
#include "model/config/hugging_face.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using testing::cut_config;
using testing::error_of;
using testing::expect_contains;
using testing::golden;
using testing::Scratch;
using testing::tiny_config;

Tensor golden_tensor(const std::filesystem::path& folder, const std::string& name) {
  const TensorFiles files(folder / "golden.safetensors");
  return read_tensor(files, files.at(name));
}

double largest_difference(const Tensor& a, const Tensor& b) {
  return (a - b).abs().max().item<double>();
}

class Parity : public ::testing::TestWithParam<const char*> {};

TEST_P(Parity, GivesTheLogitsOfTransformers) {
  const auto folder = golden(std::string("models/") + GetParam());
  const Transformer model = load(folder);
  const Tensor pixels = golden_tensor(folder, "pixels"), logits = golden_tensor(folder, "logits");
  EXPECT_GT(logits.std().item<double>(), 0.1);  // else any model would pass
  const Tensor states = features(model, pixels);
  EXPECT_LE(largest_difference(states, golden_tensor(folder, "features")), 1e-4);
  EXPECT_LE(largest_difference(classify(model, states), logits), 1e-4);
}

TEST_P(Parity, NormalisesBytesAsTransformersDoes) {
  const auto folder = golden(std::string("models/") + GetParam());
  const Tensor bytes = golden_tensor(folder, "bytes").to(at::kByte);
  EXPECT_LE(largest_difference(normalise_pixels(read_config(folder), bytes),
                               golden_tensor(folder, "pixels")),
            1e-6);
}

INSTANTIATE_TEST_SUITE_P(Goldens, Parity,
                         ::testing::Values("vit", "vit_oblong", "vit_sharded_bf16", "deit",
                                           "deit_distilled_f16"),
                         [](const auto& test) { return std::string(test.param); });

void expect_same(const Transformer& a, const Transformer& b) {
  EXPECT_TRUE(a.config == b.config);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) EXPECT_TRUE(at::equal(tensor, b[name])) << name;
}

TEST(Save, IsLoadedBackBitForBit) {
  for (const Family family : {Family::vit, Family::deit}) {
    for (const ModelConfig& config : {tiny_config(family), cut_config(family)}) {
      const Scratch scratch;
      const Transformer model = random_model(config, 9);
      save(model, scratch / "model");
      expect_same(load(scratch / "model"), model);
    }
  }
}

TEST(Save, ReplacesAFolderThatIsThere) {
  const Scratch scratch;
  save(random_model(tiny_config(), 1), scratch / "model");
  const Transformer second = random_model(cut_config(), 2);
  save(second, scratch / "model");
  expect_same(load(scratch / "model"), second);
}

TEST(Save, LeavesNothingWhereItFails) {
  const Scratch scratch;
  Transformer model = random_model(tiny_config(), 1);
  model.tensors["head.bias"] = at::zeros({5});
  expect_contains(error_of([&] { save(model, scratch / "model"); }),
                  "[head.bias] saw [5], needs [4]");
  model.tensors.erase("head.bias");
  expect_contains(error_of([&] { save(model, scratch / "model"); }), "head.bias");
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Load, RefusesWeightsThatContradictTheConfig) {
  const Scratch scratch;
  std::filesystem::copy(golden("models/vit"), scratch / "model");
  std::string config = base::read_text(scratch / "model/config.json");
  const auto at = config.find("\"intermediate_size\": 40");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, std::strlen("\"intermediate_size\": 40"), "\"intermediate_size\": 44");
  base::write_whole(scratch / "model/config.json", config);
  expect_contains(error_of([&] { load(scratch / "model"); }),
                  "intermediate.dense.weight: saw [40,24], needs [44,24]");
}

/// A golden's folder with one tensor changed; its bytes are all there.
void write_changed(const std::string& name, const std::filesystem::path& to,
                   const std::function<bool(TensorEntry&)>& keep) {
  const auto from = golden("models/" + name);
  std::filesystem::create_directories(to);
  std::filesystem::copy_file(from / "config.json", to / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  const TensorFiles files(from);
  std::vector<TensorEntry> entries;
  for (auto [key, entry] : files.entries())
    if (keep(entry)) entries.push_back(entry);
  SafetensorsWriter writer(to / "model.safetensors", entries);
  for (const auto& entry : entries)
    writer.write(files.data(files.entries().at(entry.name)), entry.bytes);
  writer.commit();
}

TEST(Load, NamesEveryTensorThatATextModelLacksOrHasInAnotherShape) {
  for (const std::string name :
       {"bert", "bert_classifier", "gpt2", "gpt2_headless_f16", "llama", "llama_tied_bf16"}) {
    const Scratch scratch;
    const ModelConfig config = read_config(golden("models/" + name));
    const TensorFiles files(golden("models/" + name));
    for (const auto& stored : stored_tensors(config)) {
      const std::string key = find_stored(config, files, stored.key).name;
      const std::string here = "[" + (scratch / "model").string() + "] " + key + ": saw ";
      write_changed(name, scratch / "model",
                    [&](const TensorEntry& entry) { return entry.name != key; });
      expect_contains(error_of([&] { load(scratch / "model"); }),
                      stored.key + ": saw no such tensor");
      write_changed(name, scratch / "model", [&](TensorEntry& entry) {
        if (entry.name == key) entry.dims.push_back(1);
        return true;
      });
      expect_contains(error_of([&] { load(scratch / "model"); }), here + "[");
    }
  }
}

TEST(Load, IgnoresTensorsThatNobodyReads) {
  const Scratch scratch;
  std::filesystem::copy(golden("models/vit"), scratch / "model");
  const TensorFiles files(golden("models/vit"));
  std::vector<TensorEntry> entries = {{"vit.pooler.dense.bias", base::Element::f32, {1}, 0, 0}};
  for (const auto& [name, entry] : files.entries()) entries.push_back(entry);
  SafetensorsWriter writer(scratch / "model/model.safetensors", entries);
  const float extra = 1;
  writer.write(&extra, sizeof extra);
  for (const auto& [name, entry] : files.entries()) writer.write(files.data(entry), entry.bytes);
  writer.commit();
  expect_same(load(scratch / "model"), load(golden("models/vit")));
}

TEST(RandomModel, IsTheSameForTheSameSeed) {
  const ModelConfig config = tiny_config();
  expect_same(random_model(config, 1), random_model(config, 1));
  EXPECT_FALSE(
      at::equal(random_model(config, 1)["head.weight"], random_model(config, 2)["head.weight"]));
  EXPECT_FALSE(at::equal(random_model(config, 1)["blocks.0.attention.query.weight"],
                         random_model(config, 1)["blocks.0.attention.key.weight"]));
}

TEST(RandomModel, StartsAsHuggingFaceDoes) {
  const Transformer model = random_model(tiny_config(), 1);
  EXPECT_NEAR(model["blocks.0.mlp.up.weight"].std().item<double>(), 0.02, 0.003);
  EXPECT_NEAR(model["embedding.position"].std().item<double>(), 0.02, 0.006);
  EXPECT_TRUE(at::equal(model["blocks.1.mlp.down.bias"], at::zeros({12})));
  EXPECT_TRUE(at::equal(model["blocks.1.norm_mlp.weight"], at::ones({12})));
  EXPECT_TRUE(at::equal(model["norm.bias"], at::zeros({12})));
}

}  // namespace
}  // namespace cleave::model
