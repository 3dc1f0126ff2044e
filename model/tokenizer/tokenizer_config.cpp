#include "model/tokenizer/tokenizer_config.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <set>
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

// What Transformers' fast classes make of a tokenizer.json beside what it says itself; those that
// stand nowhere here take it as it is.

/// Lower case, accents and Chinese characters as tokenizer_config.json says, or its defaults.
constexpr std::string_view normalising_classes[] = {"BertTokenizer",
                                                    "ConvBertTokenizer",
                                                    "DPRContextEncoderTokenizer",
                                                    "DPRQuestionEncoderTokenizer",
                                                    "DPRReaderTokenizer",
                                                    "DistilBertTokenizer",
                                                    "ElectraTokenizer",
                                                    "FunnelTokenizer",
                                                    "LayoutLMTokenizer",
                                                    "LxmertTokenizer",
                                                    "MPNetTokenizer",
                                                    "MobileBertTokenizer",
                                                    "RealmTokenizer",
                                                    "RetriBertTokenizer",
                                                    "SqueezeBertTokenizer"};
/// A blank before a text only where tokenizer_config.json says so.
constexpr std::string_view prefixing_classes[] = {
    "BartTokenizer", "BlenderbotTokenizer", "CodeGenTokenizer", "DebertaTokenizer", "GPT2Tokenizer",
    "LEDTokenizer",  "LongformerTokenizer", "MvpTokenizer",     "RobertaTokenizer"};
/// More, which is not built.
constexpr std::string_view other_classes[] = {
    "CLIPTokenizer",      "CodeLlamaTokenizer", "CohereTokenizer",      "CpmTokenizer",
    "GPTNeoXTokenizer",   "GemmaTokenizer",     "LayoutLMv2Tokenizer",  "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer", "MBart50Tokenizer",   "MBartTokenizer",       "MarkupLMTokenizer",
    "NllbTokenizer",      "RoFormerTokenizer",  "SeamlessM4TTokenizer", "SplinterTokenizer",
    "UdopTokenizer",      "WhisperTokenizer"};

constexpr std::array special_keys = {"bos_token", "eos_token", "unk_token", "sep_token",
                                     "pad_token", "cls_token", "mask_token"};

template <std::size_t count>
bool is_one_of(const std::string& kind, const std::string_view (&kinds)[count]) {
  return std::find(std::begin(kinds), std::end(kinds), kind) != std::end(kinds);
}

std::string without_fast(const std::string& name) {
  constexpr std::string_view fast = "Fast";
  const bool ends =
      name.size() > fast.size() && name.compare(name.size() - fast.size(), fast.size(), fast) == 0;
  return ends ? name.substr(0, name.size() - fast.size()) : name;
}

/// The tokens that are found in a text as they stand: those of a vocabulary, changed by what lies
/// beside it.
class AddedTokens {
 public:
  using Find = std::function<std::optional<TokenId>(const std::string&)>;

  /// Of a tokenizer.json.
  explicit AddedTokens(const Reader& file)
      : find_([vocabulary = file.at("model").at("vocab")](
                  const std::string& content) -> std::optional<TokenId> {
          const auto& table = vocabulary.json();
          const auto known = table.is_object() ? table.find(content) : table.end();
          if (known == table.end() || !known->is_number_integer()) return std::nullopt;
          return known->get<TokenId>();
        }),
        file_("tokenizer.json"),
        normalises_(file.has("normalizer")) {
    if (const auto list = file.find("added_tokens")) tokens_ = read_added(*list, normalises_);
  }
  /// Of a vocabulary without them, which `file` has, with those that its class has anyway.
  AddedTokens(Find find, std::string file, bool normalises, std::vector<AddedToken> tokens)
      : find_(std::move(find)),
        file_(std::move(file)),
        normalises_(normalises),
        tokens_(std::move(tokens)) {}

  std::optional<TokenId> find(const std::string& content) const {
    for (const AddedToken& token : tokens_)
      if (token.content == content) return token.id;
    return find_(content);
  }

  /// A table with "content", whose flags count more than those that are known. Nobody gives it a
  /// number where `id` is none.
  void take(const Reader& place, std::optional<std::int64_t> id, bool special) {
    AddedToken token = read_token(place, normalises_);
    token.special = special || token.special;
    token.id = number_of(place, token.content, id);
    tokens_.erase(std::remove_if(tokens_.begin(), tokens_.end(),
                                 [&](const auto& one) { return one.content == token.content; }),
                  tokens_.end());
    tokens_.push_back(std::move(token));
  }
  /// A token that is only named.
  void take_name(const Reader& place, const std::string& content, std::optional<std::int64_t> id,
                 bool special) {
    const TokenId number = number_of(place, content, id);
    const bool known = std::any_of(tokens_.begin(), tokens_.end(),
                                   [&](const auto& one) { return one.content == content; });
    if (!known) tokens_.push_back({content, number, special});
  }
  TokenId number_of(const Reader& place, const std::string& content,
                    std::optional<std::int64_t> id) const {
    const auto known = find(content);
    if (!known || (id && *id != *known))
      throw place.error("saw '" + content + "', needs a token of " + file_ +
                        (id ? " with this number" : ""));
    return *known;
  }

