#include "model/tokenizer/tokenizer.hpp"

#include <algorithm>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "model/tokenizer/byte_pair.hpp"
#include "model/tokenizer/segment.hpp"
#include "model/tokenizer/sentence_piece.hpp"
#include "model/tokenizer/tokenizer_json.hpp"
#include "model/tokenizer/unicode.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using testing::Scratch;

const fs::path goldens = fs::path(CLEAVE_SOURCE_DIR) / "tests/goldens/tokenizers";

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

/// Ids and texts that the reference gives, made by tests/goldens/make_tokenizer_goldens.py.
void expect_cases(const Tokenizer& tokenizer, const std::string& name) {
  const auto file = nlohmann::json::parse(base::read_text(goldens / name / "cases.json"));
  ASSERT_GT(file.at("cases").size(), 90U);
  for (const auto& item : file.at("cases")) {
    const std::string text = from_hex(item.at("hex"));
    const std::vector<TokenId> ids = item.at("ids");
    EXPECT_EQ(tokenizer.encode(text), ids) << name << ": " << text << " " << item.at("hex");
    if (item.contains("text")) {
      EXPECT_EQ(tokenizer.decode(ids), item.at("text").get<std::string>()) << name << ": " << text;
    }
  }
}

/// A folder with these files of a golden.
void copy_files(const std::string& name, const std::vector<std::string>& files,
                const fs::path& folder) {
  fs::create_directories(folder);
  for (const auto& file : files) fs::copy_file(goldens / name / file, folder / file);
}

std::string refusal(const fs::path& folder);

// --- parity with the reference ---

TEST(Tokenizer, ReadsWordPieceFromTokenizerJson) {
  expect_cases(read_tokenizer(goldens / "wordpiece"), "wordpiece");
}

TEST(Tokenizer, ReadsWordPieceFromVocabTxt) {
  const Scratch scratch;
  copy_files("wordpiece", {"vocab.txt"}, scratch / "model");
  expect_cases(read_tokenizer(scratch / "model"), "wordpiece");
}

TEST(Unicode, DropsAByteOrderMarkFromTheBeginningAlone) {
  const std::string mark = "\xEF\xBB\xBF";
  EXPECT_EQ(without_byte_order_mark(mark + "a"), "a");
  EXPECT_EQ(without_byte_order_mark(mark), "");
  EXPECT_EQ(without_byte_order_mark("a" + mark), "a" + mark);
  EXPECT_EQ(without_byte_order_mark(mark.substr(0, 2)), mark.substr(0, 2));
  EXPECT_EQ(without_byte_order_mark(""), "");
}

// An editor on Windows writes one; it is no part of the first token.
TEST(Tokenizer, DropsAByteOrderMarkFromItsFiles) {
  const Scratch scratch;
  copy_files("wordpiece", {"vocab.txt"}, scratch / "pieces");
  copy_files("byte_pair", {"vocab.json", "merges.txt"}, scratch / "bytes");
  for (const char* file : {"pieces/vocab.txt", "bytes/vocab.json", "bytes/merges.txt"})
    base::write_whole(scratch / file, "\xEF\xBB\xBF" + base::read_text(scratch / file));
  expect_cases(read_tokenizer(scratch / "pieces"), "wordpiece");
  expect_cases(read_tokenizer(scratch / "bytes"), "byte_pair");
  copy_files("byte_pair", {"tokenizer.json"}, scratch / "json");
  base::write_whole(scratch / "json/tokenizer.json",
                    "\xEF\xBB\xBF" + base::read_text(scratch / "json/tokenizer.json"));
  expect_cases(read_tokenizer(scratch / "json"), "byte_pair");
}

TEST(Tokenizer, KeepsCaseAndAccentsWhereTheConfigSaysSo) {
  expect_cases(read_tokenizer(goldens / "wordpiece_cased"), "wordpiece_cased");
}

TEST(Tokenizer, ReadsByteLevelBpeFromTokenizerJson) {
  const Scratch scratch;
  copy_files("byte_pair", {"tokenizer.json"}, scratch / "model");
  expect_cases(read_tokenizer(scratch / "model"), "byte_pair");
}

TEST(Tokenizer, ReadsByteLevelBpeFromVocabularyAndMerges) {
  const Scratch scratch;
  copy_files("byte_pair", {"vocab.json", "merges.txt"}, scratch / "model");
  expect_cases(read_tokenizer(scratch / "model"), "byte_pair");
}

TEST(Tokenizer, CutsEveryDigitWhereTheFileSaysSo) {
  expect_cases(read_tokenizer(goldens / "digits"), "digits");
}

TEST(Tokenizer, CutsByThePatternInTheFile) {
  expect_cases(read_tokenizer(goldens / "split"), "split");
}

TEST(Tokenizer, ReadsRobertasFromTokenizerJson) {
  const Scratch scratch;
  copy_files("roberta", {"tokenizer.json"}, scratch / "model");
  expect_cases(read_tokenizer(scratch / "model"), "roberta");
}

TEST(Tokenizer, ReadsRobertasFromVocabularyAndMerges) {
  const Scratch scratch;
  copy_files("roberta", {"vocab.json", "merges.txt", "tokenizer_config.json"}, scratch / "model");
  expect_cases(read_tokenizer(scratch / "model"), "roberta");
  // Where no file names the class, the model does.
  fs::remove(scratch / "model/tokenizer_config.json");
  base::write_whole(scratch / "model/config.json", R"({"model_type": "roberta"})");
  expect_cases(read_tokenizer(scratch / "model"), "roberta");
}

TEST(Tokenizer, KeepsItsClassWhereItIsCopiedAwayFromItsModel) {
  const Scratch scratch;
  copy_files("roberta", {"vocab.json", "merges.txt"}, scratch / "model");
  base::write_whole(scratch / "model/config.json", R"({"model_type": "roberta"})");
  fs::create_directories(scratch / "copy");
  copy_tokenizer(scratch / "model", scratch / "copy");
  expect_cases(read_tokenizer(scratch / "copy"), "roberta");
  // A Llama that reads bytes has no class of its own for such files.
  copy_files("byte_pair", {"vocab.json", "merges.txt"}, scratch / "llama");
  base::write_whole(scratch / "llama/config.json", R"({"model_type": "llama"})");
  copy_tokenizer(scratch / "llama", scratch / "copy");
  expect_cases(read_tokenizer(scratch / "copy"), "byte_pair");
}

