#include "model/tokenizer/tokenizer_json.hpp"

#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "model/tokenizer/byte_pair.hpp"
#include "model/tokenizer/segment.hpp"
#include "model/tokenizer/wordpiece.hpp"

namespace cleave::model {
namespace {

using base::Reader;

/// A field that must be as the reference's default, since only that is known here.
template <class Value>
void expect(const Reader& table, const std::string& key, const Value& needed,
            const std::string& needs) {
  const auto field = table.find(key);
  if (field && field->json() != needed)
    throw field->error("saw " + field->json().dump() + ", needs " + needs);
}

/// ["a b", …] or [["a", "b"], …].
Merges read_merges(const Reader& list) {
  Merges merges;
  if (!list.json().is_array()) throw list.error("saw no list, needs merges");
  for (const auto& item : list.json()) {
    const auto wrong = [&] {
      return list.error("merge " + std::to_string(merges.size()) + ": saw " + item.dump() +
                        ", needs two tokens");
    };
    if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      merges.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
      continue;
    }
    if (!item.is_string()) throw wrong();
    const auto text = item.get<std::string>();
    const auto space = text.find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == text.size()) throw wrong();
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

TokenId read_pair(const Reader& pair) {
  const auto items = pair.items();
  if (items.size() != 2) throw pair.error("needs a token and its id");
  return static_cast<TokenId>(items[1].integer(0, Vocabulary::most - 1));
}

/// The numbers of a special token of a template.
std::vector<TokenId> read_special(const Reader& processor, const Reader& name) {
  std::vector<TokenId> ids;
  for (const Reader& id : processor.at("special_tokens").at(name.text()).at("ids").items())
    ids.push_back(static_cast<TokenId>(id.integer(0, Vocabulary::most - 1)));
  return ids;
}

/// Text A, of type 0, and text B behind it; type 1 marks what belongs to the second.
PairFrame read_pair_template(const Reader& processor) {
  PairFrame frame;
  std::vector<TokenId>* place = &frame.begin;
  for (const Reader& piece : processor.at("pair").items()) {
    if (piece.has("Sequence")) {
      const Reader text = piece.at("Sequence");
      const bool is_first = place == &frame.begin;
      if (place == &frame.end) throw piece.error("saw a third text, needs two");
      text.at("id").one_of({is_first ? "A" : "B"});
      const bool marked = text.integer("type_id", 0, is_first ? 0 : 1, 0) == 1;
      if (!is_first) frame.marks_second = marked;
      place = is_first ? &frame.between : &frame.end;
      continue;
    }
    const Reader special = piece.at("SpecialToken");
    const bool marked = special.integer("type_id", 0, 1, 0) == 1;
    for (const TokenId id : read_special(processor, special.at("id")))
      place->push_back(marked ? id | second_text : id);
  }
  if (place != &frame.end) throw processor.at("pair").error("saw no two texts, needs A and B");
  return frame;
}

Frame read_template(const Reader& processor) {
  Frame frame;
  bool behind = false;
  for (const Reader& piece : processor.at("single").items()) {
    if (piece.has("Sequence")) {
      if (behind) throw piece.error("saw a second text, needs one");
      piece.at("Sequence").integer("type_id", 0, 0, 0);
      behind = true;
      continue;
    }
    const Reader special = piece.at("SpecialToken");
    special.integer("type_id", 0, 0, 0);
    for (const TokenId id : read_special(processor, special.at("id")))
      (behind ? frame.end : frame.begin).push_back(id);
  }
  if (!behind) throw processor.at("single").error("saw no text, needs one");
  frame.pair = read_pair_template(processor);
  return frame;
}

Frame read_processor(const Reader& processor) {
  const std::string type = processor.at("type").one_of(
      {"TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel"});
  if (type == "ByteLevel") return {};  // only offsets
  if (type == "TemplateProcessing") return read_template(processor);
  const TokenId begin = read_pair(processor.at("cls")), end = read_pair(processor.at("sep"));
  if (type == "RobertaProcessing") return {{begin}, {end}, {{begin}, {end, end}, {end}, false}};
  return {{begin}, {end}, {{begin}, {end}, {end | second_text}}};
}

Frame read_frame(const Reader& file) {
  const auto processor = file.find("post_processor");
  if (!processor) return {};
  if (processor->at("type").text() != "Sequence") return read_processor(*processor);
  Frame frame;
  for (const Reader& step : processor->at("processors").items()) {
    Frame more = read_processor(step);
    frame.begin.insert(frame.begin.begin(), more.begin.begin(), more.begin.end());
    frame.end.insert(frame.end.end(), more.end.begin(), more.end.end());
    if (step.at("type").text() != "ByteLevel") frame.pair = std::move(more.pair);
  }
  return frame;
}

std::unique_ptr<TokenScheme> read_wordpiece(const Reader& file, const Reader& model,
                                            const TokenizerChanges& changes) {
  WordPieceOptions options;
  options.unknown = model.text("unk_token", options.unknown);
  options.continuation = model.text("continuing_subword_prefix", options.continuation);
  options.longest_word =
      static_cast<std::size_t>(model.integer("max_input_chars_per_word", 1, 1 << 20, 100));
  file.at("pre_tokenizer").at("type").one_of({"BertPreTokenizer"});
  const Reader normalizer = file.at("normalizer");
  normalizer.at("type").one_of({"BertNormalizer"});
  options.clean_text = normalizer.boolean("clean_text", true);
  options.split_chinese = normalizer.boolean("handle_chinese_chars", true);
  options.lower_case = normalizer.boolean("lowercase", true);
  options.strip_accents = normalizer.boolean("strip_accents", options.lower_case);
  options.lower_case = changes.lower_case.value_or(options.lower_case);
  options.strip_accents = changes.strip_accents.value_or(options.strip_accents);
  options.split_chinese = changes.split_chinese.value_or(options.split_chinese);
  try {
    return wordpiece(vocabulary_from_json(model.at("vocab")), options);
  } catch (const std::invalid_argument& wrong) {
    throw model.at("vocab").error(wrong.what());
  }
}

/// Digits, or a Split that makes every match a piece of its own.
std::shared_ptr<const Pattern> read_cut(const Reader& step) {
  if (step.at("type").text() == "Digits")
    return std::make_shared<Pattern>(step.boolean("individual_digits", false) ? "\\p{N}"
                                                                              : "\\p{N}+");
  step.at("behavior").one_of({"Isolated"});
  expect(step, "invert", false, "false");
  const Reader pattern = step.at("pattern");
  const Reader expression = pattern.at("Regex");
  try {
    return std::make_shared<Pattern>(expression.text());
  } catch (const std::invalid_argument& wrong) {
    throw expression.error(wrong.what());
  }
}

/// How a text is cut before its bytes are joined: by ByteLevel, or by a Sequence that ends with it.
void read_cuts(const Reader& words, BytePairOptions& options) {
  std::vector<Reader> steps = {words};
  if (words.at("type").one_of({"ByteLevel", "Sequence"}) == "Sequence")
    steps = words.at("pretokenizers").items();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (i + 1 < steps.size()) {
      steps[i].at("type").one_of({"Split", "Digits"});
      options.cuts.push_back(read_cut(steps[i]));
      continue;
    }
    steps[i].at("type").one_of({"ByteLevel"});
    options.gpt2_words = steps[i].boolean("use_regex", true);
    options.prefix_space = steps[i].boolean("add_prefix_space", true);
    if (steps.size() > 1 && options.prefix_space)
      throw steps[i].error("add_prefix_space: saw true, needs false in a Sequence");
  }
  if (steps.empty()) throw words.error("saw no step, needs ByteLevel at the end");
}

std::unique_ptr<TokenScheme> read_byte_pair(const Reader& file, const Reader& model,
                                            const TokenizerChanges& changes) {
  expect(model, "dropout", nullptr, "none");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    expect(model, affix, "", "none: byte-level BPE has it not");
  expect(model, "byte_fallback", false, "false: SentencePiece is not known");
  BytePairOptions options;
  options.words_first = model.boolean("ignore_merges", false);
  if (const auto normalizer = file.find("normalizer"))
    options.compose = normalizer->at("type").one_of({"NFC"}) == "NFC";
  const Reader words = file.at("pre_tokenizer");
  read_cuts(words, options);
  if (words.at("type").text() == "ByteLevel")
    options.prefix_space = changes.prefix_space.value_or(options.prefix_space);
  try {
    return byte_pair(vocabulary_from_json(model.at("vocab")), read_merges(model.at("merges")),
                     options);
  } catch (const std::invalid_argument& wrong) {
    throw model.error(wrong.what());
  }
}

}  // namespace

