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

void read_bert(const Reader& file, ModelConfig& config) {
  config.norm_placement = NormPlacement::after;
  config.context = file.integer("max_position_embeddings", 1, any_size, 512);
  config.token_types = file.integer("type_vocab_size", 1, any_size, 2);
  config.tied_head = file.boolean("tie_word_embeddings", true);
}

/// Positions begin behind the padding token's number, so the table has rows that no text takes.
void read_roberta(const Reader& file, ModelConfig& config) {
  read_bert(file, config);
  config.position_offset = file.integer("pad_token_id", 0, any_size, 1) + 1;
  if (config.context <= config.position_offset)
    throw file.at("max_position_embeddings")
        .error("saw " + std::to_string(config.context) +
               ", needs more than pad_token_id + 1 = " + std::to_string(config.position_offset));
  config.context -= config.position_offset;
}

void read_distilbert(const Reader& file, ModelConfig& config) {
  config.norm_placement = NormPlacement::after;
  config.context = file.integer("max_position_embeddings", 1, any_size, 512);
  config.tied_head = file.boolean("tie_word_embeddings", true);
}

void read_gpt2(const Reader& file, ModelConfig& config) {
  config.causal = true;
  config.context = file.integer("n_positions", 1, any_size, 1024);
  config.tied_head = file.boolean("tie_word_embeddings", true);
}

/// "linear", "llama3" …, once spelt `type`; `otherwise` where the table does not say.
std::string rotary_kind(const Reader& table, const std::string& otherwise) {
  const char* key = table.has("rope_type") ? "rope_type" : "type";
  if (!table.has(key) && !otherwise.empty()) return otherwise;
  const std::string kind = table.at(key).one_of({"default", "linear", "llama3"});
  if (table.has("type") && table.at("type").text() != kind)
    throw table.at("type").error("saw '" + table.at("type").text() + "', needs rope_type's '" +
                                 kind + "'");
  return kind;
}

RotaryScaling read_scaling(const Reader& table, const std::string& otherwise) {
  RotaryScaling scaling;
  if (table.number("partial_rotary_factor", 0, 1, 1) != 1)
    throw table.at("partial_rotary_factor")
        .error("saw " + table.at("partial_rotary_factor").json().dump() +
               ", needs 1 (nothing else is built)");
  const std::string kind = rotary_kind(table, otherwise);
  if (kind == "default") return scaling;
  scaling.kind = kind == "linear" ? RotaryScaling::Kind::linear : RotaryScaling::Kind::llama3;
  scaling.factor = table.at("factor").number(1, 1e6);
  if (kind == "linear") return scaling;
  scaling.low_frequency_factor = table.at("low_freq_factor").number(1e-6, 1e6);
  scaling.high_frequency_factor = table.at("high_freq_factor").number(1e-6, 1e6);
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor)
    throw table.at("high_freq_factor")
        .error("saw " + table.at("high_freq_factor").json().dump() +
               ", needs a number above low_freq_factor = " +
               table.at("low_freq_factor").json().dump());
  scaling.original_context = table.at("original_max_position_embeddings").integer(1, any_size);
  return scaling;
}

/// Newer releases of Transformers keep base and scaling in one table.
void read_rotary(const Reader& file, ModelConfig& config) {
  config.rotary_base = file.number("rope_theta", 1, 1e12, usual_rotary_base);
  if (is_given(file, "rope_scaling"))
    config.rotary_scaling = read_scaling(file.at("rope_scaling"), "");
  if (!is_given(file, "rope_parameters")) return;
  const Reader table = file.at("rope_parameters");
  const RotaryScaling scaling = read_scaling(table, "default");
  if (is_given(file, "rope_scaling") && !(scaling == config.rotary_scaling))
    throw table.error("saw another scaling than rope_scaling's, needs the same or none");
  config.rotary_scaling = scaling;
  config.rotary_base = table.number("rope_theta", 1, 1e12, config.rotary_base);
}

/// Heads of keys and values. Null is one for each query, in every family; what no field means is
/// the family's.
void read_groups(const Reader& file, ModelConfig& config) {
  const char* key = "num_key_value_heads";
  const std::int64_t queries = config.layers.front().heads;
  std::int64_t shared = queries;
  if (is_given(file, key))
    shared = file.at(key).integer(1, any_size);
  else if (!file.json().contains(key) && config.family == Family::mistral)
    shared = 8;
  else if (!file.json().contains(key) && config.family == Family::qwen2)
    shared = 32;
  if (queries % shared != 0 && !file.has("cleave"))
    throw file.error(std::string(key) + ": saw " + std::to_string(shared) +
                     (is_given(file, key) ? "" : " (the default)") +
                     ", needs a divisor of num_attention_heads = " + std::to_string(queries));
  config.group = queries / shared;
}