TEST(Tokenizer, ReadsQwen2sFromTokenizerJson) {
  const Scratch scratch;
  copy_files("qwen2", {"tokenizer.json"}, scratch / "model");
  expect_cases(read_tokenizer(scratch / "model"), "qwen2");
}

TEST(Tokenizer, ReadsQwen2sFromVocabularyAndMerges) {
  const Scratch scratch;
  copy_files("qwen2", {"vocab.json", "merges.txt"}, scratch / "model");
  base::write_whole(scratch / "model/tokenizer_config.json",
                    R"({"tokenizer_class": "Qwen2Tokenizer"})");
  const Tokenizer tokenizer = read_tokenizer(scratch / "model"),
                  whole = read_tokenizer(goldens / "qwen2");
  for (const std::string text : {"I'LL be 12345", "cafe\u0301", "x\r\n\r\n y  z"})
    EXPECT_EQ(tokenizer.encode(text), whole.encode(text)) << text;
  base::write_whole(scratch / "model/tokenizer_config.json",
                    R"({"tokenizer_class": "PhobertTokenizer"})");
  EXPECT_NE(refusal(scratch / "model")
                .find("tokenizer_class: saw \"PhobertTokenizer\", needs one of GPT2Tokenizer, "
                      "RobertaTokenizer, Qwen2Tokenizer"),
            std::string::npos);
}

TEST(Tokenizer, ReadsLlama3sFromTokenizerJson) {
  expect_cases(read_tokenizer(goldens / "llama3"), "llama3");
}

TEST(Tokenizer, KnowsItsMask) {
  EXPECT_EQ(read_tokenizer(goldens / "wordpiece").mask(), 4);
  EXPECT_EQ(read_tokenizer(goldens / "roberta").mask(), 4);
  EXPECT_EQ(read_tokenizer(goldens / "qwen2").mask(), std::nullopt);
  const Scratch scratch;
  copy_files("wordpiece", {"tokenizer.json"}, scratch / "model");
  base::write_whole(scratch / "model/tokenizer_config.json",
                    R"({"mask_token": {"content": "[UNK]"}})");
  EXPECT_EQ(read_tokenizer(scratch / "model").mask(), 1);
}

// Made by tests/goldens/make_beside_goldens.py: what AutoTokenizer gives of these files.
TEST(Tokenizer, ObeysTheFilesBesideItsVocabulary) {
  const auto golden = nlohmann::json::parse(base::read_text(goldens / "beside.json"));
  ASSERT_GT(golden.at("cases").size(), 20U);
  for (const auto& item : golden.at("cases")) {
#ifndef CLEAVE_HAS_SENTENCE_PIECE
    if (item.at("golden").contains("tokenizer.model")) continue;
#endif
    const Scratch scratch;
    fs::create_directories(scratch / "from");
    fs::create_directories(scratch / "to");
    for (const auto& [name, from] : item.at("golden").items())
      fs::copy_file(goldens / from.get<std::string>(), scratch / "from" / name);
    for (const auto& [name, content] : item.at("files").items())
      base::write_whole(scratch / "from" / name, content.dump());
    const Tokenizer tokenizer = read_tokenizer(scratch / "from");
    // Where config.json stays behind, what it says of the tokenizer goes along.
    copy_tokenizer(scratch / "from", scratch / "to");
    const Tokenizer copied = read_tokenizer(scratch / "to");
    for (std::size_t i = 0; i < golden.at("texts").size(); ++i) {
      const auto text = golden.at("texts")[i].get<std::string>();
      const std::vector<TokenId> ids = item.at("ids")[i];
      auto files = item.at("files");
      files.erase("tokenizer.json");
      EXPECT_EQ(tokenizer.encode(text), ids) << text << " " << item.at("golden") << files;
      EXPECT_EQ(copied.encode(text), ids) << text << " " << item.at("golden") << files;
    }
  }
}

/// Ids and types of a row that encode_pair() gave.
std::pair<std::vector<TokenId>, std::vector<int>> parted(const std::vector<TokenId>& row) {
  std::pair<std::vector<TokenId>, std::vector<int>> parted;
  for (const TokenId id : row) {
    parted.first.push_back(static_cast<TokenId>(token_of(id)));
    parted.second.push_back(in_second_text(id) ? 1 : 0);
  }
  return parted;
}

TEST(Tokenizer, EncodesPairsAsTheReferenceDoesAndCutsThemAsItTruncates) {
  const auto ways = nlohmann::json::parse(base::read_text(goldens / "pairs.json"));
  ASSERT_EQ(ways.size(), 9U);
  const Scratch scratch;
  copy_files("roberta", {"vocab.json", "merges.txt", "tokenizer_config.json"}, scratch / "roberta");
  copy_files("wordpiece_cased", {"vocab.txt", "tokenizer_config.json"},
             scratch / "wordpiece_cased");
  for (const auto& way : ways) {
    const fs::path folder = goldens / way.at("folder").get<std::string>();
    auto json = way.at("post_processor");
    if (!json.is_null()) {
      json = nlohmann::json::parse(base::read_text(folder / "tokenizer.json"));
      json["post_processor"] = way.at("post_processor");
    }
    const Tokenizer tokenizer =
        json.is_null() ? read_tokenizer(scratch / way.at("folder").get<std::string>())
                       : tokenizer_from_json(base::Reader::json_text(json.dump(), "test"));
    for (const auto& item : way.at("cases")) {
      const std::string first = item.at("first"), second = item.at("second");
      const std::size_t length = item.at("length");
      const auto [ids, types] = parted(tokenizer.encode_pair(first, second, true, length));
      EXPECT_EQ(ids, item.at("ids").get<std::vector<TokenId>>()) << item << way["post_processor"];
      EXPECT_EQ(types, item.at("types").get<std::vector<int>>()) << item << way["post_processor"];
      EXPECT_EQ(tokenizer.encode_pair(first, second, false, length), ids);
    }
  }
}

// --- what the reference does not say ---

TEST(Tokenizer, TakesAWordThatIsATokenWholeWhereTheFileSaysSo) {
  auto json = nlohmann::json::parse(base::read_text(goldens / "split/tokenizer.json"));
  const auto tokens_of = [&] {
    return tokenizer_from_json(base::Reader::json_text(json.dump(), "tokenizer.json"))
        .encode("qzx", false);
  };
  json["model"]["vocab"]["qzx"] = 700;  // no merge makes it
  EXPECT_EQ(tokens_of().size(), 3U);
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokens_of(), std::vector<TokenId>{700});
}

