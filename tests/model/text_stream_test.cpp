#include "model/tokenizer/text_stream.hpp"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using testing::Scratch;

/// What is shown at each token and at the end, of a tokenizer whose tokens are the bytes.
struct Shown {
  std::vector<std::string> pieces;
  bool stopped = false;
};

Shown shown(const std::string& text, const std::vector<std::string>& stops,
            const std::string& prompt = "") {
  const Scratch scratch;
  write_byte_tokenizer(scratch.path());
  const Tokenizer tokenizer = read_tokenizer(scratch.path());
  TextStream stream(tokenizer, tokenizer.encode(prompt), stops);
  Shown found;
  for (const char byte : text)
    found.pieces.push_back(stream.push(static_cast<unsigned char>(byte)));
  found.pieces.push_back(stream.finish());
  found.stopped = stream.stopped();
  return found;
}

std::string joined(const Shown& shown) {
  std::string all;
  for (const std::string& piece : shown.pieces) all += piece;
  return all;
}

TEST(TextStream, EndsAtTheEarliestOfSeveralStops) {
  const Shown found = shown("one, two; three", {", t", "three", "; "});
  EXPECT_TRUE(found.stopped);
  EXPECT_EQ(joined(found), "one");
  EXPECT_EQ(joined(shown("one, two; three", {"; ", "four"})), "one, two");
  EXPECT_EQ(joined(shown("one, two", {", two", "two"})), "one");
  EXPECT_FALSE(shown("one, two", {"four", ""}).stopped);
}

TEST(TextStream, ShowsWhatOnlyBeganLikeAStopWhenItIsNone) {
  const Shown found = shown("a\n\nb\n", {"\n\n\n"});
  EXPECT_FALSE(found.stopped);
  EXPECT_EQ(found.pieces, (std::vector<std::string>{"a", "", "", "\n\nb", "", "\n"}));
}

TEST(TextStream, FindsAStopThatBeginsWithinItsOwnBeginning) {
  EXPECT_EQ(joined(shown("xaaab", {"aab"})), "xa");
}

TEST(TextStream, HoldsHalfACharacterBack) {
  const Shown found = shown("\xC3\xA9\xE4\xBA", {});
  EXPECT_EQ(found.pieces, (std::vector<std::string>{"", "\xC3\xA9", "", "", "\xEF\xBF\xBD"}));
}

TEST(TextStream, DoesNotStopAtWhatThePromptSays) {
  EXPECT_EQ(joined(shown("go on", {"stop"}, "do not stop ")), "go on");
  EXPECT_EQ(joined(shown("op here", {"stop"}, "st")), "op here");
}

}  // namespace
}  // namespace cleave::model
