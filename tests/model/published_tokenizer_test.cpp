// Published vocabularies and whole texts, where they are at hand.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using testing::Scratch;

const fs::path goldens = fs::path(CLEAVE_SOURCE_DIR) / "tests/goldens/tokenizers";

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// A row's texts: the lines of a file, one long word, or strings that are easy to get wrong.
std::vector<std::string> texts_of(const std::string& name, const fs::path& data) {
  if (name.empty()) {
    std::string one_word;
    for (int i = 0; i < 100'000; ++i) one_word += static_cast<char>('a' + i * 7 % 26);
    return {one_word};
  }
  if (name != "cases") return lines_of(base::read_text(data / name));
  std::vector<std::string> texts;
  const auto file = nlohmann::json::parse(base::read_text(goldens / "sentence_piece/cases.json"));
  for (const auto& item : file.at("cases")) texts.push_back(from_hex(item.at("hex")));
  return texts;
}

/// A tokenizer.json as the reference writes it (the small golden's), around a published vocabulary.
std::string around(const std::string& golden, nlohmann::json vocabulary,
                   const std::vector<std::string>& merges = {}) {
  auto json = nlohmann::json::parse(base::read_text(goldens / golden / "tokenizer.json"));
  const auto id = [&](const nlohmann::json& token) {
    return vocabulary.at(token.get_ref<const std::string&>());
  };
  for (auto& added : json.at("added_tokens")) added["id"] = id(added.at("content"));
  if (auto& post = json.at("post_processor"); post.contains("special_tokens"))
    for (auto& token : post.at("special_tokens")) token["ids"] = {id(token.at("id"))};
  if (!merges.empty()) json["model"]["merges"] = merges;
  json["model"]["vocab"] = std::move(vocabulary);
  return json.dump();
}

/// The same two vocabularies once more, read from tokenizer.json.
void add_tokenizer_json(const fs::path& published, const Scratch& scratch) {
  const auto put = [&](const char* to, const std::string& json) {
    fs::create_directories(scratch / to);
    base::write_whole(scratch / to / "tokenizer.json", json);
  };
  auto tokens = lines_of(base::read_text(published / "bert_uncased_vocab.txt"));
  if (tokens.back().empty()) tokens.pop_back();
  nlohmann::json vocabulary;
  for (std::size_t id = 0; id < tokens.size(); ++id) vocabulary[tokens[id]] = id;
  put("bert_json", around("wordpiece", std::move(vocabulary)));

  auto merges = lines_of(base::read_text(published / "gpt2_merges.txt"));
  if (merges.back().empty()) merges.pop_back();
  put("gpt2_json",
      around("byte_pair", nlohmann::json::parse(base::read_text(published / "gpt2_vocab.json")),
             merges));
}

TEST(PublishedTokenizer, GivesTheReferencesTokensOnEveryLine) {
  const char* named = std::getenv("CLEAVE_SHARED");
  const fs::path data =
      named != nullptr ? fs::path(named) / "data" : fs::path(CLEAVE_SOURCE_DIR) / "../shared/data";
  if (!fs::exists(data / "tokenizers")) GTEST_SKIP() << "needs the texts in ../shared/data";
  const Scratch scratch;
  const auto put = [&](const char* from, const char* to) {
    fs::create_directories((scratch / to).parent_path());
    fs::copy_file(data / "tokenizers" / from, scratch / to);
  };
  put("bert_uncased_vocab.txt", "bert/vocab.txt");
  put("gpt2_vocab.json", "gpt2/vocab.json");
  put("gpt2_merges.txt", "gpt2/merges.txt");
  add_tokenizer_json(data / "tokenizers", scratch);
  std::multimap<std::string, Tokenizer> tokenizers;
  for (const std::string name : {"bert", "gpt2"})
    for (const std::string from : {"", "_json"})
      tokenizers.emplace(name, read_tokenizer(scratch / (name + from)));
#ifdef CLEAVE_HAS_SENTENCE_PIECE
  put("llama2_tokenizer.model", "llama2/tokenizer.model");
  tokenizers.emplace("llama2", read_tokenizer(scratch / "llama2"));
#endif

  const auto published = nlohmann::json::parse(base::read_text(goldens / "published.json"));
  ASSERT_FALSE(published.at("rows").empty());
  for (const auto& row : published.at("rows")) {
    const auto texts = texts_of(row.at("text"), data);
    const auto [begin, end] = tokenizers.equal_range(row.at("tokenizer"));
    for (auto it = begin; it != end; ++it) {
      std::string all;
      std::size_t count = 0;
      for (const std::string& text : texts) {
        const auto ids = it->second.encode(text);
        count += ids.size();
        for (std::size_t i = 0; i < ids.size(); ++i)
          all += (i == 0 ? "" : " ") + std::to_string(ids[i]);
        all += '\n';
      }
      EXPECT_EQ(count, row.at("tokens")) << row;
      EXPECT_EQ(base::sha256(all), row.at("sha256")) << row;
    }
  }
}

// Pairs of the STS benchmark, cut to several lengths as the reference truncates.
TEST(PublishedTokenizer, GivesTheReferencesTokensOfPairs) {
  const char* named = std::getenv("CLEAVE_SHARED");
  const fs::path data =
      named != nullptr ? fs::path(named) / "data" : fs::path(CLEAVE_SOURCE_DIR) / "../shared/data";
  if (!fs::exists(data / "stsb")) GTEST_SKIP() << "needs the texts in ../shared/data";
  const Scratch scratch;
  fs::copy_file(data / "tokenizers/bert_uncased_vocab.txt", scratch / "vocab.txt");
  const Tokenizer tokenizer = read_tokenizer(scratch.path());
  const auto published = nlohmann::json::parse(base::read_text(goldens / "published_pairs.json"));
  ASSERT_FALSE(published.at("rows").empty());
  for (const auto& row : published.at("rows")) {
    std::string all;
    std::size_t count = 0;
    for (const std::string& line : lines_of(base::read_text(data / row.at("text")))) {
      if (line.empty()) continue;
      std::vector<std::string> columns(1);
      for (const char c : line) c == '\t' ? columns.emplace_back() : columns.back() += c;
      const auto ids = tokenizer.encode_pair(columns.at(5), columns.at(6), true, row.at("length"));
      count += ids.size();
      for (std::size_t i = 0; i < ids.size(); ++i)
        all += (i == 0 ? "" : " ") + std::to_string(ids[i]);
      all += '\n';
    }
    EXPECT_EQ(count, row.at("tokens")) << row;
    EXPECT_EQ(base::sha256(all), row.at("sha256")) << row;
  }
}

}  // namespace
}  // namespace cleave::model