Vocabulary vocabulary_from_json(const Reader& table) {
  Vocabulary vocabulary;
  if (!table.json().is_object()) throw table.error("saw no table, needs tokens with their ids");
  // Straight from the document: a vocabulary has too many fields for a Reader each.
  for (const auto& [token, id] : table.json().items()) {
    if (!id.is_number_integer())
      throw table.error("token '" + token + "': saw " + id.dump() + ", needs an id");
    try {
      vocabulary.add(token, id.is_number_unsigned() && id.get<std::uint64_t>() >= Vocabulary::most
                                ? Vocabulary::most
                                : static_cast<TokenId>(id.get<std::int64_t>()));
    } catch (const std::invalid_argument& wrong) {
      throw table.error(wrong.what());
    }
  }
  return vocabulary;
}

AddedToken read_token(const Reader& item, bool has_normalizer) {
  AddedToken token;
  token.content = item.at("content").text();
  if (token.content.empty()) throw item.at("content").error("saw nothing, needs a token");
  token.special = item.boolean("special", false);
  token.strip_left = item.boolean("lstrip", false);
  token.strip_right = item.boolean("rstrip", false);
  expect(item, "single_word", false, "false");
  if (has_normalizer) expect(item, "normalized", false, "false beside a normalizer");
  return token;
}

