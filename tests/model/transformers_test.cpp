#include "tests/model/fixtures.hpp"
#include "tests/model/in_transformers.hpp"

// What Cleave writes is read by Hugging Face Transformers itself.

namespace cleave::model {
namespace {

using testing::Scratch;
using testing::tiny_config;
using testing::tiny_text_config;
using testing::write_model;

Transformer lively_model(const ModelConfig& config) {
  Transformer model = random_model(config, 3);
  for (auto& [name, tensor] : model.tensors) tensor = tensor + 0.2 * at::randn_like(tensor);
  return model;
}

ModelConfig distilled_config() {
  ModelConfig config = tiny_config(Family::deit);
  config.summary_tokens = 2;
  config.processing.crop_from = 10;
  return config;
}

ModelConfig headless_config() {
  ModelConfig config = tiny_config();
  config.width = 8;
  config.layers.assign(2, {2, 12});
  config.classes = 0;
  config.random_weights = true;
  return config;
}

ModelConfig masked_config(Family family) {
  ModelConfig config = tiny_text_config(family);
  config.task = Task::masked_lm;
  config.classes = config.vocabulary;
  return config;
}

ModelConfig linear_config() {
  ModelConfig config = tiny_text_config(Family::llama);
  config.rotary_scaling.kind = RotaryScaling::Kind::linear;
  config.rotary_scaling.factor = 2.5;
  config.qkv_bias = config.output_bias = true;
  return config;
}

/// What the parts of a classifier are: without a head, and narrower than their teacher.
ModelConfig part_config(Family family) {
  ModelConfig config = tiny_text_config(family);
  config.task = Task::classification;
  config.width = 12;
  config.layers.assign(2, {3, 9});
  return config;
}

ModelConfig classifier_config(Family family) {
  ModelConfig config = tiny_text_config(family);
  config.task = Task::classification;
  config.classes = 3;
  return config;
}

ModelConfig first_token_config() {
  ModelConfig config = tiny_text_config(Family::bert);
  config.pooling = Pooling::first;
  return config;
}

ModelConfig regression_config() {
  ModelConfig config = classifier_config(Family::bert);
  config.classes = 1;
  config.problem = Problem::regression;
  return config;
}

/// Heads that are wider than D / H, and tokens that are drawn.
ModelConfig wide_heads_config() {
  ModelConfig config = tiny_text_config(Family::llama);
  config.head_width = 8;
  config.sampling = {0.7, 20, 0.9, 1.1};
  return config;
}

TEST(Transformers, LoadsUniformModelsAndAgrees) {
  const std::map<std::string, ModelConfig> configs = {
      {"vit", tiny_config()},
      {"vit_without_classifier", headless_config()},
      {"deit", tiny_config(Family::deit)},
      {"deit_distilled", distilled_config()},
      {"bert", tiny_text_config(Family::bert)},
      {"bert_classifier", classifier_config(Family::bert)},
      {"bert_first", first_token_config()},
      {"bert_regression", regression_config()},
      {"roberta", tiny_text_config(Family::roberta)},
      {"roberta_classifier", classifier_config(Family::roberta)},
      {"roberta_masked", masked_config(Family::roberta)},
      {"roberta_part", part_config(Family::roberta)},
      {"distilbert", tiny_text_config(Family::distilbert)},
      {"distilbert_classifier", classifier_config(Family::distilbert)},
      {"distilbert_masked", masked_config(Family::distilbert)},
      {"distilbert_part", part_config(Family::distilbert)},
      {"gpt2", tiny_text_config(Family::gpt2)},
      {"llama", tiny_text_config(Family::llama)},
      {"llama_wide_heads", wide_heads_config()},
      {"llama_scaled", testing::tiny_scaled_config()},
      {"llama_linear", linear_config()},
      {"qwen2", tiny_text_config(Family::qwen2)},
      {"mistral", tiny_text_config(Family::mistral)}};
  const Scratch scratch;
  std::vector<std::filesystem::path> folders;
  for (const auto& [name, config] : configs) {
    write_model(lively_model(config), scratch / name, shard_bytes);
    write_model(lively_model(config), scratch / (name + "_sharded"), 4000);
    ASSERT_TRUE(
        std::filesystem::exists(scratch / (name + "_sharded/model.safetensors.index.json")));
    folders.push_back(scratch / name);
    folders.push_back(scratch / (name + "_sharded"));
  }
  testing::expect_transformers_agrees(folders);
}

}  // namespace
}  // namespace cleave::model