  std::vector<AddedToken> take_all() { return std::move(tokens_); }

 private:
  Find find_;
  std::string file_;
  bool normalises_;
  std::vector<AddedToken> tokens_;
};

std::string content_of(const Reader& named) {
  return named.json().is_object() ? named.at("content").text() : named.text();
}

void take_special(const Reader& place, AddedTokens& tokens) {
  if (place.json().is_object())
    tokens.take(place, std::nullopt, true);
  else
    tokens.take_name(place, place.text(), std::nullopt, true);
}

/// bos_token and the others. `spare` are those that the vocabulary need not have.
void take_specials(const fs::path& folder, const Reader& config, AddedTokens& tokens,
                   const std::set<std::string>& spare) {
  for (const char* key : special_keys) {
    const auto named = find_special(folder, key);
    if (!named) continue;
    const std::string content = content_of(*named);
    if (spare.count(content) == 0 || tokens.find(content)) take_special(*named, tokens);
  }
  const auto take_more = [&](const Reader& table) {
    if (const auto more = table.find("additional_special_tokens"))
      for (const Reader& token : more->items()) take_special(token, tokens);
  };
  take_more(config);
  // Older files, which Transformers reads only without that table.
  const fs::path map = folder / "special_tokens_map.json";
  if (!config.has("added_tokens_decoder") && fs::exists(map)) take_more(Reader::json_file(map));
}

std::vector<AddedToken> added_of(const fs::path& folder, const Reader& config, AddedTokens tokens,
                                 const std::set<std::string>& spare) {
  const auto table = config.find("added_tokens_decoder");
  if (table)
    for (const std::string& id : table->keys()) {
      const bool number =
          !id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos;
      tokens.take(table->at(id), number ? std::stoll(id) : -1, false);
    }
  take_specials(folder, config, tokens, spare);
  if (const fs::path path = folder / "added_tokens.json"; !table && fs::exists(path)) {
    const Reader more = Reader::json_file(path);
    for (const std::string& content : more.keys())
      tokens.take_name(more.at(content), content, more.at(content).integer(0, Vocabulary::most - 1),
                       false);
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

std::optional<Reader> named_class(const fs::path& folder) {
  for (const char* name : {"tokenizer_config.json", "config.json"})
    if (fs::exists(folder / name))
      if (auto kind = Reader::json_file(folder / name).find("tokenizer_class")) return kind;
  return std::nullopt;
}

std::string tokenizer_class(const fs::path& folder) {
  if (const auto kind = named_class(folder)) return without_fast(kind->text());
  if (!fs::exists(folder / "config.json")) return {};
  const std::string family = Reader::json_file(folder / "config.json").text("model_type", "");
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
  return content_of(*named);
}

std::vector<AddedToken> added_beside(const fs::path& folder, const std::string& file,
                                     const Vocabulary& vocabulary, bool normalises,
                                     const std::vector<UsualToken>& usual) {
  std::vector<AddedToken> tokens;
  std::set<std::string> spare, taken;
  for (const auto& [key, content, strip_left] : usual) {
    spare.insert(content);
    const std::string token = special_token(folder, key, content);
    const auto id = vocabulary.find(token);
    if (id && taken.insert(token).second) tokens.push_back({token, *id, true, strip_left});
  }
  const auto find = [&](const std::string& content) { return vocabulary.find(content); };
  return added_of(folder, tokenizer_config(folder),
                  AddedTokens(find, file, normalises, std::move(tokens)), spare);
}

TokenizerChanges changes_of(const fs::path& folder, const Reader& file) {
  const Reader config = tokenizer_config(folder);
  const std::string kind = tokenizer_class(folder);
  const auto named = named_class(folder);
  if (named && is_one_of(kind, other_classes))
    throw named->error("saw \"" + named->text() +
                       "\", which changes a tokenizer.json in ways that are not built");
  const bool words = file.at("model").text("type", "BPE") == "WordPiece";
  if (named && !words && is_one_of(kind, normalising_classes))
    throw named->error("saw \"" + named->text() +
                       "\", which cuts into WordPiece, beside a tokenizer.json of BPE");
  TokenizerChanges changes;
  changes.added = added_of(folder, config, AddedTokens(file), {});
  if (is_one_of(kind, normalising_classes)) {
    changes.lower_case = config.boolean("do_lower_case", true);
    changes.strip_accents = config.boolean("strip_accents", *changes.lower_case);
    changes.split_chinese = config.boolean("tokenize_chinese_chars", true);
  }
  if (is_one_of(kind, prefixing_classes))
    changes.prefix_space = config.boolean("add_prefix_space", false);
  if (kind == "LlamaTokenizer") changes.frame = llama_frame(folder, config, AddedTokens(file));
  return changes;
}

}  // namespace cleave::model
