#include "model/tokenizer/tokenizer_config.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "model/config/folder_fields.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using base::Reader;

/// The tokenizer of a family, where a folder does not name one.
constexpr std::pair<std::string_view, std::string_view> class_of_family[] = {
    {"bert", "BertTokenizer"},       {"distilbert", "DistilBertTokenizer"},
    {"electra", "ElectraTokenizer"}, {"gpt2", "GPT2Tokenizer"},
    {"llama", "LlamaTokenizer"},     {"mistral", "LlamaTokenizer"},
    {"roberta", "RobertaTokenizer"}, {"qwen2", "Qwen2Tokenizer"}};

constexpr std::array special_keys = {"bos_token", "eos_token", "unk_token", "sep_token",
                                     "pad_token", "cls_token", "mask_token"};

bool is_one_of(const std::string& kind, std::initializer_list<std::string_view> kinds) {
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

std::string without_fast(const std::string& name) {
  constexpr std::string_view fast = "Fast";
  const bool ends =
      name.size() > fast.size() && name.compare(name.size() - fast.size(), fast.size(), fast) == 0;
  return ends ? name.substr(0, name.size() - fast.size()) : name;
}

/// The tokens that are found in a text as they stand: those of tokenizer.json, changed by what lies
/// beside it.
class AddedTokens {
 public:
  explicit AddedTokens(const Reader& file)
      : vocabulary_(file.at("model").at("vocab")), normalises_(file.has("normalizer")) {
    if (const auto list = file.find("added_tokens")) tokens_ = read_added(*list, normalises_);
  }

  std::optional<TokenId> find(const std::string& content) const {
    for (const AddedToken& token : tokens_)
      if (token.content == content) return token.id;
    const auto& table = vocabulary_.json();
    const auto known = table.is_object() ? table.find(content) : table.end();
    if (known == table.end() || !known->is_number_integer()) return std::nullopt;
    return known->get<TokenId>();
  }

  /// A table with "content", whose flags count more than those of tokenizer.json. Nobody gives it
  /// a number where `id` is none.
  void take(const Reader& place, std::optional<std::int64_t> id, bool special) {
    AddedToken token = read_token(place, normalises_);
    token.special = special || token.special;
    token.id = number_of(place, token.content, id);
    tokens_.erase(std::remove_if(tokens_.begin(), tokens_.end(),
                                 [&](const auto& one) { return one.content == token.content; }),
                  tokens_.end());
    tokens_.push_back(std::move(token));
  }
  /// A special token that is only named.
  void take_name(const Reader& place, const std::string& content) {
    const TokenId id = number_of(place, content, std::nullopt);
    const bool known = std::any_of(tokens_.begin(), tokens_.end(),
                                   [&](const auto& one) { return one.content == content; });
    if (!known) tokens_.push_back({content, id});
  }
  TokenId number_of(const Reader& place, const std::string& content,
                    std::optional<std::int64_t> id) const {
    const auto known = find(content);
    if (!known || (id && *id != *known))
      throw place.error("saw '" + content + "', needs a token of tokenizer.json" +
                        (id ? " with this number" : ""));
    return *known;
  }

  std::vector<AddedToken> take_all() { return std::move(tokens_); }

 private:
  Reader vocabulary_;
  bool normalises_;
  std::vector<AddedToken> tokens_;
};

void take_special(const Reader& place, AddedTokens& tokens) {
  if (place.json().is_object())
    tokens.take(place, std::nullopt, true);
  else
    tokens.take_name(place, place.text());
}

/// bos_token and the others of a table.
void take_specials(const Reader& table, AddedTokens& tokens) {
  for (const char* key : special_keys)
    if (const auto token = table.find(key)) take_special(*token, tokens);
  if (const auto more = table.find("additional_special_tokens"))
    for (const Reader& token : more->items()) take_special(token, tokens);
}

std::vector<AddedToken> added_of(const fs::path& folder, const Reader& file, const Reader& config) {
  AddedTokens tokens(file);
  if (const auto table = config.find("added_tokens_decoder")) {
    for (const std::string& id : table->keys()) {
      const bool number =
          !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos;
      tokens.take(table->at(id), number ? std::stoll(id) : -1, false);
    }
    take_specials(config, tokens);
    return tokens.take_all();
  }
  take_specials(config, tokens);
  // Older files, which Transformers reads only without that table.
  if (const fs::path path = folder / "special_tokens_map.json"; fs::exists(path))
    take_specials(Reader::json_file(path), tokens);
  if (const fs::path path = folder / "added_tokens.json"; fs::exists(path)) {
    const Reader table = Reader::json_file(path);
    for (const std::string& content : table.keys())
      tokens.number_of(table.at(content), content,
                       table.at(content).integer(0, Vocabulary::most - 1));
  }
  return tokens.take_all();
}

/// LlamaTokenizer surrounds a text as its own options say, whatever tokenizer.json does.
Frame llama_frame(const fs::path& folder, const Reader& config, const AddedTokens& tokens) {
  Frame frame;
  const auto add = [&](const char* option, bool usual, const char* key, const char* token,
                       std::vector<TokenId>& to) {
    if (config.boolean(option, usual))
      to.push_back(tokens.number_of(config, special_token(folder, key, token), std::nullopt));
  };
  add("add_bos_token", true, "bos_token", "<s>", frame.begin);
  add("add_eos_token", false, "eos_token", "</s>", frame.end);
  frame.pair = each_surrounded(frame.begin, frame.end);
  return frame;
}

}  // namespace

