#include "model/config/text_files.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "model/config/hugging_face.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using nlohmann::json;
using testing::error_of;
using testing::expect_contains;
using testing::Scratch;
using testing::tiny_text_config;

/// A model folder's config files.
class Folder {
 public:
  explicit Folder(const ModelConfig& config) { write_config(config, scratch_.path()); }
  void write(const std::string& file, const json& value) const {
    std::filesystem::create_directories((scratch_ / file).parent_path());
    base::write_whole(scratch_ / file, value.dump());
  }
  void change(const std::string& file, const std::string& field, const json& value) const {
    json fields = read_json(file);
    fields[field] = value;
    write(file, fields);
  }
  void remove(const std::string& file) const { std::filesystem::remove(scratch_ / file); }
  json read_json(const std::string& file) const {
    return json::parse(base::read_text(scratch_ / file));
  }
  ModelConfig read() const { return read_config(scratch_.path()); }
  std::string error() const {
    return error_of([&] { read(); });
  }

 private:
  Scratch scratch_;
};

// --- how tokens are drawn ---

TEST(GenerationConfig, SaysHowTokensAreDrawn) {
  const Folder folder(tiny_text_config(Family::llama));
  folder.write("generation_config.json", {{"repetition_penalty", 1.5}, {"temperature", 0.7}});
  SamplingDefaults sampling = folder.read().sampling;
  EXPECT_EQ(sampling.temperature, 0) << "do_sample is false";
  EXPECT_EQ(sampling.repetition_penalty, 1.5);
  folder.write("generation_config.json",
               {{"do_sample", true}, {"temperature", 0.7}, {"top_p", 0.9}});
  sampling = folder.read().sampling;
  EXPECT_EQ(sampling.temperature, 0.7);
  EXPECT_EQ(sampling.top_k, 50) << "Transformers' default";
  EXPECT_EQ(sampling.top_p, 0.9);
  folder.write("generation_config.json", {{"do_sample", true}, {"top_k", nullptr}});
  EXPECT_EQ(folder.read().sampling.temperature, 1);
  EXPECT_EQ(folder.read().sampling.top_k, 0);
  folder.write("generation_config.json", {{"do_sample", true}, {"top_p", "most"}});
  expect_contains(folder.error(), "generation_config.json] top_p: saw \"most\"");
}

TEST(GenerationConfig, IsLookedForInAnOlderConfigJson) {
  const Folder folder(tiny_text_config(Family::gpt2));
  folder.change("config.json", "repetition_penalty", 1.3);
  EXPECT_EQ(folder.read().sampling.repetition_penalty, 1) << "the file beside it counts";
  folder.change("generation_config.json", "_from_model_config", true);
  EXPECT_EQ(folder.read().sampling.repetition_penalty, 1.3);
  folder.remove("generation_config.json");
  EXPECT_EQ(folder.read().sampling.repetition_penalty, 1.3);
}

TEST(GenerationConfig, IsWrittenAsItIsRead) {
  ModelConfig config = tiny_text_config(Family::llama);
  for (const SamplingDefaults& sampling :
       {SamplingDefaults{0, 0, 1, 1}, SamplingDefaults{0, 7, 0.5, 1.5},
        SamplingDefaults{0.6, 50, 0.9, 1}, SamplingDefaults{1, 0, 1, 1}}) {
    config.sampling = sampling;
    EXPECT_TRUE(Folder(config).read() == config) << Folder(config).read_json("config.json");
    const json all = config_to_json(config);
    EXPECT_TRUE(config_from_json(base::Reader::json_text(all.dump(), "plan")) == config) << all;
  }
  EXPECT_FALSE(Folder(config).read_json("config.json").contains("cleave"));
}

TEST(WriteConfig, SaysTheWidthOfAHeadAsLlamaDoes) {
  ModelConfig config = tiny_text_config(Family::llama);
  config.head_width = 8;  // D is not H·K, but every layer is alike
  const Folder folder(config);
  EXPECT_EQ(folder.read_json("config.json").at("head_dim"), 8);
  EXPECT_FALSE(folder.read_json("config.json").contains("cleave"));
  EXPECT_TRUE(folder.read() == config);
}

