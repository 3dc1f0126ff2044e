#include "base/reader.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::base {
namespace {

using namespace std::string_literals;

using cleave::testing::message_of;
using cleave::testing::Scratch;
using Strings = std::vector<std::string>;

constexpr auto any_low = std::numeric_limits<std::int64_t>::min();
constexpr auto any_high = std::numeric_limits<std::int64_t>::max();
constexpr double infinite = std::numeric_limits<double>::infinity();

Reader toml(const std::string& text) { return Reader::toml_text(text, "fleet.toml"); }
Reader json(const std::string& text) { return Reader::json_text(text, "plan.json"); }

TEST(Reader, ReadsTheSameFromTomlAndJson) {
  const Reader from_toml = toml(R"(
format = 1
exact = true
name = "vit"
share = 0.5
[[devices]]
name = "pi5"
heads = [0, 1, 2]
)");
  const Reader from_json = json(R"({"format": 1, "exact": true, "name": "vit", "share": 0.5,
    "devices": [{"name": "pi5", "heads": [0, 1, 2]}]})");
  EXPECT_EQ(from_toml.json(), from_json.json());
  EXPECT_TRUE(from_toml.at("exact").boolean());
  EXPECT_EQ(from_toml.at("name").text(), "vit");
  EXPECT_EQ(from_toml.at("share").number(0, 1), 0.5);
  EXPECT_EQ(from_toml.at("devices").items().at(0).at("heads").items().at(2).integer(0, 11), 2);
}

TEST(Reader, NamesThePlaceInMessages) {
  const Reader fleet = toml("[[devices]]\n[[devices]]\nmemory = -3\n");
  const Reader memory = fleet.at("devices").items().at(1).at("memory");
  EXPECT_EQ(memory.path(), "devices[1].memory");
  EXPECT_EQ(memory.file(), "fleet.toml");
  EXPECT_EQ(message_of([&] { memory.integer(1, any_high); }),
            "[fleet.toml] devices[1].memory: saw -3, needs a whole number of at least 1");
  EXPECT_EQ(std::string(fleet.error("has no device").what()), "[fleet.toml] has no device");
}

TEST(Reader, QuotesOddKeysAndKeepsMessagesToOneLine) {
  const Reader table = json(R"({"a.b": {"c\nd": 1}})");
  EXPECT_EQ(table.at("a.b").at("c\nd").path(), R"("a.b"."c\nd")");
  const std::string message = message_of(
      [&] { json("{\"k\": \"line\\nline" + std::string(500, 'x') + "\"}").at("k").integer(0, 1); });
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 200u);
}

TEST(Reader, SaysWhatIsMissing) {
  const Reader fleet = toml("[[devices]]\nname = \"pi5\"\n");
  const Reader device = fleet.at("devices").items().at(0);
  EXPECT_EQ(message_of([&] { device.at("memory"); }), "[fleet.toml] devices[0].memory: is missing");
  EXPECT_EQ(message_of([&] { fleet.at("links"); }), "[fleet.toml] links: is missing");
  EXPECT_EQ(message_of([&] { device.at("name").at("deeper"); }),
            "[fleet.toml] devices[0].name: saw \"pi5\", needs a table");
}

TEST(Reader, CountsNullAsMissing) {
  const Reader config = json(R"({"label2id": null})");
  EXPECT_FALSE(config.has("label2id"));
  EXPECT_FALSE(config.find("label2id").has_value());
  EXPECT_EQ(config.text("label2id", "none"), "none");
  EXPECT_EQ(message_of([&] { config.at("label2id"); }), "[plan.json] label2id: is missing");
}

