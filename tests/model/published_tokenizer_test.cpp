// Published vocabularies and whole texts, where they are at hand.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>

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
  std::map<std::string, Tokenizer> tokenizers;
  for (const std::string name : {"bert", "gpt2"})
    tokenizers.emplace(name, read_tokenizer(scratch / name));
  std::string one_word;
  for (int i = 0; i < 100'000; ++i) one_word += static_cast<char>('a' + i * 7 % 26);

  const auto published = nlohmann::json::parse(base::read_text(goldens / "published.json"));
  ASSERT_FALSE(published.at("rows").empty());
  for (const auto& row : published.at("rows")) {
    const Tokenizer& tokenizer = tokenizers.at(row.at("tokenizer"));
    const std::string text = row.at("text"),
                      lines = text.empty() ? one_word : base::read_text(data / text);
    std::string all;
    std::size_t count = 0;
    for (std::size_t begin = 0; begin <= lines.size();) {
      const std::size_t end = std::min(lines.find('\n', begin), lines.size());
      const auto ids = tokenizer.encode(std::string_view(lines).substr(begin, end - begin));
      count += ids.size();
      for (std::size_t i = 0; i < ids.size(); ++i)
        all += (i == 0 ? "" : " ") + std::to_string(ids[i]);
      all += '\n';
      begin = end + 1;
    }
    EXPECT_EQ(count, row.at("tokens")) << row;
    EXPECT_EQ(base::sha256(all), row.at("sha256")) << row;
  }
}

}  // namespace
}  // namespace cleave::model