/// Attention that sees a window only: within it, it is attention to everything, so the context ends
/// there.
void read_window(const Reader& file, ModelConfig& config) {
  const char* key = "sliding_window";
  if (config.family == Family::qwen2 && !file.boolean("use_sliding_window", false)) return;
  const bool unsaid = !file.json().contains(key);
  if (!unsaid && !is_given(file, key)) return;
  const std::int64_t window = unsaid ? 4096 : file.at(key).integer(1, any_size);
  if (window > config.context) return;
  config.context = config.window = window;
}

void read_llama(const Reader& file, ModelConfig& config) {
  const bool qwen2 = config.family == Family::qwen2, mistral = config.family == Family::mistral;
  config.causal = true;
  config.gated = true;
  config.norm_kind = NormKind::rms;
  const bool biased = config.family == Family::llama && file.boolean("attention_bias", false);
  config.qkv_bias = biased || qwen2;
  config.output_bias = biased;
  config.mlp_bias = config.family == Family::llama && file.boolean("mlp_bias", false);
  config.context = file.integer("max_position_embeddings", 1, any_size,
                                mistral ? 131072 : (qwen2 ? 32768 : 2048));
  read_rotary(file, config);
  if (config.family != Family::llama) read_window(file, config);
  read_groups(file, config);
  config.tied_head = file.boolean("tie_word_embeddings", false);
}

json scaling_fields(const RotaryScaling& scaling) {
  if (scaling.kind == RotaryScaling::Kind::linear)
    return {{"rope_type", "linear"}, {"factor", scaling.factor}};
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_frequency_factor},
          {"high_freq_factor", scaling.high_frequency_factor},
          {"original_max_position_embeddings", scaling.original_context}};
}

json llama_fields(const ModelConfig& config) {
  json fields = {{"max_position_embeddings", config.context}, {"rope_theta", config.rotary_base}};
  if (config.family != Family::qwen2) fields["head_dim"] = config.head_width;
  std::int64_t queries = 1;
  for (const LayerShape& layer : config.layers) queries = std::max(queries, layer.heads);
  fields["num_key_value_heads"] = std::max<std::int64_t>(1, queries / config.group);
  if (config.rotary_scaling.kind != RotaryScaling::Kind::none)
    fields["rope_scaling"] = scaling_fields(config.rotary_scaling);
  if (config.family == Family::llama && config.output_bias) fields["attention_bias"] = true;
  if (config.family == Family::llama && config.mlp_bias) fields["mlp_bias"] = true;
  if (config.family == Family::qwen2) fields["use_sliding_window"] = config.window > 0;
  if (config.window > 0)
    fields["sliding_window"] = config.window;
  else if (config.family == Family::mistral)
    fields["sliding_window"] = nullptr;
  return fields;
}

}  // namespace

void read_text(const Reader& file, ModelConfig& config) {
  config.vocabulary = file.at("vocab_size").integer(1, any_size);
  switch (config.family) {
    case Family::bert:
      return read_bert(file, config);
    case Family::roberta:
      return read_roberta(file, config);
    case Family::distilbert:
      return read_distilbert(file, config);
    case Family::gpt2:
      read_gpt2(file, config);
      break;
    default:
      read_llama(file, config);
  }
  config.end_tokens = end_tokens_of(file, config.vocabulary);
}

std::vector<std::int64_t> end_tokens_of(const Reader& file, std::int64_t vocabulary,
                                        std::vector<std::int64_t> otherwise) {
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

json end_tokens_to_json(const std::vector<std::int64_t>& tokens) {
  return tokens.size() == 1 ? json(tokens.front()) : json(tokens);
}

json text_fields(const ModelConfig& config) {
  json fields = {{"vocab_size", config.vocabulary}, {"tie_word_embeddings", config.tied_head}};
  switch (config.family) {
    case Family::roberta:
      fields["pad_token_id"] = config.position_offset - 1;
      [[fallthrough]];
    case Family::bert:
      fields["max_position_embeddings"] = config.context + config.position_offset;
      fields["type_vocab_size"] = config.token_types;
      fields["position_embedding_type"] = "absolute";
      break;
    case Family::distilbert:
      fields["max_position_embeddings"] = config.context;
      for (const char* rate : {"dropout", "attention_dropout", "seq_classif_dropout"})
        fields[rate] = 0.0;
      break;
    case Family::gpt2:
      fields["n_positions"] = config.context;
      for (const char* rate : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) fields[rate] = 0.0;
      break;
    default:
      fields.update(llama_fields(config));
  }
  if (!config.end_tokens.empty()) fields["eos_token_id"] = end_tokens_to_json(config.end_tokens);
  return fields;
}

}  // namespace cleave::model
