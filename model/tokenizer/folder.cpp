// Which files a model folder's tokenizer lies in.
#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "model/tokenizer/byte_pair.hpp"
#include "model/tokenizer/segment.hpp"
#include "model/tokenizer/sentence_piece.hpp"
#include "model/tokenizer/sentence_piece_file.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/tokenizer/tokenizer_config.hpp"
#include "model/tokenizer/tokenizer_json.hpp"
#include "model/tokenizer/unicode.hpp"
#include "model/tokenizer/wordpiece.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using base::Reader;

constexpr std::uint64_t largest_file = 128u << 20;
constexpr std::array vocabulary_files = {"tokenizer.model", "tokenizer.json", "vocab.txt",
                                         "vocab.json", "merges.txt"};
/// They count only beside a vocabulary.
constexpr std::array files_beside = {"special_tokens_map.json", "added_tokens.json"};
constexpr const char* config_file = "tokenizer_config.json";

std::runtime_error at_line(const fs::path& file, std::int64_t number, const std::string& what) {
  return std::runtime_error("[" + file.string() + "] line " + std::to_string(number + 1) + ": " +
                            what);
}

/// Each line, valid UTF-8, without its end ("\n" or "\r\n") and without a byte order mark.
template <class OnLine>
void for_lines(const fs::path& file, const OnLine& on_line) {
  std::istringstream lines{
      std::string(without_byte_order_mark(base::read_text(file, largest_file)))};
  std::int64_t number = 0;
  for (std::string line; std::getline(lines, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (const std::string wrong = why_not_utf8(line); !wrong.empty())
      throw at_line(file, number, wrong);
    on_line(line, number);
  }
}

/// Tokens that a folder adds to those of `file` are refused: the reference's versions do not agree
/// on the text around them.
void expect_no_more_tokens(const fs::path& folder, const std::string& file,
                           const Vocabulary& vocabulary) {
  const Reader config = tokenizer_config(folder);
  const auto expect_known = [&](const Reader& place, const std::string& token, std::int64_t id) {
    const auto known = vocabulary.find(token);
    if (!known || *known != id)
      throw place.error("saw '" + token + "', needs a token of " + file + " with this number");
  };
  if (const fs::path more = folder / "added_tokens.json"; fs::exists(more)) {
    const Reader table = Reader::json_file(more);
    for (const std::string& token : table.keys())
      expect_known(table.at(token), token, table.at(token).integer(0, Vocabulary::most - 1));
  }
  if (const auto table = config.find("added_tokens_decoder"))
    for (const std::string& id : table->keys()) {
      const Reader place = table->at(id);
      const std::string token = place.at("content").text();
      const auto known = vocabulary.find(token);
      expect_known(place, token, known && std::to_string(*known) == id ? *known : -1);
    }
}

/// Those that cut as BERT's does.
const std::vector<std::string> wordpiece_classes = {
    "BertTokenizer",     "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer",
    "ConvBertTokenizer", "LayoutLMTokenizer",   "LxmertTokenizer",  "SqueezeBertTokenizer"};

/// Throws where the folder names a class that is none of these, with or without "Fast".
void expect_class(const fs::path& folder, const std::vector<std::string>& known) {
  const auto named = named_class(folder);
  if (!named) return;
  std::vector<std::string> names = known;
  for (const std::string& name : known) names.push_back(name + "Fast");
  named->one_of(names);
}

/// The number of a special token that a class cannot do without.
TokenId needed(const fs::path& file, const Vocabulary& vocabulary, const char* key,
               const char* usual, const std::string& who) {
  const std::string token = special_token(file.parent_path(), key, usual);
  if (const auto id = vocabulary.find(token)) return *id;
  throw std::runtime_error("[" + file.string() + "] has no '" + token + "', which " + who +
                           " needs");
}

Tokenizer from_vocab_txt(const fs::path& folder) {
  expect_class(folder, wordpiece_classes);
  const fs::path file = folder / "vocab.txt";
  Vocabulary vocabulary;
  for_lines(file, [&](const std::string& line, std::int64_t number) {
    try {
      vocabulary.add(line, static_cast<TokenId>(number));
    } catch (const std::invalid_argument& wrong) {
      throw at_line(file, number, wrong.what());
    }
  });
  const Reader config = tokenizer_config(folder);
  WordPieceOptions options;
  options.lower_case = config.boolean("do_lower_case", true);
  options.strip_accents = config.boolean("strip_accents", options.lower_case);
  options.split_chinese = config.boolean("tokenize_chinese_chars", true);
  auto added = added_beside(folder, "vocab.txt", vocabulary, true,
                            {{"pad_token", "[PAD]"},
                             {"mask_token", "[MASK]"},
                             {"unk_token", "[UNK]"},
                             {"cls_token", "[CLS]"},
                             {"sep_token", "[SEP]"}});
  options.unknown = vocabulary.token(needed(file, vocabulary, "unk_token", "[UNK]", "BERT"));
  const TokenId begin = needed(file, vocabulary, "cls_token", "[CLS]", "BERT");
  const TokenId end = needed(file, vocabulary, "sep_token", "[SEP]", "BERT");
  return {wordpiece(std::move(vocabulary), options),
          std::move(added),
          {begin},
          {end},
          {{begin}, {end}, {end | second_text}}};
}

/// The ways of byte-level BPE whose files are the same.
enum class BytePairKind { gpt2, roberta, qwen2 };

constexpr std::pair<std::string_view, BytePairKind> byte_pair_classes[] = {
    {"GPT2Tokenizer", BytePairKind::gpt2},
    {"RobertaTokenizer", BytePairKind::roberta},
    {"Qwen2Tokenizer", BytePairKind::qwen2}};

bool has_merges(const fs::path& folder) {
  return fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt");
}

/// Where there is no tokenizer.json: whether vocab.txt is read. Where vocab.json lies beside it,
/// the class tells.
bool is_cut_by_vocab_txt(const fs::path& folder) {
  if (!fs::exists(folder / "vocab.txt") || !has_merges(folder))
    return fs::exists(folder / "vocab.txt");
  const std::string kind = tokenizer_class(folder);
  return std::none_of(std::begin(byte_pair_classes), std::end(byte_pair_classes),
                      [&](const auto& known) { return known.first == kind; });
}

/// By the class that Transformers would make: GPT-2's where the family's is none of these, and
/// refused where a file names another.
BytePairKind byte_pair_kind(const fs::path& folder) {
  const std::string kind = tokenizer_class(folder);
  std::vector<std::string> names;
  for (const auto& [name, known] : byte_pair_classes) {
    if (kind == name) return known;
    names.emplace_back(name);
  }
  expect_class(folder, names);
  return BytePairKind::gpt2;
}

std::vector<UsualToken> usual_tokens(BytePairKind kind) {
  if (kind == BytePairKind::roberta)
    return {{"bos_token", "<s>"},          {"eos_token", "</s>"},  {"unk_token", "<unk>"},
            {"sep_token", "</s>"},         {"pad_token", "<pad>"}, {"cls_token", "<s>"},
            {"mask_token", "<mask>", true}};
  std::vector<UsualToken> tokens = {{"unk_token", "<|endoftext|>"}, {"eos_token", "<|endoftext|>"}};
  tokens.push_back({kind == BytePairKind::qwen2 ? "pad_token" : "bos_token", "<|endoftext|>"});
  return tokens;
}

/// How texts are cut into words, as the class does where no tokenizer.json says it.
BytePairOptions byte_pair_options(BytePairKind kind, const Reader& config) {
  BytePairOptions options;
  options.prefix_space = config.boolean("add_prefix_space", false);
  if (kind != BytePairKind::qwen2) return options;
  options.compose = true;
  options.gpt2_words = false;
  options.cuts.push_back(std::make_shared<Pattern>(
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"));
  return options;
}

Tokenizer from_vocab_and_merges(const fs::path& folder) {
  const fs::path vocab_file = folder / "vocab.json", merges_file = folder / "merges.txt";
  const BytePairKind kind = byte_pair_kind(folder);
  Merges merges;
  for_lines(merges_file, [&](const std::string& line, std::int64_t number) {
    if (line.empty() || line.rfind("#version", 0) == 0) return;
    const auto space = line.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == line.size())
      throw at_line(merges_file, number, "saw '" + line + "', needs two tokens");
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  });
  Vocabulary vocabulary = vocabulary_from_json(Reader::json_file(vocab_file));
  auto added = added_beside(folder, "vocab.json", vocabulary, kind == BytePairKind::qwen2,
                            usual_tokens(kind));
  const Reader config = tokenizer_config(folder);
  std::vector<TokenId> begin, end;
  PairFrame pair;
  if (kind == BytePairKind::roberta) {
    begin = {needed(vocab_file, vocabulary, "cls_token", "<s>", "RoBERTa")};
    end = {needed(vocab_file, vocabulary, "sep_token", "</s>", "RoBERTa")};
    pair = {begin, {end[0], end[0]}, end, false};
  } else if (config.boolean("add_bos_token", false)) {
    const std::string token = special_token(folder, "bos_token", "<|endoftext|>");
    const auto id = vocabulary.find(token);
    if (!id)
      throw config.at("add_bos_token").error("saw true, needs '" + token + "' in vocab.json");
    begin = {*id};
  }
  try {
    return {byte_pair(std::move(vocabulary), merges, byte_pair_options(kind, config)),
            std::move(added), std::move(begin), std::move(end), std::move(pair)};
  } catch (const std::invalid_argument& wrong) {
    throw std::runtime_error("[" + merges_file.string() + "] " + wrong.what());
  }
}

/// Where a tokenizer.json that lies beside a tokenizer.model puts blanks. Throws where it does
/// more.
Blanks blanks_in(const Reader& json) {
  const nlohmann::json blank = "\xE2\x96\x81";
  const nlohmann::json before_each = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", blank}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", blank}}}}};
  const auto cuts = json.find("pre_tokenizer"), changes = json.find("normalizer");
  if (changes && changes->json() == before_each && !cuts) return Blanks::every;
  const std::string scheme = cuts && !changes && cuts->text("type", "") == "Metaspace"
                                 ? cuts->text("prepend_scheme", "")
                                 : "";
  if (scheme == "always") return Blanks::needed;
  if (scheme == "first") return Blanks::first;
  const Reader place = changes ? *changes : cuts ? *cuts : json;
  throw place.error(
      "saw another way to cut than tokenizer.model has beside it, needs a blank before the text "
      "(Prepend and Replace, or Metaspace), or only one of the two files");
}