// --- sentence embeddings ---

const char* const transformer = "sentence_transformers.models.Transformer";
const char* const pooling = "sentence_transformers.models.Pooling";
const char* const normalize = "sentence_transformers.models.Normalize";

json module(const std::string& type, const std::string& path) {
  return {{"idx", 0}, {"name", "0"}, {"path", path}, {"type", type}};
}

/// A sentence encoder with these pooling modes.
class SentenceFolder : public Folder {
 public:
  explicit SentenceFolder(const json& modes, bool normalises = true)
      : Folder(tiny_text_config(Family::bert)) {
    json modules = {module(transformer, ""), module(pooling, "1_Pooling")};
    if (normalises) modules.push_back(module(normalize, "2_Normalize"));
    write("modules.json", modules);
    write("1_Pooling/config.json", modes);
  }
};

const json mean = {{"pooling_mode_mean_tokens", true}};
const json first = {{"pooling_mode_cls_token", true}, {"pooling_mode_mean_tokens", false}};

TEST(SentenceFiles, SayWhatAnEmbeddingIsMadeOf) {
  EXPECT_EQ(SentenceFolder(mean).read().pooling, Pooling::mean);
  EXPECT_TRUE(SentenceFolder(mean).read().normalised);
  EXPECT_EQ(SentenceFolder(first).read().pooling, Pooling::first);
  EXPECT_FALSE(SentenceFolder(first, false).read().normalised);
  EXPECT_TRUE(Folder(tiny_text_config(Family::bert)).read().normalised) << "a plain BertModel";
}

TEST(SentenceFiles, CountMoreThanTheCheckpointsHead) {
  ModelConfig masked = tiny_text_config(Family::bert);
  masked.task = Task::masked_lm;
  masked.classes = masked.vocabulary;
  const Folder folder(masked);
  folder.write("modules.json", {module(transformer, ""), module(pooling, "pool")});
  folder.write("pool/config.json", first);
  const ModelConfig config = folder.read();
  EXPECT_EQ(config.task, Task::embedding);
  EXPECT_EQ(config.classes, 0);
  EXPECT_EQ(config.pooling, Pooling::first);
}

TEST(SentenceFiles, SayHowLongATextMayBe) {
  const SentenceFolder folder(mean);
  folder.write("tokenizer_config.json", {{"model_max_length", 9}});
  EXPECT_EQ(folder.read().usual_length(), 9);
  folder.write("tokenizer_config.json", {{"model_max_length", 1e30}});
  EXPECT_EQ(folder.read().usual_length(), 16) << "the context";
  folder.write("sentence_bert_config.json", {{"max_seq_length", 6}, {"do_lower_case", false}});
  EXPECT_EQ(folder.read().usual_length(), 6);
  folder.write("sentence_bert_config.json", {{"max_seq_length", 4096}});
  EXPECT_EQ(folder.read().usual_length(), 16);
  folder.write("sentence_bert_config.json", {{"max_seq_length", 0}});
  expect_contains(folder.error(), "sentence_bert_config.json] max_seq_length: saw 0");
}

TEST(SentenceFiles, AreWrittenAsTheyAreRead) {
  ModelConfig config = tiny_text_config(Family::bert);
  config.pooling = Pooling::first;
  config.normalised = false;
  config.text_length = 6;
  EXPECT_TRUE(Folder(config).read() == config) << Folder(config).read_json("config.json");
  const json all = config_to_json(config);
  EXPECT_TRUE(config_from_json(base::Reader::json_text(all.dump(), "plan")) == config) << all;
}

