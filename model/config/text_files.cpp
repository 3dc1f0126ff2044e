#include "model/config/text_files.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/config/folder_fields.hpp"
#include "model/config/text_config.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using base::Reader;
using nlohmann::json;

constexpr double no_limit = 1e300;  // tokenizers without a limit say 1e30

std::optional<Reader> read_where(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  return Reader::json_file(path);
}

/// Whether config.json says of generation what is not Transformers' default. It then counts more
/// than a generation_config.json that was made from a config.json.
bool says_generation(const Reader& file) {
  static const json usual = {{"max_length", 20},
                             {"min_length", 0},
                             {"do_sample", false},
                             {"early_stopping", false},
                             {"num_beams", 1},
                             {"num_beam_groups", 1},
                             {"diversity_penalty", 0.0},
                             {"temperature", 1.0},
                             {"top_k", 50},
                             {"top_p", 1.0},
                             {"typical_p", 1.0},
                             {"repetition_penalty", 1.0},
                             {"length_penalty", 1.0},
                             {"no_repeat_ngram_size", 0},
                             {"encoder_no_repeat_ngram_size", 0},
                             {"bad_words_ids", nullptr},
                             {"num_return_sequences", 1},
                             {"forced_bos_token_id", nullptr},
                             {"forced_eos_token_id", nullptr},
                             {"exponential_decay_length_penalty", nullptr},
                             {"suppress_tokens", nullptr},
                             {"begin_suppress_tokens", nullptr}};
  for (const auto& [key, value] : usual.items())
    if (const auto field = file.find(key); field && field->json() != value) return true;
  return false;
}

/// "sentence_transformers.models.Pooling" -> "Pooling".
std::string kind_of(const Reader& module) {
  const std::string type = module.at("type").text();
  return type.substr(type.rfind('.') + 1);
}

/// The one pooling that is true; several would be laid side by side.
Pooling read_pooling(const Reader& file) {
  check_fields(file, "1_Pooling/config.json");
  if (const auto mode = file.find("pooling_mode"))
    return mode->one_of({"mean", "cls"}) == "cls" ? Pooling::first : Pooling::mean;
  const bool first = file.boolean("pooling_mode_cls_token", false);
  const bool mean = file.boolean("pooling_mode_mean_tokens", true);
  if (first == mean)
    throw file.error(std::string("saw ") + (first ? "two poolings" : "no pooling") +
                     ", needs one of pooling_mode_mean_tokens and pooling_mode_cls_token");
  return first ? Pooling::first : Pooling::mean;
}

/// The config.json of a module, which lies in a folder of its own.
Reader module_file(const fs::path& folder, const Reader& module) {
  const Reader path = module.at("path");
  std::string name = path.text();
  if (!name.empty() && name.back() == '/') name.pop_back();
  if (name.empty() || name.find('/') != std::string::npos || name.front() == '.')
    throw path.error("saw '" + name + "', needs the name of a folder beside it");
  return Reader::json_file(folder / name / "config.json");
}

void read_modules(const fs::path& folder, const Reader& file, ModelConfig& config) {
  const auto modules = file.items();
  for (const Reader& module : modules) check_fields(module, "modules.json");
  const auto expect = [&](std::size_t i, const std::string& kind) {
    if (modules.size() <= i) throw file.error("saw no " + kind + ", needs one");
    if (const std::string saw = kind_of(modules[i]); saw != kind)
      throw modules[i].at("type").error("saw " + saw + ", needs " + kind +
                                        " (Transformer, Pooling, Normalize are built)");
  };
  expect(0, "Transformer");
  if (const auto path = modules[0].find("path"); path && !path->text().empty())
    throw path->error("saw '" + path->text() + "', needs the model in the folder itself");
  expect(1, "Pooling");
  config.normalised = modules.size() > 2;
  if (config.normalised) expect(2, "Normalize");
  if (modules.size() > 3)
    throw modules[3].error("saw " + kind_of(modules[3]) + ", needs nothing behind Normalize");
  if (config.causal)
    throw file.error("saw a sentence encoder of " + std::string(name_of(config.family)) +
                     ", needs a family whose tokens see the whole text");
  config.task = Task::embedding;  // whatever head the checkpoint has
  config.classes = 0;
  config.labels.clear();
  config.problem = Problem::single_label;
  config.pooling = read_pooling(module_file(folder, modules[1]));
}