/// Where a LlamaTokenizer puts blanks: as its tokenizer.json does or, without one, by `legacy`.
Blanks blanks_of(const Reader& config, const std::optional<Reader>& json) {
  const auto prefix = config.find("add_prefix_space");
  if (prefix && !prefix->boolean())
    throw prefix->error("saw false, needs true (a text without a blank before it is not built)");
  const Blanks own = config.boolean("legacy", true) ? Blanks::every : Blanks::first;
  if (!json) return own;
  const Blanks said = blanks_in(*json);
  // Transformers makes the tokenizer anew from tokenizer.model then.
  if (prefix && said != own)
    throw prefix->error(
        "saw it beside a tokenizer.json that puts blanks otherwise than `legacy` says, needs none");
  return said;
}

/// Throws where a tokenizer.json beside it has other tokens than tokenizer.model.
void expect_same_tokens(const Reader& json, const Vocabulary& vocabulary) {
  const Reader table = json.at("model").at("vocab");
  const Vocabulary other = vocabulary_from_json(table);
  for (TokenId id = 0; id < std::max(vocabulary.size(), other.size()); ++id)
    if (!vocabulary.has(id) || !other.has(id) || vocabulary.token(id) != other.token(id))
      throw table.error("saw another token " + std::to_string(id) +
                        " than tokenizer.model has beside it, needs the same");
}