TEST(Reader, GivesTheDefaultOnlyWhereTheFieldIsAbsent) {
  const Reader table = json(R"({"flag": false, "text": "x", "whole": 3, "real": 0.5})");
  EXPECT_FALSE(table.boolean("flag", true));
  EXPECT_TRUE(table.boolean("none", true));
  EXPECT_EQ(table.text("text", "y"), "x");
  EXPECT_EQ(table.text("none", "y"), "y");
  EXPECT_EQ(table.integer("whole", 0, 9, 7), 3);
  EXPECT_EQ(table.integer("none", 0, 9, 7), 7);
  EXPECT_EQ(table.number("real", 0, 1, 0.25), 0.5);
  EXPECT_EQ(table.number("none", 0, 1, 0.25), 0.25);
  EXPECT_EQ(message_of([&] { table.integer("whole", 5, 9, 7); }),
            "[plan.json] whole: saw 3, needs a whole number from 5 to 9");
}

TEST(Reader, RefusesTheWrongKind) {
  const Reader list = json(R"([1, "x", true, {"a": 1}, [1, 2], 1.5])");
  const auto items = list.items();
  EXPECT_EQ(message_of([&] { items[0].text(); }), "[plan.json] [0]: saw 1, needs text");
  EXPECT_EQ(message_of([&] { items[1].boolean(); }),
            "[plan.json] [1]: saw \"x\", needs true or false");
  EXPECT_EQ(message_of([&] { items[2].number(0, 1); }),
            "[plan.json] [2]: saw true, needs a number from 0 to 1");
  EXPECT_EQ(message_of([&] { items[3].items(); }), "[plan.json] [3]: saw a table, needs a list");
  EXPECT_EQ(message_of([&] { items[4].keys(); }),
            "[plan.json] [4]: saw a list of 2, needs a table");
  EXPECT_EQ(message_of([&] { items[5].integer(any_low, any_high); }),
            "[plan.json] [5]: saw 1.5, needs a whole number");
}

TEST(Reader, KeepsNumbersWithinTheirRange) {
  EXPECT_EQ(json("[9223372036854775807]").items()[0].integer(0, any_high), any_high);
  EXPECT_EQ(json("[-9223372036854775808]").items()[0].integer(any_low, 0), any_low);
  // 2^63 would turn negative, and 2^64 becomes a double in the parser.
  EXPECT_THROW(json("[9223372036854775808]").items()[0].integer(any_low, any_high),
               std::runtime_error);
  EXPECT_THROW(json("[18446744073709551616]").items()[0].integer(any_low, any_high),
               std::runtime_error);
  EXPECT_EQ(message_of([] { json("[1.5]").items()[0].number(0, 1); }),
            "[plan.json] [0]: saw 1.5, needs a number from 0 to 1");
  EXPECT_EQ(message_of([] { json("[-1]").items()[0].number(0, infinite); }),
            "[plan.json] [0]: saw -1, needs a number of at least 0");
  EXPECT_EQ(json("[3]").items()[0].number(-infinite, infinite), 3);
}

TEST(Reader, ReadsQuantities) {
  const Reader table = toml(R"(
memory = "256 MB"
disk = 268435456
rate = "100 Mbit/s"
latency = "2 ms"
deadline = 0.5
)");
  EXPECT_EQ(table.at("memory").bytes(), 256'000'000u);
  EXPECT_EQ(table.at("disk").bytes(), 268'435'456u);
  EXPECT_DOUBLE_EQ(table.at("rate").bytes_per_s(), 12.5e6);
  EXPECT_DOUBLE_EQ(table.at("latency").seconds(), 0.002);
  EXPECT_DOUBLE_EQ(table.at("deadline").seconds(), 0.5);
}

TEST(Reader, RefusesBadQuantities) {
  const Reader table = toml("memory = \"25 MX\"\nless = -1\nrate = 100\nlate = -0.5\n");
  EXPECT_EQ(message_of([&] { table.at("memory").bytes(); }),
            "[fleet.toml] memory: saw \"25 MX\", needs a number of bytes such as \"256 MB\" or "
            "\"1.5 GiB\"");
  EXPECT_EQ(message_of([&] { table.at("less").bytes(); }),
            "[fleet.toml] less: saw -1, needs bytes, such as 268435456 or \"256 MB\"");
  EXPECT_EQ(message_of([&] { table.at("rate").bytes_per_s(); }),
            "[fleet.toml] rate: saw 100, needs a rate such as \"100 Mbit/s\" or \"12.5 MB/s\"");
  EXPECT_EQ(message_of([&] { table.at("late").seconds(); }),
            "[fleet.toml] late: saw -0.5, needs seconds, such as 0.002 or \"2 ms\"");
}

