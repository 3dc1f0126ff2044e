#include "model/config/text_config.hpp"

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace cleave::model {
namespace {

using base::Reader;
using nlohmann::json;

constexpr std::int64_t any_size = 1 << 24;  // ModelConfig::check is tighter
constexpr double usual_rotary_base = 10000;

bool is_given(const Reader& file, const std::string& key) {
  const auto field = file.find(key);
  return field && !field->json().is_null();
}

/// Fields that change the forward pass in ways that ours has not: only the usual value is taken.
void expect_usual(const Reader& file, const std::string& key, const json& usual) {
  if (is_given(file, key) && file.at(key).json() != usual)
    throw file.at(key).error("saw " + file.at(key).json().dump() + ", needs " + usual.dump() +
                             " (nothing else is built)");
}

/// One number, or several (Llama 3). Numbers beyond the vocabulary never come up: published files
/// have them. `otherwise` where none is left.
std::vector<std::int64_t> end_tokens_of(const Reader& file, std::int64_t vocabulary,
                                        std::vector<std::int64_t> otherwise = {}) {
  std::vector<std::int64_t> tokens;
  if (!is_given(file, "eos_token_id")) return otherwise;
  const Reader field = file.at("eos_token_id");
  const auto add = [&](const Reader& token) {
    const std::int64_t id = token.integer(-1, std::int64_t{1} << 40);
    if (id >= 0 && id < vocabulary) tokens.push_back(id);
  };
  if (field.json().is_array())
    for (const Reader& token : field.items()) add(token);
  else
    add(field);
  return tokens.empty() ? otherwise : tokens;
}

void read_bert(const Reader& file, ModelConfig& config) {
  config.norm_placement = NormPlacement::after;
  config.context = file.integer("max_position_embeddings", 1, any_size, 512);
  config.token_types = file.integer("type_vocab_size", 1, any_size, 2);
  config.tied_head = file.boolean("tie_word_embeddings", true);
}

void read_gpt2(const Reader& file, ModelConfig& config) {
  config.causal = true;
  config.context = file.integer("n_positions", 1, any_size, 1024);
  config.tied_head = file.boolean("tie_word_embeddings", true);
}

/// Newer releases of Transformers keep the base in a table of its own.
double read_rotary_base(const Reader& file) {
  if (is_given(file, "rope_parameters")) {
    const Reader table = file.at("rope_parameters");
    expect_usual(table, "rope_type", "default");
    return table.number("rope_theta", 1, 1e12, usual_rotary_base);
  }
  return file.number("rope_theta", 1, 1e12, usual_rotary_base);
}

void read_llama(const Reader& file, ModelConfig& config) {
  config.causal = true;
  config.gated = true;
  config.norm_kind = NormKind::rms;
  config.qkv_bias = config.output_bias = false;
  config.context = file.integer("max_position_embeddings", 1, any_size, 2048);
  config.rotary_base = read_rotary_base(file);
  if (is_given(file, "rope_scaling"))
    throw file.at("rope_scaling")
        .error("saw scaled rotary positions, needs null (nothing else is built)");
  if (is_given(file, "num_key_value_heads")) {
    const std::int64_t queries = config.layers.front().heads;
    const Reader field = file.at("num_key_value_heads");
    const std::int64_t shared = field.integer(1, any_size);
    if (queries % shared != 0 && !file.has("cleave"))
      throw field.error("saw " + std::to_string(shared) +
                        ", needs a divisor of num_attention_heads = " + std::to_string(queries));
    config.group = queries / shared;
  }
  config.tied_head = file.boolean("tie_word_embeddings", false);
}

}  // namespace

void read_text(const Reader& file, ModelConfig& config) {
  config.vocabulary = file.at("vocab_size").integer(1, any_size);
  switch (config.family) {
    case Family::bert:
      return read_bert(file, config);
    case Family::gpt2:
      read_gpt2(file, config);
      break;
    default:
      read_llama(file, config);
  }
  config.end_tokens = end_tokens_of(file, config.vocabulary);
}

void read_end_tokens(const std::filesystem::path& folder, ModelConfig& config) {
  const auto path = folder / "generation_config.json";
  if (config.task != Task::causal_lm || !std::filesystem::exists(path)) return;
  config.end_tokens =
      end_tokens_of(Reader::json_file(path), config.vocabulary, std::move(config.end_tokens));
}

json text_fields(const ModelConfig& config) {
  json fields = {{"vocab_size", config.vocabulary}, {"tie_word_embeddings", config.tied_head}};
  switch (config.family) {
    case Family::bert:
      fields["max_position_embeddings"] = config.context;
      fields["type_vocab_size"] = config.token_types;
      fields["position_embedding_type"] = "absolute";
      break;
    case Family::gpt2:
      fields["n_positions"] = config.context;
      for (const char* rate : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) fields[rate] = 0.0;
      break;
    default:
      fields["max_position_embeddings"] = config.context;
      fields["rope_theta"] = config.rotary_base;
      std::int64_t queries = 1;
      for (const LayerShape& layer : config.layers) queries = std::max(queries, layer.heads);
      fields["num_key_value_heads"] = std::max<std::int64_t>(1, queries / config.group);
  }
  if (config.end_tokens.size() == 1) fields["eos_token_id"] = config.end_tokens.front();
  if (config.end_tokens.size() > 1) fields["eos_token_id"] = config.end_tokens;
  return fields;
}

void check_pooling(const std::filesystem::path& folder) {
  const auto path = folder / "1_Pooling" / "config.json";
  if (!std::filesystem::exists(path)) return;
  const Reader file = Reader::json_file(path);
  if (!file.boolean("pooling_mode_mean_tokens", false))
    throw file.error("saw another pooling, needs pooling_mode_mean_tokens (nothing else is built)");
}

}  // namespace cleave::model