Reader tokenizer_config(const fs::path& folder) {
  const fs::path file = folder / "tokenizer_config.json";
  if (!fs::exists(file)) return Reader::json_text("{}", file.string());
  Reader config = Reader::json_file(file);
  check_fields(config, "tokenizer_config.json");
  return config;
}

std::string tokenizer_class(const fs::path& folder) {
  std::string family;
  for (const char* name : {"tokenizer_config.json", "config.json"}) {
    if (!fs::exists(folder / name)) continue;
    const Reader file = Reader::json_file(folder / name);
    if (const auto kind = file.find("tokenizer_class")) return without_fast(kind->text());
    family = file.text("model_type", "");
  }
  for (const auto& [known, kind] : class_of_family)
    if (known == family) return std::string(kind);
  return {};
}

std::optional<Reader> find_special(const fs::path& folder, const std::string& key) {
  const Reader config = tokenizer_config(folder);
  const fs::path map = folder / "special_tokens_map.json";
  if (!config.has("added_tokens_decoder") && fs::exists(map))
    if (auto named = Reader::json_file(map).find(key)) return named;
  return config.find(key);
}

std::string special_token(const fs::path& folder, const std::string& key,
                          const std::string& fallback) {
  const auto named = find_special(folder, key);
  if (!named) return fallback;
  return named->json().is_object() ? named->at("content").text() : named->text();
}

TokenizerChanges changes_of(const fs::path& folder, const Reader& file) {
  const Reader config = tokenizer_config(folder);
  const std::string kind = tokenizer_class(folder);
  TokenizerChanges changes;
  changes.added = added_of(folder, file, config);
  if (is_one_of(kind, {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer",
                       "MobileBertTokenizer", "MPNetTokenizer"})) {
    changes.lower_case = config.boolean("do_lower_case", true);
    changes.strip_accents = config.boolean("strip_accents", *changes.lower_case);
    changes.split_chinese = config.boolean("tokenize_chinese_chars", true);
  }
  if (is_one_of(kind, {"GPT2Tokenizer", "RobertaTokenizer"}))
    changes.prefix_space = config.boolean("add_prefix_space", false);
  if (kind == "LlamaTokenizer") changes.frame = llama_frame(folder, config, AddedTokens(file));
  return changes;
}

}  // namespace cleave::model