TEST(Reader, TakesOneOfTheNames) {
  const Reader plan = json(R"({"strategy": "tensr"})");
  EXPECT_EQ(message_of([&] {
              plan.at("strategy").one_of({"local", "tensor"});
            }),
            "[plan.json] strategy: saw \"tensr\", needs one of local, tensor");
  EXPECT_EQ(plan.at("strategy").one_of({"tensr"}), "tensr");
}

TEST(Reader, NamesTheNearestOfTheKnownKeys) {
  const Reader recipe = toml("[train]\nepohcs = 3\n");
  EXPECT_EQ(message_of([&] {
              recipe.at("train").allow({"epochs", "batch"});
            }),
            "[fleet.toml] train.epohcs: unknown key; did you mean \"epochs\"?");
  EXPECT_EQ(message_of([&] {
              recipe.at("train").allow({"batch", "seed"});
            }),
            "[fleet.toml] train.epohcs: unknown key; known are batch, seed");
  EXPECT_NO_THROW(recipe.allow({"train"}));
  // Behind one that is known, too.
  EXPECT_EQ(message_of([] {
              toml("batch = 1\nepohcs = 3\n").allow({"epochs", "batch"});
            }),
            "[fleet.toml] epohcs: unknown key; did you mean \"epochs\"?");
}

TEST(Reader, ListsTheKeys) {
  EXPECT_EQ(json(R"({"b": 1, "a": null})").keys(), (Strings{"a", "b"}));
}

TEST(Reader, ChecksTheFormatVersion) {
  EXPECT_NO_THROW(json(R"({"format": 1})").expect_format(1));
  EXPECT_EQ(message_of([] { json(R"({"format": 2})").expect_format(1); }),
            "[plan.json] format: saw 2, needs 1, the one version this program knows");
  EXPECT_EQ(message_of([] { json("{}").expect_format(1); }), "[plan.json] format: is missing");
  EXPECT_THROW(json(R"({"format": "1"})").expect_format(1), std::runtime_error);
}

TEST(Reader, OutlivesTheReaderItCameFrom) {
  const Reader deep = [] {
    const Reader root = json(R"({"a": {"b": "still here"}})");
    return root.at("a").at("b");
  }();
  EXPECT_EQ(deep.text(), "still here");
}

TEST(Reader, SaysWhereTheSyntaxBreaks) {
  EXPECT_EQ(message_of([] { json("{\"a\": [1,\n}"); }).substr(0, 41),
            "[plan.json] line 2, column 1: syntax erro");
  EXPECT_EQ(message_of([] { toml("a = 1\nb = = 2\n"); }).substr(0, 31),
            "[fleet.toml] line 2, column 5: ");
  EXPECT_THROW(json(""), std::runtime_error);
  EXPECT_THROW(json("{} {}"), std::runtime_error);
}

TEST(Reader, ReadsFilesAndNamesThem) {
  const Scratch scratch;
  write_whole(scratch / "f.json", R"({"a": 1})");
  write_whole(scratch / "f.toml", "a = 1\n");
  EXPECT_EQ(Reader::json_file(scratch / "f.json").at("a").integer(0, 9), 1);
  EXPECT_EQ(Reader::toml_file(scratch / "f.toml").at("a").integer(0, 9), 1);
  EXPECT_EQ(Reader::toml_file(scratch / "f.toml").file(), (scratch / "f.toml").string());
  EXPECT_EQ(message_of([&] { Reader::json_file(scratch / "none"); }),
            "[" + (scratch / "none").string() + "] cannot read: No such file or directory");
}