/// The tokens that stand in a text as they are; `named` are those of tokenizer_config.json.
std::vector<AddedToken> sentence_piece_tokens(
    const fs::path& folder, const Vocabulary& vocabulary, std::vector<AddedToken> beside,
    const std::vector<std::pair<std::string, std::string>>& named) {
  const auto has = [&](const std::string& content) {
    return std::any_of(beside.begin(), beside.end(),
                       [&](const auto& token) { return token.content == content; });
  };
  for (const auto& [key, content] : named) {
    if (has(content)) continue;
    if (const auto id = vocabulary.find(content))
      beside.push_back({content, *id});
    else if (const auto said = find_special(folder, key))
      throw said->error("saw '" + content + "', needs a token of tokenizer.model");
  }
  return beside;
}

Tokenizer from_sentence_piece(const fs::path& folder) {
  const fs::path file = folder / "tokenizer.model", other = folder / "tokenizer.json";
  const Reader config = tokenizer_config(folder);
  expect_class(folder, {"LlamaTokenizer"});
  const std::vector<std::pair<std::string, std::string>> named = {
      {"bos_token", special_token(folder, "bos_token", "<s>")},
      {"eos_token", special_token(folder, "eos_token", "</s>")},
      {"unk_token", special_token(folder, "unk_token", "<unk>")}};
  std::optional<Reader> json;
  if (fs::exists(other)) json = Reader::json_file(other);
  std::vector<AddedToken> added;
  if (json) {
    if (!only_merges(base::read_text(file, largest_file)))
      throw json->error(
          "saw it beside a tokenizer.model that does more than merge, needs only one of the two");
    added = *changes_of(folder, *json).added;
  }
  std::set<std::string> written;
  for (const auto& [key, content] : named) written.insert(content);
  for (const AddedToken& token : added) written.insert(token.content);
  auto scheme =
      sentence_piece(file, std::move(written), sentence_piece_folders(), blanks_of(config, json));
  const Vocabulary& vocabulary = scheme->vocabulary();
  if (json)
    expect_same_tokens(*json, vocabulary);
  else
    expect_no_more_tokens(folder, "tokenizer.model", vocabulary);
  added = sentence_piece_tokens(folder, vocabulary, std::move(added), named);
  const auto around = [&](const char* key, bool fallback, const std::string& content) {
    std::vector<TokenId> ids;
    for (const AddedToken& token : added)
      if (token.content == content && config.boolean(key, fallback)) ids.push_back(token.id);
    return ids;
  };
  auto before = around("add_bos_token", true, named[0].second),
       behind = around("add_eos_token", false, named[1].second);
  PairFrame pair = each_surrounded(before, behind);
  return {std::move(scheme), std::move(added), std::move(before), std::move(behind),
          std::move(pair)};
}