std::vector<AddedToken> read_added(const Reader& list, bool has_normalizer) {
  std::vector<AddedToken> added;
  for (const Reader& item : list.items()) {
    added.push_back(read_token(item, has_normalizer));
    added.back().id = static_cast<TokenId>(item.at("id").integer(0, Vocabulary::most - 1));
  }
  return added;
}

namespace {

/// Tokens become text in the one way that goes with their kind.
void expect_decoder(const Reader& file, const std::string& kind) {
  if (const auto decoder = file.find("decoder")) decoder->at("type").one_of({kind});
}

}  // namespace

Tokenizer tokenizer_from_json(const Reader& file, const TokenizerChanges& changes) {
  file.allow({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
              "post_processor", "decoder", "model"});
  const Reader model = file.at("model");
  const std::string type =
      model.has("type") ? model.at("type").one_of({"WordPiece", "BPE"}) : "BPE";
  expect_decoder(file, type == "WordPiece" ? "WordPiece" : "ByteLevel");
  auto scheme = type == "WordPiece" ? read_wordpiece(file, model, changes)
                                    : read_byte_pair(file, model, changes);
  std::vector<AddedToken> added = changes.added.value_or(std::vector<AddedToken>());
  if (const auto list = file.find("added_tokens"); list && !changes.added)
    added = read_added(*list, file.has("normalizer"));
  Frame frame = changes.frame ? *changes.frame : read_frame(file);
  return {std::move(scheme), std::move(added), std::move(frame.begin), std::move(frame.end),
          std::move(frame.pair)};
}

}  // namespace cleave::model
