#include "model/checkpoint.hpp"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <functional>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

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

/// A tensor as any program may write it.
struct Foreign {
  std::string name, dtype;
  std::vector<std::int64_t> dims;
  std::string bytes;
};

/// A golden's folder with its tensors changed, in a file that our writer would not write.
void write_foreign(const std::string& name, const std::filesystem::path& to,
                   const std::function<void(std::vector<Foreign>&)>& change) {
  const auto from = golden("models/" + name);
  std::filesystem::create_directories(to);
  std::filesystem::copy_file(from / "config.json", to / "config.json",
                             std::filesystem::copy_options::overwrite_existing);
  const TensorFiles files(from);
  std::vector<Foreign> tensors;
  for (const auto& [key, entry] : files.entries()) {
    std::string dtype = entry.element_name();
    std::transform(dtype.begin(), dtype.end(), dtype.begin(), ::toupper);
    tensors.push_back(
        {key, dtype, entry.dims, {reinterpret_cast<const char*>(files.data(entry)), entry.bytes}});
  }
  change(tensors);
  nlohmann::json header;
  std::string data;
  for (const Foreign& tensor : tensors) {
    const std::size_t begin = data.size();
    data += tensor.bytes;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.dims}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  base::write_whole(to / "model.safetensors", length + text + data);
}

Foreign& tensor_named(std::vector<Foreign>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(),
                       [&](const Foreign& tensor) { return tensor.name == name; });
}

TEST(Load, IgnoresTensorsThatNobodyReadsWhateverTheyAreMadeOf) {
  const Scratch scratch;
  for (const std::string golden_name : {"vit", "gpt2"}) {
    write_foreign(golden_name, scratch / "model", [](std::vector<Foreign>& tensors) {
      tensors.push_back({"vit.pooler.dense.bias", "F32", {1}, "nan\x7f"});
      tensors.push_back({"transformer.h.0.attn.bias", "BOOL", {1, 1, 2, 2}, "\1\1\1\1"});
      tensors.push_back({"transformer.h.0.attn.masked_bias", "F16", {}, std::string(2, '\xff')});
      tensors.push_back({"embeddings.position_ids", "I64", {1, 0}, ""});
      tensors.push_back({"quant.scales", "F8_E4M3", {3}, "123"});
      tensors.push_back({"quant.zeros", "I16", {1}, "12"});
      tensors.push_back({"quant.packed", "U4", {2}, "1"});
    });
    expect_same(load(scratch / "model"), [&] {
      Transformer model = load(golden("models/" + golden_name));
      model.config = read_config(scratch / "model");  // no preprocessor_config.json beside it
      return model;
    }());
  }
}

TEST(Load, RefusesWeightsThatAreNoRealNumbers) {
  const Scratch scratch;
  const std::string name = "transformer.h.1.mlp.c_fc.weight";
  for (const std::string dtype : {"I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "I64", "I16"}) {
    write_foreign("gpt2", scratch / "model", [&](std::vector<Foreign>& tensors) {
      Foreign& tensor = tensor_named(tensors, name);
      tensor.dtype = dtype;
      tensor.bytes.resize(tensor.bytes.size() / 4 * (dtype == "I64" ? 8 : 1));
    });
    const std::string error = error_of([&] { load(scratch / "model"); });
    expect_contains(error, "[" + (scratch / "model").string() + "] " + name + ": saw numbers in ");
    expect_contains(error, "needs f32, f16, bf16 or f64 (quantised weights are not read");
  }
}

TEST(Load, ReadsWeightsOfDoublePrecision) {
  const Scratch scratch;
  write_foreign("vit", scratch / "model", [](std::vector<Foreign>& tensors) {
    for (Foreign& tensor : tensors) {
      std::string wide;
      for (std::size_t at = 0; at < tensor.bytes.size(); at += sizeof(float)) {
        float value = 0;
        std::memcpy(&value, tensor.bytes.data() + at, sizeof value);
        const auto twice = static_cast<double>(value);
        wide.append(reinterpret_cast<const char*>(&twice), sizeof twice);
      }
      tensor.dtype = "F64";
      tensor.bytes = wide;
    }
  });
  std::filesystem::copy_file(golden("models/vit/preprocessor_config.json"),
                             scratch / "model/preprocessor_config.json");
  expect_same(load(scratch / "model"), load(golden("models/vit")));
}

struct Tied {
  const char *golden, *embedding, *head;
};

TEST(Load, ReadsATiedMatrixUnderEitherName) {
  for (const Tied& tied : {Tied{"gpt2", "transformer.wte.weight", "lm_head.weight"},
                           Tied{"llama_tied_bf16", "model.embed_tokens.weight", "lm_head.weight"},
                           Tied{"bert_masked_sharded", "bert.embeddings.word_embeddings.weight",
                                "cls.predictions.decoder.weight"}}) {
    const Scratch scratch;
    const Transformer expected = load(golden(std::string("models/") + tied.golden));
    const auto notes = [&] {
      return tensor_notes(expected.config, TensorFiles(scratch / "model"));
    };
    write_foreign(tied.golden, scratch / "model", [&](std::vector<Foreign>& tensors) {
      tensor_named(tensors, tied.embedding).name = tied.head;
    });
    expect_same(load(scratch / "model"), expected);
    EXPECT_TRUE(notes().empty());
    // Both: the embedding's, as Transformers does, and where they differ it is said.
    for (const bool differs : {false, true}) {
      write_foreign(tied.golden, scratch / "model", [&](std::vector<Foreign>& tensors) {
        Foreign head = tensor_named(tensors, tied.embedding);
        head.name = tied.head;
        if (differs) head.bytes[0] = static_cast<char>(head.bytes[0] ^ 1);
        tensors.push_back(head);
      });
      expect_same(load(scratch / "model"), expected);
      ASSERT_EQ(notes().size(), differs ? 1U : 0U);
      if (differs)
        expect_contains(notes()[0], std::string(tied.head) + ": differs from " + tied.embedding +
                                        ", which is used for both");
    }
  }
}

TEST(TensorNotes, SayWhatStandsInALayerAndIsNotRead) {
  const Scratch scratch;
  const auto notes_with = [&](const std::string& name) {
    write_foreign("llama", scratch / "model", [&](std::vector<Foreign>& tensors) {
      Foreign more = tensor_named(tensors, "model.norm.weight");
      more.name = name;
      tensors.push_back(more);
    });
    return tensor_notes(load(scratch / "model").config, TensorFiles(scratch / "model"));
  };
  const auto notes = notes_with("model.layers.1.self_attn.q_proj.bias");
  ASSERT_EQ(notes.size(), 1U);
  expect_contains(notes[0],
                  "model.layers.1.self_attn.q_proj.bias: config.json has no place for what stands");
  EXPECT_TRUE(notes_with("model.layers.1.self_attn.rotary_emb.inv_freq").empty());
}

TEST(Load, NeedsBothMatricesWhereTheHeadIsNotTied) {
  const Scratch scratch;
  write_foreign("llama", scratch / "model", [&](std::vector<Foreign>& tensors) {
    tensors.erase(std::find_if(tensors.begin(), tensors.end(), [](const Foreign& tensor) {
      return tensor.name == "model.embed_tokens.weight";
    }));
  });
  expect_contains(error_of([&] { load(scratch / "model"); }),
                  "model.embed_tokens.weight: saw no such tensor");
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