Tokenizer read_files(const fs::path& folder) {
  const auto has = [&](const char* name) { return fs::exists(folder / name); };
  // Published Llama folders have both; this is what the other was made from.
  if (has("tokenizer.model")) return from_sentence_piece(folder);
  if (has("tokenizer.json")) {
    const Reader file = Reader::json_file(folder / "tokenizer.json");
    return tokenizer_from_json(file, changes_of(folder, file));
  }
  if (is_cut_by_vocab_txt(folder)) return from_vocab_txt(folder);
  if (has_merges(folder)) return from_vocab_and_merges(folder);
  throw std::runtime_error("[" + folder.string() +
                           "] has no tokenizer, needs tokenizer.json, vocab.txt, vocab.json with "
                           "merges.txt, or tokenizer.model");
}

/// The token that tokenizer_config.json calls the mask, else the one that BERT's or RoBERTa's
/// tokenizer calls so.
std::optional<TokenId> mask_of(const Tokenizer& tokenizer, const fs::path& folder) {
  if (const std::string named = special_token(folder, "mask_token", ""); !named.empty())
    return tokenizer.find(named);
  for (const char* usual : {"[MASK]", "<mask>"})
    if (const auto id = tokenizer.find(usual)) return id;
  return std::nullopt;
}

/// The class that a copy without its config.json has to name; empty where it need not.
std::string class_to_name(const fs::path& folder) {
  if (!has_tokenizer(folder)) return {};
  const std::string named = tokenizer_class(folder);
  if (fs::exists(folder / "tokenizer.model") || fs::exists(folder / "tokenizer.json")) return named;
  if (is_cut_by_vocab_txt(folder)) {
    const auto& known = wordpiece_classes;
    return std::find(known.begin(), known.end(), named) != known.end() ? named : known.front();
  }
  if (!fs::exists(folder / "vocab.json")) return named;
  // A Llama may read bytes: its class has other files.
  const BytePairKind kind = byte_pair_kind(folder);
  return std::string(std::find_if(std::begin(byte_pair_classes), std::end(byte_pair_classes),
                                  [&](const auto& known) { return known.second == kind; })
                         ->first);
}

}  // namespace