TEST(SentenceFiles, AreRefusedByNameWhereTheyAskForMore) {
  json modes = mean;
  for (const char* other : {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
                            "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"}) {
    modes = {{other, true}, {"pooling_mode_mean_tokens", false}};
    expect_contains(SentenceFolder(modes).error(), std::string(other) + ": saw true, needs false");
  }
  expect_contains(SentenceFolder(json{{"pooling_mode_cls_token", true}}).error(),
                  "saw two poolings");
  expect_contains(SentenceFolder(json{{"pooling_mode_mean_tokens", false}}).error(),
                  "saw no pooling");
  const SentenceFolder folder(mean);
  const auto with = [&](const json& modules) {
    folder.write("modules.json", modules);
    return folder.error();
  };
  const json both = {module(transformer, ""), module(pooling, "1_Pooling")};
  json dense = both;
  dense.push_back(module("sentence_transformers.models.Dense", "2_Dense"));
  expect_contains(with(dense), "modules.json] [2].type: saw Dense, needs Normalize");
  json more = both;
  more.push_back(module(normalize, ""));
  more.push_back(module("sentence_transformers.models.Dropout", ""));
  expect_contains(with(more), "saw Dropout, needs nothing behind Normalize");
  expect_contains(with(json::array({both[0]})), "saw no Pooling");
  expect_contains(with({both[1], both[0]}), "saw Pooling, needs Transformer");
  expect_contains(with({module(transformer, "0_Transformer"), both[1]}), "saw '0_Transformer'");
  expect_contains(with({both[0], module(pooling, "../1_Pooling")}), "saw '../1_Pooling'");
  json asked = both;
  asked[0]["kwargs"] = {"task"};
  expect_contains(with(asked), "kwargs: saw [\"task\"], needs []");
  folder.write("modules.json", both);
  folder.write("sentence_bert_config.json", {{"do_lower_case", true}});
  expect_contains(folder.error(), "do_lower_case: saw true, needs false");
}

TEST(SentenceFiles, AreRefusedOfAFamilyThatSeesNoWholeText) {
  const Folder folder(tiny_text_config(Family::gpt2));
  folder.write("modules.json", {module(transformer, ""), module(pooling, "1_Pooling")});
  folder.write("1_Pooling/config.json", mean);
  expect_contains(folder.error(), "saw a sentence encoder of gpt2");
}

// --- what a classifier's outputs mean ---

json classifier() {
  ModelConfig config = tiny_text_config(Family::bert);
  config.task = Task::classification;
  config.classes = 3;
  json fields = config_to_json(config);
  return fields;
}

Problem problem_with(const json& problem_type, std::int64_t classes) {
  json fields = classifier();
  fields.erase("id2label");
  fields["num_labels"] = classes;
  if (!problem_type.is_null()) fields["problem_type"] = problem_type;
  const ModelConfig config =
      config_from_json(base::Reader::json_text(fields.dump(), "config.json"));
  const json again = config_to_json(config);
  EXPECT_TRUE(config_from_json(base::Reader::json_text(again.dump(), "plan")) == config) << again;
  return config.problem;
}

TEST(ProblemType, SaysWhatTheOutputsMean) {
  EXPECT_EQ(problem_with(nullptr, 3), Problem::single_label);
  EXPECT_EQ(problem_with("single_label_classification", 3), Problem::single_label);
  EXPECT_EQ(problem_with("multi_label_classification", 3), Problem::multi_label);
  EXPECT_EQ(problem_with("regression", 3), Problem::regression);
  EXPECT_EQ(problem_with("regression", 1), Problem::regression);
  EXPECT_EQ(problem_with(nullptr, 1), Problem::multi_label) << "a sigmoid, as the pipeline's";
  expect_contains(error_of([] { problem_with("ranking", 2); }),
                  "problem_type: saw \"ranking\", needs one of single_label_classification");
}

// --- whole files ---

TEST(ReadConfig, RefusesAnAdapter) {
  const Folder folder(tiny_text_config(Family::llama));
  folder.write("adapter_config.json", {{"peft_type", "LORA"}});
  expect_contains(folder.error(), "adapter_config.json] saw it, needs none (an adapter (LoRA)");
}

}  // namespace
}  // namespace cleave::model