/// Sentence Transformers has named this file after the model's family.
std::optional<Reader> sentence_file(const fs::path& folder) {
  for (const char* kind : {"bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta"})
    if (auto file = read_where(folder / ("sentence_" + std::string(kind) + "_config.json")))
      return file;
  return std::nullopt;
}

/// Tokens that a text is cut to; 0: nothing says so.
std::int64_t read_length(const fs::path& folder, bool encodes_sentences,
                         const std::optional<Reader>& sentence) {
  if (sentence && sentence->has("max_seq_length"))
    return static_cast<std::int64_t>(
        std::min(sentence->at("max_seq_length").number(1, no_limit), 1e9));
  const auto tokenizer = read_where(folder / "tokenizer_config.json");
  if (!encodes_sentences || !tokenizer) return 0;
  for (const char* key : {"model_max_length", "max_len"})
    if (const auto field = tokenizer->find(key))
      return static_cast<std::int64_t>(std::min(field->number(1, no_limit), 1e9));
  return 0;
}

}  // namespace

SamplingDefaults read_sampling(const Reader& file) {
  SamplingDefaults sampling;
  const bool draws = file.boolean("do_sample", false);
  const bool all = file.json().contains("top_k") && file.json().at("top_k").is_null();
  sampling.temperature = draws ? file.number("temperature", 0, 1000, 1) : 0;
  // Transformers' default.
  sampling.top_k = file.integer("top_k", 0, std::int64_t{1} << 40, draws && !all ? 50 : 0);
  sampling.top_p = std::max(file.number("top_p", 0, 1, 1), 1e-9);
  sampling.repetition_penalty = file.number("repetition_penalty", 0.001, 1000, 1);
  return sampling;
}

void read_generation(const fs::path& folder, const Reader& file, ModelConfig& config) {
  const auto own = read_where(folder / "generation_config.json");
  if (config.task != Task::causal_lm || !own) return;
  if (own->boolean("_from_model_config", false) && says_generation(file)) return;
  config.end_tokens = end_tokens_of(*own, config.vocabulary, std::move(config.end_tokens));
  config.sampling = read_sampling(*own);
}

json generation_fields(const ModelConfig& config) {
  const SamplingDefaults& sampling = config.sampling;
  json fields = {{"do_sample", sampling.temperature > 0},
                 {"repetition_penalty", sampling.repetition_penalty}};
  if (!config.end_tokens.empty()) fields["eos_token_id"] = end_tokens_to_json(config.end_tokens);
  if (sampling.temperature > 0) fields["temperature"] = sampling.temperature;
  if (sampling.temperature > 0 || sampling.top_k > 0) fields["top_k"] = sampling.top_k;
  if (sampling.top_p < 1) fields["top_p"] = sampling.top_p;
  return fields;
}

void read_sentence_files(const fs::path& folder, ModelConfig& config) {
  const auto modules = read_where(folder / "modules.json");
  const auto sentence = sentence_file(folder);
  if (modules) read_modules(folder, *modules, config);
  if (config.task != Task::embedding) return;
  if (sentence) check_fields(*sentence, "sentence_bert_config.json");
  const fs::path pooling = folder / "1_Pooling" / "config.json";
  if (!modules && fs::exists(pooling)) config.pooling = read_pooling(Reader::json_file(pooling));
  const std::int64_t length = read_length(folder, modules.has_value(), sentence);
  if (length > 0) config.text_length = length < config.context ? length : 0;
}

}  // namespace cleave::model