void copy_tokenizer(const fs::path& from, const fs::path& to) {
  if (fs::equivalent(from, to)) return;
  const auto copy = [&](const char* name) {
    if (fs::exists(from / name))
      base::write_whole(to / name, base::read_text(from / name, largest_file));
    else
      fs::remove(to / name);  // another tokenizer's
  };
  for (const char* name : vocabulary_files) copy(name);
  for (const char* name : files_beside) copy(name);
  // The class may stand in a config.json that does not go with them.
  const std::string kind = class_to_name(from);
  const Reader config = tokenizer_config(from);
  if (kind.empty() || config.has("tokenizer_class")) return copy(config_file);
  nlohmann::json with_class = config.json();
  with_class["tokenizer_class"] = kind;
  base::write_whole(to / config_file, with_class.dump(2) + "\n");
}

void expect_fits(const Tokenizer& tokenizer, std::int64_t vocabulary, const std::string& where) {
  // Vocabularies are filled up to round numbers, at times beyond a hundred tokens.
  const std::int64_t known = tokenizer.vocabulary_size();
  const std::int64_t spare = std::max<std::int64_t>(256, vocabulary / 32);
  if (known > vocabulary || vocabulary - known > spare)
    throw std::runtime_error("[" + where + "] tokenizer: saw " + std::to_string(known) +
                             " tokens, needs " + (known > vocabulary ? "at most " : "about ") +
                             "the model's vocabulary of " + std::to_string(vocabulary));
}

void write_byte_tokenizer(const fs::path& folder) {
  nlohmann::ordered_json vocabulary;
  for (int byte = 0; byte < 256; ++byte)
    vocabulary[letter_of_byte(static_cast<unsigned char>(byte))] = byte;
  base::write_whole(folder / "vocab.json", vocabulary.dump() + "\n");
  base::write_whole(folder / "merges.txt", "#version: 0.2\n");
}

Tokenizer read_tokenizer(const fs::path& folder) {
  Tokenizer tokenizer = read_files(folder);
  tokenizer.set_mask(mask_of(tokenizer, folder));
  return tokenizer;
}

Tokenizer read_tokenizer(const fs::path& folder, std::int64_t vocabulary) {
  Tokenizer tokenizer = read_tokenizer(folder);
  expect_fits(tokenizer, vocabulary, folder.string());
  return tokenizer;
}

bool has_tokenizer(const fs::path& folder) {
  return std::any_of(vocabulary_files.begin(), vocabulary_files.end(),
                     [&](const char* name) { return fs::exists(folder / name); });
}

}  // namespace cleave::model