TEST(Tokenizer, ALongLineIsNotTooMuchForAPattern) {
  const Tokenizer tokenizer = read_tokenizer(goldens / "split");
  for (const std::string& unit :
       {std::string("x"), std::string(" "), std::string("\n"), std::string("a 1")}) {
    std::string text;
    while (text.size() < 100000) text += unit;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << unit;
  }
}

TEST(Tokenizer, ByteLevelBpeGivesEveryTextBack) {
  const Tokenizer tokenizer = read_tokenizer(goldens / "byte_pair");
  for (const std::string text : {"plain", "  two  blanks \n", "naïve 人 😀", "\x01 control"})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(Tokenizer, LeavesSpecialTokensOutOrIn) {
  const Tokenizer tokenizer = read_tokenizer(goldens / "wordpiece");
  const auto ids = tokenizer.encode("a");
  EXPECT_EQ(tokenizer.encode("a", false), std::vector<TokenId>({ids.at(1)}));
  EXPECT_EQ(tokenizer.decode(ids), "a");
  EXPECT_EQ(tokenizer.decode(ids, false), "[CLS] a [SEP]");
}

TEST(Tokenizer, TakesTokensThatWereAddedLater) {
  auto json = nlohmann::json::parse(base::read_text(goldens / "byte_pair/tokenizer.json"));
  json["added_tokens"].push_back(
      {{"id", 600}, {"content", "<tool>"}, {"special", false}, {"rstrip", true}});
  const auto tokenizer =
      tokenizer_from_json(base::Reader::json_text(json.dump(), "tokenizer.json"));
  const auto ids = tokenizer.encode("a<tool>  b");
  EXPECT_EQ(ids.at(1), 600);
  EXPECT_EQ(ids.size(), 3U);
  EXPECT_EQ(tokenizer.decode(ids), "a<tool>b");
  EXPECT_EQ(tokenizer.vocabulary_size(), 601);
}

TEST(Tokenizer, KnowsHowManyRowsAnEmbeddingNeeds) {
  const Tokenizer tokenizer = read_tokenizer(goldens / "byte_pair");
  EXPECT_EQ(tokenizer.vocabulary_size(), 520);
  EXPECT_EQ(tokenizer.find("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer.find("no such token"), std::nullopt);
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(first_invalid_utf8("fine, 人 too"), std::nullopt);
  EXPECT_EQ(first_invalid_utf8("a\xFF"), 1U);
  EXPECT_EQ(first_invalid_utf8("\xC3"), 0U);
  EXPECT_EQ(first_invalid_utf8("人\xED\xA0\x80"), 3U);
}

// --- doors ---

std::string refusal(const fs::path& folder) {
  try {
    read_tokenizer(folder);
  } catch (const std::runtime_error& wrong) {
    return wrong.what();
  }
  return "nothing was refused";
}

/// A golden's tokenizer.json, changed.
template <class Change>
std::string refusal_of(const std::string& name, const Change& change) {
  const Scratch scratch;
  auto json = nlohmann::json::parse(base::read_text(goldens / name / "tokenizer.json"));
  change(json);
  try {
    tokenizer_from_json(base::Reader::json_text(json.dump(), "tokenizer.json"));
  } catch (const std::runtime_error& wrong) {
    return wrong.what();
  }
  return "nothing was refused";
}

TEST(Tokenizer, SaysWhatAFolderNeeds) {
  const Scratch scratch;
  EXPECT_EQ(refusal(scratch.path()),
            "[" + scratch.path().string() +
                "] has no tokenizer, needs tokenizer.json, vocab.txt, vocab.json with merges.txt, "
                "or tokenizer.model");
}

TEST(Tokenizer, RefusesAVocabularyThatSaysTwoThings) {
  const Scratch scratch;
  base::write_whole(scratch / "vocab.txt", "[UNK]\n[CLS]\n[SEP]\nthe\nthe\n");
  EXPECT_EQ(refusal(scratch.path()), "[" + (scratch / "vocab.txt").string() +
                                         "] line 5: token 'the': saw id 4, it has 3 already");
  base::write_whole(scratch / "vocab.txt", "[UNK]\nthe\n");
  EXPECT_EQ(refusal(scratch.path()),
            "[" + (scratch / "vocab.txt").string() + "] has no '[CLS]', which BERT needs");
  EXPECT_EQ(refusal_of("byte_pair", [](auto& json) { json["model"]["vocab"]["new"] = 5; })
                .rfind("[tokenizer.json] model.vocab: token ", 0),
            0U);
}

TEST(Tokenizer, RefusesFilesThatAreNoUtf8) {
  const Scratch scratch;
  base::write_whole(scratch / "vocab.txt", "[UNK]\n[CLS]\nth\xff\n[SEP]\n");
  EXPECT_EQ(refusal(scratch.path()),
            "[" + (scratch / "vocab.txt").string() + "] line 3: byte 2: is no valid UTF-8");
  fs::remove(scratch / "vocab.txt");
  base::write_whole(scratch / "vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
  base::write_whole(scratch / "merges.txt", "#version: 0.2\na b\n\xc3 b\n");
  EXPECT_EQ(refusal(scratch.path()),
            "[" + (scratch / "merges.txt").string() + "] line 3: byte 0: is no valid UTF-8");
  base::write_whole(scratch / "merges.txt", "#version: 0.2\na b\n");
  base::write_whole(scratch / "vocab.json", "{\"a\": 0, \"b\": 1, \"a\xed\xa0\x80\": 2}");
  EXPECT_NE(refusal(scratch.path()).find("vocab.json"), std::string::npos);
}

TEST(Tokenizer, RefusesIdsThatNoModelHas) {
  for (const auto& id : {nlohmann::json(-1), nlohmann::json(std::int64_t{1} << 40),
                         nlohmann::json(~std::uint64_t{0}), nlohmann::json("5")}) {
    const std::string said =
        refusal_of("byte_pair", [&](auto& json) { json["model"]["vocab"]["new"] = id; });
    EXPECT_EQ(said.rfind("[tokenizer.json] model.vocab: token 'new': saw ", 0), 0U) << said;
  }
}

TEST(Tokenizer, RefusesMergesThatMakeNoToken) {
  EXPECT_EQ(refusal_of("byte_pair", [](auto& json) { json["model"]["merges"] = {"t q"}; }),
            "[tokenizer.json] model: merge 0: 't q' needs 'tq', which is not in the vocabulary");
  EXPECT_EQ(refusal_of("byte_pair", [](auto& json) { json["model"]["merges"] = {"tq"}; }),
            "[tokenizer.json] model.merges: merge 0: saw \"tq\", needs two tokens");
  const Scratch scratch;
  copy_files("byte_pair", {"vocab.json"}, scratch / "model");
  base::write_whole(scratch / "model/merges.txt", "#version: 0.2\nt h\nth\n");
  EXPECT_EQ(refusal(scratch / "model"),
            "[" + (scratch / "model/merges.txt").string() + "] line 3: saw 'th', needs two tokens");
}

TEST(Tokenizer, RefusesTokensAddedBesideTheVocabularyFiles) {
  const Scratch scratch;
  copy_files("byte_pair", {"vocab.json", "merges.txt"}, scratch / "bpe");
  copy_files("wordpiece", {"vocab.txt"}, scratch / "pieces");
  const auto added = [&](const std::string& folder, const std::string& tokens) {
    base::write_whole(scratch / folder / "added_tokens.json", tokens);
    return refusal(scratch / folder);
  };
  EXPECT_EQ(added("bpe", R"({"<|user|>": 50258})"),
            "[" + (scratch / "bpe/added_tokens.json").string() +
                "] \"<|user|>\": saw '<|user|>', needs a token of vocab.json with this number");
  EXPECT_NE(added("pieces", R"({"[E1]": 30522})").find("needs a token of vocab.txt"),
            std::string::npos);
  const auto mask = read_tokenizer(goldens / "wordpiece").find("[MASK]");
  EXPECT_EQ(added("pieces", "{\"[MASK]\": " + std::to_string(*mask) + "}"), "nothing was refused");
}

/// A folder of these files, and how a text in it is cut: the reference's numbers stand in the
/// tests.
class Forged {
 public:
  explicit Forged(const std::vector<std::pair<std::string, nlohmann::json>>& files) {
    for (const auto& [name, content] : files)
      base::write_whole(scratch_ / name,
                        content.is_string() ? content.get<std::string>() : content.dump());
  }
  std::vector<TokenId> encode(const std::string& text) const {
    return read_tokenizer(scratch_.path()).encode(text);
  }
  std::string text_without_specials(const std::string& text) const {
    const Tokenizer tokenizer = read_tokenizer(scratch_.path());
    return tokenizer.decode(tokenizer.encode(text));
  }
  /// Without the folder.
  std::string refused() const {
    const std::string said = refusal(scratch_.path()), where = "[" + scratch_.path().string() + "/";
    return said.rfind(where, 0) == 0 ? said.substr(where.size()) : said;
  }

 private:
  Scratch scratch_;
};

const std::string small_vocab_txt =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n[E1]\ne\n##1\n[\n]\n1\n";
const nlohmann::json bert_class = {{"tokenizer_class", "BertTokenizer"}};
const nlohmann::json added_e1 = {{"content", "[E1]"}, {"normalized", false}, {"special", true}};

TEST(Tokenizer, FindsTheTokensThatAreNamedBesideVocabTxt) {
  const std::vector<TokenId> whole = {2, 5, 7, 6, 3}, cut = {2, 5, 10, 8, 9, 11, 6, 3};
  const auto forged = [](const std::string& name, const nlohmann::json& content) {
    return Forged({{"vocab.txt", small_vocab_txt}, {name, content}});
  };
  EXPECT_EQ(forged("tokenizer_config.json", bert_class).encode("a [E1] b"), cut);
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    EXPECT_EQ(forged(file, {{"additional_special_tokens", {"[E1]"}}}).encode("a [E1] b"), whole);
    EXPECT_EQ(forged(file, {{"bos_token", "[E1]"}}).encode("a [E1] b"), whole) << file;
    EXPECT_EQ(forged(file, {{"pad_token", {{"content", "[E1]"}}}}).encode("a [E1] b"), whole);
  }
  const auto table = [&](const nlohmann::json& token) {
    return forged("tokenizer_config.json", {{"added_tokens_decoder", {{"7", token}}}});
  };
  EXPECT_EQ(table(added_e1).encode("a [E1] b"), whole);
  EXPECT_EQ(table(added_e1).text_without_specials("a [E1] b"), "a b");
  auto plain = added_e1;
  plain["special"] = false;
  EXPECT_EQ(table(plain).text_without_specials("a [E1] b"), "a [E1] b");
  EXPECT_EQ(forged("added_tokens.json", {{"[E1]", 7}}).encode("a [E1] b"), whole);
  EXPECT_EQ(forged("added_tokens.json", {{"[E1]", 7}}).text_without_specials("a [E1] b"),
            "a [E1] b");
  // A special token that is named otherwise is no longer found by its usual name.
  EXPECT_EQ(forged("tokenizer_config.json", {{"mask_token", "[E1]"}}).encode("[MASK]"),
            (std::vector<TokenId>{2, 10, 1, 11, 3}));
  EXPECT_EQ(forged("tokenizer_config.json", {{"bos_token", "<s>"}}).refused(),
            "tokenizer_config.json] bos_token: saw '<s>', needs a token of vocab.txt");
  EXPECT_EQ(
      forged("tokenizer_config.json", {{"added_tokens_decoder", {{"8", added_e1}}}}).refused(),
      "tokenizer_config.json] added_tokens_decoder.8: saw '[E1]', needs a token of vocab.txt "
      "with this number");
}

TEST(Tokenizer, FindsTheTokensThatAreNamedBesideMerges) {
  // The bytes, then more; no merges.
  nlohmann::json letters = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte)
    letters[letter_of_byte(static_cast<unsigned char>(byte))] = byte;
  const auto encode = [&](const nlohmann::json& config, const std::string& text) {
    nlohmann::json vocabulary = letters;
    vocabulary["<one>"] = 256;
    vocabulary["<|endoftext|>"] = 257;
    return Forged({{"vocab.json", vocabulary},
                   {"merges.txt", "#version: 0.2\n"},
                   {"tokenizer_config.json", config}})
        .encode(text);
  };
  const std::vector<TokenId> whole = {'a', 256, 'b'}, end = {257};
  const std::vector<TokenId> cut = {'a', '<', 'o', 'n', 'e', '>', 'b'};
  for (const char* kind : {"GPT2Tokenizer", "Qwen2Tokenizer"}) {
    EXPECT_EQ(encode({{"tokenizer_class", kind}}, "a<one>b"), cut) << kind;
    EXPECT_EQ(encode({{"tokenizer_class", kind}}, "<|endoftext|>"), end) << kind;
    for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
      const nlohmann::json config = {{"tokenizer_class", kind}, {key, "<one>"}};
      EXPECT_EQ(encode(config, "a<one>b"), whole) << config;
      EXPECT_EQ(encode(config, "<|endoftext|>"), end) << config;
    }
    const nlohmann::json more = {{"tokenizer_class", kind},
                                 {"additional_special_tokens", {"<one>"}}};
    EXPECT_EQ(encode(more, "a<one>b"), whole) << kind;
    const nlohmann::json token = {
        {"content", "<one>"}, {"lstrip", true}, {"rstrip", true}, {"normalized", false}};
    const nlohmann::json table = {{"tokenizer_class", kind},
                                  {"added_tokens_decoder", {{"256", token}}}};
    EXPECT_EQ(encode(table, "a <one> b"), whole) << kind;
    const nlohmann::json named = {{"tokenizer_class", kind}, {"eos_token", token}};
    EXPECT_EQ(encode(named, "a <one> b"), whole) << kind;
  }
  // All of GPT-2's have another name.
  const nlohmann::json renamed = {{"tokenizer_class", "GPT2Tokenizer"},
                                  {"bos_token", "<one>"},
                                  {"eos_token", "<one>"},
                                  {"unk_token", "<one>"}};
  EXPECT_EQ(encode(renamed, "a<one>b"), whole);
  EXPECT_EQ(encode(renamed, "<|endoftext|>").size(), 13U);
  EXPECT_THROW(encode({{"pad_token", "<two>"}}, "a"), std::runtime_error);
}

TEST(Tokenizer, FindsTheTokensOfAddedTokensBesideTokenizerJson) {
  const nlohmann::json vocabulary = {{"[UNK]", 0}, {"a", 1},   {"b", 2}, {"[E1]", 3},
                                     {"e", 4},     {"##1", 5}, {"[", 6}, {"]", 7}};
  const nlohmann::json json = {
      {"normalizer", {{"type", "BertNormalizer"}, {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"model", {{"type", "WordPiece"}, {"unk_token", "[UNK]"}, {"vocab", vocabulary}}}};
  EXPECT_EQ(Forged({{"tokenizer.json", json}}).encode("a [E1] b"),
            (std::vector<TokenId>{1, 6, 4, 5, 7, 2}));
  EXPECT_EQ(
      Forged({{"tokenizer.json", json}, {"added_tokens.json", {{"[E1]", 3}}}}).encode("a [E1] b"),
      (std::vector<TokenId>{1, 3, 2}));
}

nlohmann::json golden_json(const char* name) {
  return nlohmann::json::parse(base::read_text(goldens / name / "tokenizer.json"));
}

// As Transformers' fast classes do; the tokens that are expected are its own.
TEST(Tokenizer, TakesATokenizerJsonAsItsClassDoes) {
  nlohmann::json bytes = golden_json("byte_pair"), words = golden_json("wordpiece");
  bytes["pre_tokenizer"]["add_prefix_space"] = true;
  words["normalizer"]["lowercase"] = false;
  const auto encode = [](const nlohmann::json& json, const std::string& text,
                         const nlohmann::json& config, const char* file) {
    return Forged({{"tokenizer.json", json}, {file, config}}).encode(text);
  };
  using Ids = std::vector<TokenId>;
  const Ids blank = {476, 416, 507, 267, 274, 271}, none = {67, 341, 416, 507, 267, 274, 271},
            cased = {2, 1, 132, 59, 70, 77, 6, 15, 16, 3},
            lower = {2, 22, 57, 109, 61, 132, 59, 70, 77, 6, 15, 16, 3};
  for (const char* file : {"tokenizer_config.json", "config.json"}) {
    for (const std::string kind :
         {"GPT2Tokenizer", "RobertaTokenizerFast", "BartTokenizer", "CodeGenTokenizerFast",
          "LongformerTokenizer", "DebertaTokenizer", "BlenderbotTokenizer", "LEDTokenizer",
          "MvpTokenizer"})
      EXPECT_EQ(encode(bytes, "caf\xc3\xa9 12 the cat", {{"tokenizer_class", kind}}, file), none)
          << kind;
    for (const std::string kind : {"PreTrainedTokenizerFast", "Qwen2Tokenizer", "BloomTokenizer"})
      EXPECT_EQ(encode(bytes, "caf\xc3\xa9 12 the cat", {{"tokenizer_class", kind}}, file), blank)
          << kind;
    for (const std::string kind :
         {"BertTokenizer", "ConvBertTokenizerFast", "FunnelTokenizer", "MPNetTokenizer",
          "DPRReaderTokenizer", "LxmertTokenizer", "SqueezeBertTokenizer", "LayoutLMTokenizer"})
      EXPECT_EQ(encode(words, "Hello world, a b", {{"tokenizer_class", kind}}, file), lower)
          << kind;
    EXPECT_EQ(encode(words, "Hello world, a b", {{"tokenizer_class", "RobertaTokenizer"}}, file),
              cased);
  }
  EXPECT_EQ(encode(bytes, "caf\xc3\xa9 12 the cat",
                   {{"tokenizer_class", "BartTokenizer"}, {"add_prefix_space", true}},
                   "tokenizer_config.json"),
            blank);
}

TEST(Tokenizer, RefusesAClassThatMakesAnotherTokenizerOfItsFiles) {
  const auto refused = [](std::vector<std::pair<std::string, nlohmann::json>> files,
                          const char* file, const std::string& kind) {
    files.emplace_back(file, nlohmann::json{{"tokenizer_class", kind}});
    return Forged(files).refused();
  };
  for (const char* file : {"tokenizer_config.json", "config.json"}) {
    const std::string where = file + std::string("] tokenizer_class: saw ");
    for (const char* golden : {"byte_pair", "wordpiece"})
      for (const std::string kind :
           {"CodeLlamaTokenizer", "CohereTokenizerFast", "GPTNeoXTokenizer", "GemmaTokenizer",
            "MBartTokenizer", "WhisperTokenizerFast"})
        EXPECT_EQ(
            refused({{"tokenizer.json", golden_json(golden)}}, file, kind),
            where + "\"" + kind + "\", which changes a tokenizer.json in ways that are not built");
    for (const std::string kind : {"BertTokenizer", "DistilBertTokenizerFast"})
      EXPECT_EQ(
          refused({{"tokenizer.json", golden_json("byte_pair")}}, file, kind),
          where + "\"" + kind + "\", which cuts into WordPiece, beside a tokenizer.json of BPE");
    for (const std::string kind : {"PhobertTokenizer", "BartTokenizer", "LlamaTokenizer"}) {
      const std::string said =
          refused({{"vocab.json", nlohmann::json{{"a", 0}}}, {"merges.txt", ""}}, file, kind);
      EXPECT_EQ(said.rfind(where + "\"" + kind + "\", needs one of GPT2Tokenizer", 0), 0U) << said;
    }
    const Scratch scratch;
    fs::create_directory(scratch / "llama");
    fs::copy(goldens / "sentence_piece/tokenizer.model", scratch / "llama/tokenizer.model");
    base::write_whole(scratch / "llama" / file, R"({"tokenizer_class": "GemmaTokenizer"})");
    const std::string said = refusal(scratch / "llama");
    EXPECT_NE(said.find(where + "\"GemmaTokenizer\", needs one of LlamaTokenizer"),
              std::string::npos)
        << said;
  }
}

TEST(Tokenizer, ReadsTheVocabularyOfItsClassWhereThereAreTwo) {
  const Scratch scratch;
  copy_files("byte_pair", {"vocab.json", "merges.txt"}, scratch / "model");
  copy_files("wordpiece", {"vocab.txt"}, scratch / "model");
  const auto read_as = [&](const char* file, const std::string& text) {
    base::write_whole(scratch / "model" / file, text);
    Tokenizer tokenizer = read_tokenizer(scratch / "model");
    fs::remove(scratch / "model" / file);
    return tokenizer;
  };
  expect_cases(read_as("config.json", R"({"model_type": "gpt2"})"), "byte_pair");
  expect_cases(read_as("tokenizer_config.json", R"({"tokenizer_class": "GPT2TokenizerFast"})"),
               "byte_pair");
  expect_cases(read_as("config.json", R"({"model_type": "bert"})"), "wordpiece");
  expect_cases(read_as("tokenizer_config.json", R"({"tokenizer_class": "BertTokenizer"})"),
               "wordpiece");
}

TEST(Tokenizer, RefusesAClassThatReadsVocabTxtOtherwise) {
  for (const char* file : {"tokenizer_config.json", "config.json"}) {
    const auto of_class = [&](const char* kind) {
      return Forged({{"vocab.txt", small_vocab_txt}, {file, {{"tokenizer_class", kind}}}})
          .refused();
    };
    for (const char* kind : {"BertJapaneseTokenizer", "RoFormerTokenizer", "MPNetTokenizer"})
      EXPECT_EQ(of_class(kind).rfind(file + std::string("] tokenizer_class: saw \"") + kind +
                                         "\", needs one of BertTokenizer, DistilBertTokenizer",
                                     0),
                0U)
          << of_class(kind);
    for (const char* kind : {"BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer",
                             "ElectraTokenizerFast", "MobileBertTokenizer"})
      EXPECT_EQ(of_class(kind), "nothing was refused");
  }
  // Where no file names a class, vocab.txt is BERT's, in a copy too.
  const Scratch scratch;
  for (const char* folder : {"from", "to"}) fs::create_directories(scratch / folder);
  base::write_whole(scratch / "from/vocab.txt", small_vocab_txt);
  base::write_whole(scratch / "from/config.json", R"({"model_type": "gpt2"})");
  copy_tokenizer(scratch / "from", scratch / "to");
  EXPECT_EQ(read_tokenizer(scratch / "to").encode("a"), (std::vector<TokenId>{2, 5, 3}));
}

// Transformers would give the token a number that no model has a row for.
TEST(Tokenizer, RefusesFilesThatContradictTokenizerJson) {
  const Scratch scratch;
  copy_files("wordpiece", {"tokenizer.json"}, scratch / "model");
  const auto said = [&](const std::string& name, const nlohmann::json& content) {
    const fs::path file = scratch / "model" / name;
    base::write_whole(file, content.dump());
    const std::string error = refusal(scratch / "model");
    fs::remove(file);
    const std::string where = "[" + file.string() + "] ";
    return error.rfind(where, 0) == 0 ? error.substr(where.size()) : error;
  };
  const nlohmann::json decoder = {{"content", "<|user|>"}, {"normalized", false}};
  EXPECT_EQ(said("tokenizer_config.json", {{"added_tokens_decoder", {{"420", decoder}}}}),
            "added_tokens_decoder.420: saw '<|user|>', needs a token of tokenizer.json with this "
            "number");
  EXPECT_EQ(
      said("tokenizer_config.json",
           {{"added_tokens_decoder", {{"5", {{"content", "[MASK]"}, {"normalized", false}}}}}}),
      "added_tokens_decoder.5: saw '[MASK]', needs a token of tokenizer.json with this "
      "number");
  EXPECT_EQ(said("tokenizer_config.json", {{"pad_token", "<pad>"}}),
            "pad_token: saw '<pad>', needs a token of tokenizer.json");
  EXPECT_EQ(said("special_tokens_map.json", {{"additional_special_tokens", {"<|user|>"}}}),
            "additional_special_tokens[0]: saw '<|user|>', needs a token of tokenizer.json");
  EXPECT_EQ(said("added_tokens.json", {{"<|user|>", 420}}),
            "\"<|user|>\": saw '<|user|>', needs a token of tokenizer.json with this number");
  EXPECT_EQ(said("tokenizer_config.json", {{"do_basic_tokenize", false}})
                .rfind("do_basic_tokenize: saw false, needs true", 0),
            0U);
  EXPECT_EQ(said("tokenizer_config.json", {{"mask_token", "[MASK]"}}), "nothing was refused");
}

TEST(Tokenizer, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(refusal_of("wordpiece", [](auto& json) { json["model"]["type"] = "Unigram"; }),
            "[tokenizer.json] model.type: saw \"Unigram\", needs one of WordPiece, BPE");
  EXPECT_EQ(refusal_of("byte_pair", [](auto& json) { json["pre_tokenizer"]["type"] = "Split"; }),
            "[tokenizer.json] pre_tokenizer.type: saw \"Split\", needs one of ByteLevel, Sequence");
  const auto cut = [](const std::string& expression) {
    return refusal_of("split", [&](auto& json) {
      json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = expression;
    });
  };
  EXPECT_EQ(cut("(a"),
            "[tokenizer.json] pre_tokenizer.pretokenizers[0].pattern.Regex: saw '(a', needs a "
            "regular expression (U_REGEX_MISMATCHED_PAREN)");
  EXPECT_EQ(cut("a"), "nothing was refused");
  EXPECT_EQ(refusal_of("split",
                       [](auto& json) {
                         json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed";
                       }),
            "[tokenizer.json] pre_tokenizer.pretokenizers[0].behavior: saw \"Removed\", needs one "
            "of Isolated");
  EXPECT_EQ(refusal_of("byte_pair", [](auto& json) { json["model"]["byte_fallback"] = true; })
                .rfind("[tokenizer.json] model.byte_fallback: saw true, needs false", 0),
            0U);
  EXPECT_EQ(
      refusal_of("wordpiece", [](auto& json) { json["added_tokens"][0]["single_word"] = true; }),
      "[tokenizer.json] added_tokens[0].single_word: saw true, needs false");
}

TEST(Tokenizer, RefusesALengthThatIsTooShortForAPair) {
  const Tokenizer tokenizer = read_tokenizer(goldens / "wordpiece_cased");
  EXPECT_EQ(tokenizer.encode_pair("a", "b", true, 3).size(), 3U);
  try {
    tokenizer.encode_pair("a", "b", true, 2);
    ADD_FAILURE() << "nothing was refused";
  } catch (const std::invalid_argument& wrong) {
    EXPECT_STREQ(wrong.what(),
                 "[tokenizer] length: saw 2, needs at least 3, which stand around a pair");
  }
}

TEST(Tokenizer, RefusesATemplateOfAPairThatItDoesNotKnow) {
  const auto said = [](const nlohmann::json& pair) {
    return refusal_of("wordpiece", [&](auto& json) { json["post_processor"]["pair"] = pair; });
  };
  const auto text = [](const char* id, int type) {
    return nlohmann::json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  const std::string where = "[tokenizer.json] post_processor.pair";
  EXPECT_EQ(said({text("A", 0), text("B", 1)}), "nothing was refused");
  EXPECT_EQ(said({text("B", 0), text("A", 1)}),
            where + "[0].Sequence.id: saw \"B\", needs one of A");
  EXPECT_EQ(said({text("A", 0), text("B", 2)}),
            where + "[1].Sequence.type_id: saw 2, needs a whole number from 0 to 1");
  EXPECT_EQ(said({text("A", 1), text("B", 1)}),
            where + "[0].Sequence.type_id: saw 1, needs a whole number from 0 to 0");
  EXPECT_EQ(said(nlohmann::json::array({text("A", 0)})),
            where + ": saw no two texts, needs A and B");
  EXPECT_EQ(said({text("A", 0), text("B", 1), text("A", 0)}),
            where + "[2]: saw a third text, needs two");
}

TEST(Tokenizer, RefusesIdsThatItDoesNotHave) {
  const Tokenizer tokenizer = read_tokenizer(goldens / "byte_pair");
  for (const TokenId id : {-1, 520})
    EXPECT_THROW(tokenizer.decode({id}), std::invalid_argument) << id;
}

// --- SentencePiece, through a module that is opened while running ---

class SentencePiece : public ::testing::Test {
 protected:
  void SetUp() override {
#ifndef CLEAVE_HAS_SENTENCE_PIECE
    GTEST_SKIP() << "needs a build with libsentencepiece-dev";
#endif
  }

  /// The golden's folder with another tokenizer_config.json.
  fs::path with_config(const nlohmann::json& config) const {
    const fs::path folder = scratch_ / "with_config";
    fs::remove_all(folder);
    copy_files("sentence_piece", {"tokenizer.model"}, folder);
    base::write_whole(folder / "tokenizer_config.json", config.dump());
    return folder;
  }

  /// What is said of a tokenizer.model of these bytes.
  std::string refusal_of_bytes(std::string_view bytes) const {
    fs::create_directories(scratch_ / "bytes");
    std::ofstream(scratch_ / "bytes/tokenizer.model", std::ios::binary) << bytes;
    return refusal(scratch_ / "bytes");
  }

  const fs::path golden_ = goldens / "sentence_piece";
  const Scratch scratch_;
};

TEST_F(SentencePiece, GivesTheReferencesTokens) {
  expect_cases(read_tokenizer(golden_), "sentence_piece");
}

TEST_F(SentencePiece, WritesSpecialTokensAsTheReferenceDoes) {
  const Tokenizer tokenizer = read_tokenizer(golden_);
  const auto file = nlohmann::json::parse(base::read_text(golden_ / "specials.json"));
  ASSERT_FALSE(file.at("cases").empty());
  for (const auto& item : file.at("cases")) {
    const std::vector<TokenId> ids = item.at("ids");
    EXPECT_EQ(tokenizer.decode(ids, false), item.at("text").get<std::string>()) << item;
    EXPECT_EQ(tokenizer.decode(ids), item.at("without").get<std::string>()) << item;
  }
}

TEST_F(SentencePiece, GivesTextBack) {
  const Tokenizer tokenizer = read_tokenizer(golden_);
  for (const std::string text : {"plain", "two  blanks", "naïve 人 😀\n"})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST_F(SentencePiece, KnowsItsTokens) {
  const Tokenizer tokenizer = read_tokenizer(golden_);
  EXPECT_EQ(tokenizer.vocabulary_size(), 400);
  EXPECT_EQ(tokenizer.find("<unk>"), 0);
  EXPECT_EQ(tokenizer.find("<s>"), 1);
  EXPECT_EQ(tokenizer.find("<0x00>"), 3);
  EXPECT_EQ(tokenizer.find("no such token"), std::nullopt);
  EXPECT_THROW(tokenizer.decode({400}), std::invalid_argument);
}

TEST_F(SentencePiece, SurroundsATextAsTheConfigSays) {
  const auto plain = read_tokenizer(golden_).encode("a", false);
  const auto surrounded = [&](TokenId first, TokenId last) {
    std::vector<TokenId> ids = plain;
    if (first >= 0) ids.insert(ids.begin(), first);
    if (last >= 0) ids.push_back(last);
    return ids;
  };
  const auto encoded = [&](const nlohmann::json& config) {
    return read_tokenizer(with_config(config)).encode("a");
  };
  EXPECT_EQ(encoded({{"tokenizer_class", "LlamaTokenizer"}}), surrounded(1, -1));
  EXPECT_EQ(encoded({{"add_bos_token", false}}), surrounded(-1, -1));
  EXPECT_EQ(encoded({{"add_eos_token", true}}), surrounded(1, 2));
  EXPECT_EQ(encoded({{"bos_token", {{"content", "</s>"}}}}), surrounded(2, -1));
}

TEST_F(SentencePiece, SurroundsEachTextOfAPair) {
  const auto config = nlohmann::json{{"add_eos_token", true}};
  const Tokenizer tokenizer = read_tokenizer(with_config(config));
  const auto [ids, types] = parted(tokenizer.encode_pair("a", "a", true));
  auto twice = tokenizer.encode("a");
  const std::size_t half = twice.size();
  twice.insert(twice.end(), twice.begin(), twice.begin() + static_cast<std::ptrdiff_t>(half));
  EXPECT_EQ(ids, twice);
  for (std::size_t i = 0; i < types.size(); ++i) EXPECT_EQ(types[i], i < half ? 0 : 1);
}

TEST_F(SentencePiece, RefusesAConfigThatItDoesNotKnow) {
  const auto said = [&](const nlohmann::json& config) {
    return refusal(with_config(config)).substr(scratch_.path().string().size() + 2);
  };
  EXPECT_EQ(said({{"bos_token", "<begin>"}}),
            "with_config/tokenizer_config.json] bos_token: saw '<begin>', needs a token of "
            "tokenizer.model");
  EXPECT_EQ(said({{"add_prefix_space", false}}),
            "with_config/tokenizer_config.json] add_prefix_space: saw false, needs true (a text "
            "without a blank before it is not built)");
  EXPECT_EQ(said({{"tokenizer_class", "GemmaTokenizer"}}),
            "with_config/tokenizer_config.json] tokenizer_class: saw \"GemmaTokenizer\", needs one "
            "of LlamaTokenizer, LlamaTokenizerFast");
  EXPECT_EQ(said({{"added_tokens_decoder", {{"400", {{"content", "<pad>"}}}}}}),
            "with_config/tokenizer_config.json] added_tokens_decoder.400: saw '<pad>', needs a "
            "token of tokenizer.model with this number");
  EXPECT_EQ(refusal(with_config({{"added_tokens_decoder", {{"1", {{"content", "<s>"}}}}}})),
            "nothing was refused");
}

TEST_F(SentencePiece, RefusesATokenizerJsonThatContradictsIt) {
  const auto golden = nlohmann::json::parse(base::read_text(goldens / "beside.json"));
  const auto found =
      std::find_if(golden.at("cases").begin(), golden.at("cases").end(),
                   [](const auto& item) { return item.at("golden").contains("tokenizer.model"); });
  ASSERT_NE(found, golden.at("cases").end());
  const nlohmann::json right = found->at("files").at("tokenizer.json");
  const fs::path folder = with_config({{"tokenizer_class", "LlamaTokenizer"}});
  const auto said = [&](nlohmann::json json, const std::string& place,
                        const nlohmann::json& value) {
    json[nlohmann::json::json_pointer(place)] = value;
    base::write_whole(folder / "tokenizer.json", json.dump());
    const std::string error = refusal(folder);
    const std::string where = "[" + (folder / "tokenizer.json").string() + "] ";
    return error.rfind(where, 0) == 0 ? error.substr(where.size()) : error;
  };
  EXPECT_EQ(said(right, "/version", "1.0"), "nothing was refused");
  EXPECT_EQ(
      said(right, "/normalizer/normalizers/0/prepend", "_").rfind("normalizer: saw another way", 0),
      0U);
  EXPECT_EQ(said(right, "/pre_tokenizer", {{"type", "Metaspace"}, {"prepend_scheme", "first"}})
                .rfind("normalizer: saw another way", 0),
            0U);
  EXPECT_EQ(
      said(right, "/model/vocab/more", 402),
      "model.vocab: saw another token 400 than tokenizer.model has beside it, needs the same");
}

TEST_F(SentencePiece, RefusesAFileThatIsNotWhole) {
  const std::string name = "[" + (scratch_ / "bytes/tokenizer.model").string() + "] ";
  EXPECT_EQ(refusal_of_bytes(""), name + "saw no trainer_spec, needs a whole SentencePiece model");
  EXPECT_EQ(refusal_of_bytes("no protocol buffer"),
            name + "byte 0: saw no field, needs a whole SentencePiece model");
  const std::string whole = base::read_text(golden_ / "tokenizer.model");
  for (std::size_t size = 0; size < whole.size(); size += size + 200 < whole.size() ? 7 : 1) {
    const std::string said = refusal_of_bytes(whole.substr(0, size));
    EXPECT_EQ(said.rfind(name, 0), 0U) << size << ": " << said;
    EXPECT_NE(said.find(", needs a whole SentencePiece model"), std::string::npos) << said;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
  }
}

TEST_F(SentencePiece, PassesOnWhatTheLibrarySays) {
  // Whole fields, but no tokens: a trainer_spec and a normalizer_spec without anything.
  const std::string said = refusal_of_bytes("\x12\0\x1A\0"s);
  EXPECT_EQ(said.rfind("[" + (scratch_ / "bytes/tokenizer.model").string() +
                           "] saw no SentencePiece model (",
                       0),
            0U)
      << said;
}

TEST(SentencePieceModule, IsMissedByName) {
  const Scratch scratch;
  const auto said = [&] {
    try {
      sentence_piece("tokenizer.model", {}, {scratch / "a", scratch / "b"});
    } catch (const std::runtime_error& wrong) {
      return std::string(wrong.what());
    }
    return std::string("nothing was refused");
  };
  EXPECT_EQ(said(), "[tokenizer.model] needs cleave_sentence_piece.so, which is not in " +
                        (scratch / "a").string() + ", " + (scratch / "b").string() +
                        ": install libsentencepiece-dev and build again");
  fs::create_directories(scratch / "b");
  base::write_whole(scratch / "b/cleave_sentence_piece.so", "no library");
  EXPECT_EQ(
      said().rfind("[" + (scratch / "b/cleave_sentence_piece.so").string() + "] cannot open (", 0),
      0U)
      << said();
}

}  // namespace
}  // namespace cleave::model