TEST(Reader, RefusesKeysThatStandTwice) {
  EXPECT_EQ(message_of([] { json(R"({"x": {"a": 1, "b": 2, "a": 3}})"); }),
            "[plan.json] saw the key \"a\" twice, needs it once");
  EXPECT_NO_THROW(json(R"({"x": {"a": 1}, "y": [{"a": 2}, {"a": 3}], "a": 4})"));
  EXPECT_THROW(toml("a = 1\na = 2\n"), std::runtime_error);
}

TEST(Reader, RefusesNumbersThatAreNone) {
  EXPECT_EQ(message_of([] { toml("[x]\na = [1.0, inf]\n"); }),
            "[fleet.toml] x.a[1]: saw inf, needs a finite number");
  EXPECT_THROW(toml("a = nan"), std::runtime_error);
  EXPECT_THROW(json("[1e999]"), std::runtime_error);
  EXPECT_THROW(json("[NaN]"), std::runtime_error);
}

TEST(Reader, RefusesDates) {
  EXPECT_EQ(message_of([] { toml("a = 2020-02-02"); }),
            "[fleet.toml] a: saw a date or time, needs text or a number");
}

TEST(Reader, RefusesHostileNesting) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_NO_THROW(json(nested(60)));
  EXPECT_EQ(message_of([&] { json(nested(100'000)); }),
            "[plan.json] saw tables nested deeper than 64 levels, needs fewer");
  EXPECT_THROW(toml("a = " + nested(100'000)), std::runtime_error);
  std::string dotted = "a";
  for (int i = 0; i < 100'000; ++i) dotted += ".a";
  EXPECT_THROW(toml(dotted + " = 1"), std::runtime_error);
  EXPECT_THROW(toml("[" + dotted + "]"), std::runtime_error);
  EXPECT_THROW(toml("x = {y = \"\"\"z\"\"\"\", " + dotted + " = 1}"), std::runtime_error);
  EXPECT_THROW(toml("x = [1, {" + dotted + " = 1}]"), std::runtime_error);
}

TEST(Reader, TakesManyDotsWhereTheyNestNothing) {
  const std::string dots(200, '.');
  const Reader table =
      toml("# " + dots + "\na = \"\\\"" + dots + "\"\nb = '" + dots + "'\nc = \"\"\"" + dots +
           "\n" + dots + "\"\"\"\n\"" + dots + "\" = 0.5\n");
  EXPECT_EQ(table.at("a").text(), "\"" + dots);
  EXPECT_EQ(table.at("b").text(), dots);
  EXPECT_EQ(table.at("c").text(), dots + "\n" + dots);
  EXPECT_EQ(table.at(dots).number(0, 1), 0.5);
}

TEST(Reader, AnswersBadBytesWithALineOfValidText) {
  for (const std::string& bytes : {std::string("{\"\xff\": 1}"), std::string("\"\xc3\x28\""),
                                   "\0\0\0\0"s, std::string("[\"\x01\"]")}) {
    const std::string message = message_of([&] { json(bytes); });
    ASSERT_FALSE(message.empty());
    EXPECT_NO_THROW(nlohmann::json(message).dump());
    EXPECT_FALSE(message_of([&] { toml(bytes); }).empty());
  }
}

TEST(Nearest, FindsAWordThatIsAFewLettersAway) {
  const Strings known = {"epochs", "batch", "learning_rate"};
  EXPECT_EQ(nearest("epohcs", known), "epochs");
  EXPECT_EQ(nearest("learning-rate", known), "learning_rate");
  EXPECT_EQ(nearest("bach", known), "batch");
  EXPECT_EQ(nearest("seed", known), "");
  EXPECT_EQ(nearest("", known), "");
  EXPECT_EQ(nearest(std::string(1 << 20, 'e'), known), "");
}

}  // namespace
}  // namespace cleave::base
