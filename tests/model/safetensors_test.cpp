#include "model/config/safetensors.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using base::Element;
using testing::error_of;
using testing::expect_contains;
using testing::Scratch;

/// A file as a stranger may send it: `length` says whatever it says.
std::string forge(const std::string& header, const std::string& data, std::uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + header + data;
}
std::string forge(const std::string& header, const std::string& data = {}) {
  return forge(header, data, header.size());
}

std::vector<TensorEntry> parse(const std::string& bytes) {
  // A copy without spare room at the end, so that a sanitizer sees every byte read too many.
  const std::vector<char> exact(bytes.begin(), bytes.end());
  return parse_safetensors_header(reinterpret_cast<const std::byte*>(exact.data()), exact.size(),
                                  exact.size(), "forged");
}

void expect_refused(const std::string& bytes, const std::string& why) {
  const std::string error = error_of([&] { parse(bytes); });
  expect_contains(error, "[forged] ");
  expect_contains(error, why);
  EXPECT_EQ(error.find('\n'), std::string::npos);
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

TEST(SafetensorsHeader, ReadsAWellFormedFile) {
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"}," + entry("b", "F32", "[2,1]", "[2,10]") + "," +
      entry("a", "BF16", "[]", "[0,2]") + "," + entry("none", "I64", "[0,5]", "[10,10]") + "}  ";
  const auto entries = parse(forge(header, std::string(10, 'x')));
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].name, "b");
  EXPECT_EQ(entries[0].element, Element::f32);
  EXPECT_EQ(entries[0].dims, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(entries[0].offset, 8 + header.size() + 2);
  EXPECT_EQ(entries[0].bytes, 8U);
  EXPECT_TRUE(entries[1].dims.empty());
  EXPECT_EQ(entries[2].bytes, 0U);
}

TEST(SafetensorsHeader, RefusesALengthBeyondTheFile) {
  expect_refused("", "saw a file of 0 bytes");
  expect_refused("1234567", "saw a file of 7 bytes");
  expect_refused(forge("{}", "", 3), "saw a length of 3 bytes, needs at most the 2");
  expect_refused(forge("{}", "", 100'000'001), "needs at most 100000000");
  expect_refused(forge("{}", "", std::uint64_t{1} << 63), "saw a length of 9223372036854775808");
  expect_refused(forge("{}", "", std::numeric_limits<std::uint64_t>::max()),
                 "saw a length of 18446744073709551615");
}

TEST(SafetensorsHeader, RefusesWhatIsNoJsonObject) {
  expect_refused(forge(""), "no valid JSON");
  expect_refused(forge("{"), "no valid JSON");
  expect_refused(forge("{} {}"), "no valid JSON");
  expect_refused(forge(std::string("{\"a\xff\":1}")), "no valid JSON");
  expect_refused(forge("[1]"), "needs a JSON object");
  expect_refused(forge("7"), "needs a JSON object");
  expect_refused(forge("{\"a\":7}"), "'a': saw a number, needs an object");
  expect_refused(forge("{\"a\":[]}"), "'a': saw a list, needs an object");
  expect_refused(forge("{\"a\":{\"dtype\":{}}}"), "saw an object as the value");
  expect_refused(forge(std::string(100'000, '[')), "needs a JSON object");
  expect_refused(forge("{\"__metadata__\":{\"format\":[]}}"), "needs a text");
  expect_refused(forge("{\"__metadata__\":{\"format\":1}}"), "needs a text");
}

TEST(SafetensorsHeader, RefusesFieldsThatAreMissingOrTwice) {
  expect_refused(forge("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}"), "saw no data_offsets");
  expect_refused(forge("{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", "1234"), "saw no dtype");
  expect_refused(forge("{\"a\":{}}"), "saw no dtype");
  expect_refused(forge("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}"),
                 "saw the field 'dtype' twice");
  const std::string a = entry("a", "U8", "[1]", "[0,1]");
  expect_refused(forge("{" + a + "," + a + "}", "1"), "saw the name 'a' twice");
}

TEST(SafetensorsHeader, ReadsWhatTheSafetensorsLibraryReads) {
  const std::string a = entry("a", "U8", "[1]", "[0,1]");
  for (const std::string& header :
       {"{\"__metadata__\":null," + a + "}", "{" + a + ",\"__metadata__\":null}",
        "{\"__metadata__\":{}," + a + "}", "{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}," + a + "}",
        "  {" + a + "}", "{" + a + "}  \n\t ",
        std::string(
            "{\"a\":{\"colour\":\"red\",\"dtype\":\"U8\",\"x\":{\"y\":[1,{\"shape\":2.5},null]},"
            "\"shape\":[1],\"z\":[],\"w\":-1,\"v\":true,\"data_offsets\":[0,1],\"u\":{}}}")}) {
    const auto entries = parse(forge(header, "1"));
    ASSERT_EQ(entries.size(), 1U) << header;
    EXPECT_EQ(entries[0].name, "a");
    EXPECT_EQ(entries[0].bytes, 1U);
  }
  EXPECT_TRUE(parse(forge("{}")).empty());
  const auto entries = parse(forge("{" + entry("z", "F32", "[0,3]", "[1,1]") + "," + a + "," +
                                       entry("y", "F32", "[0]", "[0,0]") + "}",
                                   "1"));
  EXPECT_EQ(entries.size(), 3U);
}

TEST(SafetensorsHeader, RefusesMetadataThatTheSafetensorsLibraryRefuses) {
  const auto with = [](const std::string& metadata) {
    return forge("{\"__metadata__\":" + metadata + "}");
  };
  expect_refused(with("{\"x\":1}"), "'__metadata__': 'x': saw a number, needs a text");
  expect_refused(with("{\"x\":null}"), "'x': saw null, needs a text");
  expect_refused(with("[]"), "saw a list");
  expect_refused(with("\"x\""), "saw a text");
  expect_refused(forge("{\"a\":null}"), "'a': saw null, needs an object");
}

TEST(SafetensorsHeader, TakesAnyElementTypeForWhatNobodyReads) {
  for (const char* dtype : {"I16", "U16", "U32", "U64", "F8_E4M3", "F8_E5M2", "C64", "F4", "I4"}) {
    const auto entries = parse(forge(
        "{" + entry("a", dtype, "[2]", "[0,3]") + "," + entry("b", "U8", "[1]", "[3,4]") + "}",
        "1234"));
    ASSERT_EQ(entries.size(), 2U);
    EXPECT_EQ(entries[0].foreign, dtype);
    EXPECT_EQ(entries[0].bytes, 3U);
    EXPECT_FALSE(entries[0].is_real());
    EXPECT_EQ(entries[0].element_name(), "'" + std::string(dtype) + "'");
    EXPECT_EQ(entries[1].foreign, "");
  }
  // They lie inside the file all the same.
  expect_refused(forge("{" + entry("a", "F8_E4M3", "[1]", "[0,2]") + "}", "1"),
                 "saw it end at byte 2, needs at most 1");
  for (const char* dtype : {"F32", "F16", "BF16", "F64", "I64", "I32", "U8", "I8", "BOOL"}) {
    const auto entries = parse(forge("{" + entry("a", dtype, "[0]", "[0,0]") + "}"));
    EXPECT_EQ(entries[0].is_real(), dtype[0] == 'F' || std::string(dtype) == "BF16") << dtype;
  }
}

/// "[1,1,1]".
std::string ones(int count) {
  std::string text = "[1";
  while (--count > 0) text += ",1";
  return text + "]";
}

TEST(SafetensorsHeader, RefusesShapesThatAreNoShapes) {
  expect_refused(forge("{" + entry("a", "F32", "[-1]", "[0,4]") + "}", "1234"),
                 "shape: saw a negative number");
  expect_refused(forge("{" + entry("a", "F32", "[1.0]", "[0,4]") + "}", "1234"),
                 "shape: saw the number '1.0'");
  expect_refused(forge("{" + entry("a", "F32", "[null]", "[0,4]") + "}", "1234"),
                 "shape: saw null");
  expect_refused(forge("{" + entry("a", "F32", "[[1]]", "[0,4]") + "}", "1234"),
                 "shape: saw a list");
  expect_refused(forge("{" + entry("a", "F32", "1", "[0,4]") + "}", "1234"), "shape: saw a number");
  expect_refused(forge("{" + entry("a", "F32", "[9223372036854775808]", "[0,4]") + "}", "1234"),
                 "needs a number below 2^63");
  expect_refused(forge("{" + entry("a", "F32", "[36893488147419103232]", "[0,4]") + "}", "1234"),
                 "shape: saw the number");
  expect_refused(forge("{" + entry("a", "U8", ones(65), "[0,1]") + "}", "1"), "more than 64");
}

TEST(SafetensorsHeader, RefusesShapesWhoseBytesOverflow) {
  // 2^62 · 4 is 0 in 64 bits: the file would seem to fit.
  expect_refused(forge("{" + entry("a", "F32", "[4611686018427387904]", "[0,0]") + "}"),
                 "2^63 bytes or more");
  expect_refused(forge("{" + entry("a", "F32", "[4294967296,4294967296]", "[0,0]") + "}"),
                 "2^63 bytes or more");
  expect_refused(forge("{" + entry("a", "F32", "[0,4294967296,4294967296]", "[0,0]") + "}"),
                 "2^63 bytes or more");
}

TEST(SafetensorsHeader, RefusesOffsetsThatAreReversedOrOfAnotherSize) {
  expect_refused(forge("{" + entry("a", "F32", "[1]", "[4,0]") + "}", "1234"),
                 "saw [4, 0], needs begin <= end");
  expect_refused(forge("{" + entry("a", "F32", "[1]", "[0,3]") + "}", "123"),
                 "saw 3 bytes, needs the 4 of the shape");
  expect_refused(forge("{" + entry("a", "F32", "[1]", "[0]") + "}", "1234"),
                 "saw 1 numbers, needs begin and end");
  expect_refused(forge("{" + entry("a", "F32", "[1]", "[18446744073709551612,0]") + "}", "1234"),
                 "below 2^63");
}

TEST(SafetensorsHeader, RefusesOverlapHolesAndTheEndOfTheFile) {
  const std::string a = entry("a", "U8", "[4]", "[0,4]");
  expect_refused(forge("{" + a + "," + entry("b", "U8", "[4]", "[3,7]") + "}", "1234567"),
                 "'b': saw it begin at byte 3, needs 4");
  expect_refused(forge("{" + a + "," + entry("b", "U8", "[4]", "[0,4]") + "}", "1234"),
                 "begin at byte 0, needs 4");
  expect_refused(forge("{" + a + "," + entry("b", "U8", "[4]", "[5,9]") + "}", "123456789"),
                 "begin at byte 5, needs 4");
  expect_refused(forge("{" + a + "}", "123"), "saw it end at byte 4, needs at most 3");
  expect_refused(forge("{" + a + "}", "12345"), "saw 1 bytes after the last tensor");
  expect_refused(
      forge("{" + entry("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]") + "}", "1"),
      "needs at most 1");
}

TEST(SafetensorsHeader, ShowsHostileNamesHarmlessly) {
  const std::string error =
      error_of([&] { parse(forge("{\"\\u001b[2J" + std::string(500, 'n') + "\":1}")); });
  EXPECT_EQ(error.find('\x1b'), std::string::npos);
  EXPECT_LT(error.size(), 250U);
}

TEST(SafetensorsHeader, SurvivesEveryFlippedBitAndEveryCut) {
  const std::string header =
      "{" + entry("a", "F32", "[2,1]", "[0,8]") + "," + entry("b", "BF16", "[3]", "[8,14]") + "}";
  const std::string whole = forge(header, std::string(14, 'x'));
  // Whatever it says, an entry that is believed lies inside the file, and a refusal is one of ours.
  const auto try_parse = [](const std::string& bytes) {
    try {
      for (const TensorEntry& e : parse(bytes)) EXPECT_LE(e.offset + e.bytes, bytes.size());
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(std::string(error.what()).rfind("[forged] ", 0), 0U) << error.what();
    }
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    try_parse(whole.substr(0, at));
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      try_parse(flipped);
    }
  }
}

TEST(TensorFiles, ReadBackWhatTheWriterWrote) {
  const Scratch scratch;
  const std::vector<float> a = {1, -2, 3.5F, 4, 5, 6};
  const std::vector<std::int64_t> b = {7};
  SafetensorsWriter writer(scratch / "model.safetensors",
                           {{"a", Element::f32, {2, 3}, 0, 0}, {"b", Element::i64, {}, 0, 0}},
                           {{"origin", "test"}});
  writer.write(a.data(), 8);  // in pieces
  writer.write(a.data() + 2, 16);
  writer.write(b.data(), 8);
  writer.commit();

  const TensorFiles files(scratch.path());
  EXPECT_EQ(files.entries().size(), 2U);
  EXPECT_EQ(files.metadata().at("origin"), "test");
  EXPECT_EQ(files.metadata().at("format"), "pt");
  EXPECT_EQ(files.at("a").offset % 64, 0U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(files.data(files.at("a"))) % 64, 0U);
  EXPECT_EQ(std::memcmp(files.data(files.at("a")), a.data(), 24), 0);
  EXPECT_EQ(std::memcmp(files.data(files.at("b")), b.data(), 8), 0);
}

TEST(ModelWriter, CutsIntoShardsAndPutsOneFileInTheirPlaceAgain) {
  const Scratch scratch;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const std::vector<TensorEntry> entries = {{"a", Element::f32, {2, 2}, 0, 0},
                                            {"b", Element::f32, {0}, 0, 0},
                                            {"c", Element::f32, {1}, 0, 0},
                                            {"d", Element::f32, {5}, 0, 0}};
  const auto write = [&](const std::filesystem::path& folder, std::uint64_t most) {
    std::filesystem::create_directories(folder);
    ModelWriter writer(folder, entries, {{"origin", "test"}}, most);
    writer.write(values.data(), 12);  // in pieces that are not the tensors'
    writer.write(values.data() + 3, 28);
    writer.commit();
    const TensorFiles files(folder);
    EXPECT_EQ(files.metadata().at("origin"), "test");
    std::vector<float> read;
    for (const auto& entry : entries) {
      const auto& found = files.at(entry.name);
      EXPECT_EQ(found.dims, entry.dims);
      const auto* data = reinterpret_cast<const float*>(files.data(found));
      read.insert(read.end(), data, data + found.bytes / sizeof(float));
    }
    EXPECT_EQ(read, values);
  };
  write(scratch / "shards", 20);
  EXPECT_TRUE(std::filesystem::exists(scratch / "shards/model-00001-of-00002.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(scratch / "shards/model-00002-of-00002.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "shards/model.safetensors"));
  write(scratch / "each", 1);
  EXPECT_TRUE(std::filesystem::exists(scratch / "each/model-00003-of-00003.safetensors"));
  write(scratch / "one", 40);
  EXPECT_TRUE(std::filesystem::exists(scratch / "one/model.safetensors"));

  std::ofstream(scratch / "shards/vocab.txt") << "x";
  remove_other_weights(scratch / "shards", scratch / "one");
  EXPECT_FALSE(std::filesystem::exists(scratch / "shards/model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(scratch / "shards/model-00001-of-00002.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(scratch / "shards/vocab.txt"));
  remove_other_weights(scratch / "one", scratch / "one");
  EXPECT_TRUE(std::filesystem::exists(scratch / "one/model.safetensors"));
}

TEST(TensorFiles, StayReadableAfterRelease) {
  const Scratch scratch;
  std::vector<float> values(1 << 16, 2.5F);
  SafetensorsWriter writer(scratch / "m.safetensors", {{"a", Element::f32, {1 << 16}, 0, 0}});
  writer.write(values.data(), values.size() * sizeof(float));
  writer.commit();
  const TensorFiles files(scratch / "m.safetensors");
  files.release(files.at("a"));
  EXPECT_EQ(std::memcmp(files.data(files.at("a")), values.data(), values.size() * sizeof(float)),
            0);
}

TEST(TensorFiles, NameTheNearestTensor) {
  const Scratch scratch;
  SafetensorsWriter writer(scratch / "m.safetensors",
                           {{"classifier.weight", Element::u8, {0}, 0, 0}});
  writer.commit();
  const TensorFiles files(scratch / "m.safetensors");
  const std::string error = error_of([&] { files.at("clasifier.weight"); });
  expect_contains(error, "m.safetensors] clasifier.weight");
  expect_contains(error, "nearest name is classifier.weight");
}

TEST(TensorFiles, SayWhatAFolderLacks) {
  const Scratch scratch;
  expect_contains(error_of([&] { TensorFiles(scratch / "nowhere"); }), "saw nothing there");
  expect_contains(error_of([&] { TensorFiles(scratch.path()); }), "needs model.safetensors");
  const auto beside = [&](const std::string& name) {
    std::ofstream(scratch / name) << "weights";
    const std::string error = error_of([&] { TensorFiles(scratch.path()); });
    std::filesystem::remove(scratch / name);
    return error;
  };
  const std::string pickle = beside("pytorch_model.bin");
  expect_contains(pickle, "saw only pytorch_model.bin, needs model.safetensors");
  expect_contains(pickle, "Python's pickle");
  expect_contains(pickle, "safe_serialization=True");
  expect_contains(beside("pytorch_model.bin.index.json"), "pickle in shards");
  expect_contains(beside("tf_model.h5"), "from_tf=True");
  expect_contains(beside("flax_model.msgpack"), "from_flax=True");
  expect_contains(beside("adapter_model.safetensors"), "merge it into its base model");
  expect_contains(beside("tiny.Q4_0.gguf"), "saw only tiny.Q4_0.gguf");
}

TEST(TensorFiles, SayThatAFileIsOnlyAPointer) {
  const Scratch scratch;
  base::write_whole(scratch / "model.safetensors",
                    "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n");
  expect_contains(error_of([&] { TensorFiles(scratch.path()); }),
                  "saw a pointer of Git LFS, needs the file that it stands for (git lfs pull)");
}

TEST(TensorFiles, RefuseATruncatedFile) {
  const Scratch scratch;
  const auto whole = base::read_text(testing::golden("models/vit/model.safetensors"));
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{5}, std::size_t{8}, std::size_t{200}, whole.size() - 1}) {
    base::write_whole(scratch / "model.safetensors", whole.substr(0, size));
    expect_contains(error_of([&] { TensorFiles(scratch.path()); }), "model.safetensors]");
  }
}

TEST(TensorFiles, ReadShardsThroughTheirIndex) {
  const TensorFiles files(testing::golden("models/vit_sharded_bf16"));
  EXPECT_EQ(files.at("vit.layernorm.weight").element, Element::bf16);
  EXPECT_EQ(files.at("vit.embeddings.cls_token").dims, (std::vector<std::int64_t>{1, 1, 24}));
}

TEST(TensorFiles, RefuseAnIndexThatLeavesTheFolderOrLies) {
  const Scratch scratch;
  SafetensorsWriter writer(scratch / "shard.safetensors", {{"a", Element::u8, {0}, 0, 0}});
  writer.commit();
  const auto with_index = [&](const std::string& map) {
    base::write_whole(scratch / "model.safetensors.index.json", "{\"weight_map\": " + map + "}");
    return error_of([&] { TensorFiles(scratch.path()); });
  };
  expect_contains(with_index(R"({"a": "../shard.safetensors"})"), "needs the plain name of a file");
  expect_contains(with_index(R"({"a": "/etc/passwd"})"), "needs the plain name of a file");
  expect_contains(with_index(R"({"a": ".."})"), "needs the plain name of a file");
  expect_contains(with_index("{}"), "weight_map: saw no tensor");
  expect_contains(with_index(R"({"b": "shard.safetensors"})"),
                  "weight_map.b: names shard.safetensors, but the tensor is in no shard");
  expect_contains(with_index(R"({"a": "shard.safetensors", "c": "other.safetensors"})"),
                  "weight_map.c: names other.safetensors, which is not in the folder");
  SafetensorsWriter second(scratch / "second.safetensors", {{"b", Element::u8, {0}, 0, 0}});
  second.commit();
  expect_contains(with_index(R"({"a": "second.safetensors", "b": "shard.safetensors"})"),
                  "weight_map.a: names second.safetensors, but the tensor is in shard.safetensors");
  base::write_whole(scratch / "empty.safetensors", "");
  expect_contains(with_index(R"({"a": "shard.safetensors", "c": "empty.safetensors"})"),
                  "empty.safetensors] header: saw a file of 0 bytes");
  base::write_whole(scratch / "none.safetensors", forge("{}"));
  expect_contains(with_index(R"({"a": "shard.safetensors", "c": "none.safetensors"})"),
                  "weight_map.c: names none.safetensors, but the tensor is in no shard");
}

TEST(TensorFiles, SayWhichTensorStandsInTwoShards) {
  const Scratch scratch;
  for (const char* name : {"1.safetensors", "2.safetensors"}) {
    SafetensorsWriter writer(scratch / name,
                             {{"both", Element::u8, {0}, 0, 0}, {name, Element::u8, {0}, 0, 0}});
    writer.commit();
  }
  base::write_whole(scratch / "model.safetensors.index.json",
                    R"({"weight_map": {"1.safetensors": "1.safetensors", "both": "1.safetensors",
                                       "2.safetensors": "2.safetensors"}})");
  expect_contains(
      error_of([&] { TensorFiles(scratch.path()); }),
      "2.safetensors] 'both': saw it in 1.safetensors too, needs each tensor in one shard");
}

TEST(TensorFiles, ReadWhatAnIndexDoesNotName) {
  const Scratch scratch;
  SafetensorsWriter writer(scratch / "1.safetensors",
                           {{"a", Element::u8, {0}, 0, 0}, {"b", Element::u8, {0}, 0, 0}});
  writer.commit();
  base::write_whole(scratch / "model.safetensors.index.json",
                    R"({"metadata": {"total_size": 7}, "weight_map": {"a": "1.safetensors"}})");
  EXPECT_EQ(TensorFiles(scratch.path()).entries().size(), 2U);  // as Transformers does
}

TEST(SafetensorsWriter, RefusesNamesGivenTwiceAndMissingBytes) {
  const Scratch scratch;
  const TensorEntry a{"a", Element::f32, {2}, 0, 0};
  expect_contains(error_of([&] {
                    SafetensorsWriter(scratch / "m", {a, a});
                  }),
                  "saw the name twice");
  {
    SafetensorsWriter writer(scratch / "m", {a});
    const float value = 1;
    writer.write(&value, sizeof value);
    EXPECT_THROW(writer.commit(), std::logic_error);
    const double more = 2;
    EXPECT_THROW(writer.write(&more, sizeof more), std::logic_error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

template <typename T>
std::vector<float> converted(Element from, const std::vector<T>& values) {
  // One byte off, as tensors in a stranger's file may be.
  std::vector<std::byte> bytes(values.size() * sizeof(T) + 1);
  std::memcpy(bytes.data() + 1, values.data(), values.size() * sizeof(T));
  std::vector<float> out(values.size());
  convert_to_f32(from, bytes.data() + 1, static_cast<std::int64_t>(values.size()), out.data());
  return out;
}

TEST(ConvertToF32, KnowsEveryElementType) {
  using Floats = std::vector<float>;
  EXPECT_EQ(converted<float>(Element::f32, {1.25F, -3}), (Floats{1.25F, -3}));
  EXPECT_EQ(converted<double>(Element::f64, {0.5, 1e-3}), (Floats{0.5F, 1e-3F}));
  EXPECT_EQ(converted<std::uint16_t>(Element::bf16, {0x3f80, 0xc040, 0x0001}),
            (Floats{1, -3, std::ldexp(1.0F, -133)}));
  EXPECT_EQ(converted<std::int64_t>(Element::i64, {-7}), Floats{-7});
  EXPECT_EQ(converted<std::int32_t>(Element::i32, {1 << 20}), Floats{1 << 20});
  EXPECT_EQ(converted<std::int8_t>(Element::i8, {-128}), Floats{-128});
  EXPECT_EQ(converted<std::uint8_t>(Element::u8, {255}), Floats{255});
  EXPECT_EQ(converted<std::uint8_t>(Element::boolean, {1}), Floats{1});
}

TEST(ConvertToF32, IsExactForEveryHalf) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto value =
        converted<std::uint16_t>(Element::f16, {static_cast<std::uint16_t>(bits)})[0];
    const int exponent = static_cast<int>(bits >> 10 & 0x1f);
    const double mantissa = static_cast<double>(bits & 0x3ff);
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa > 0);
      EXPECT_EQ(std::isinf(value), mantissa == 0);
    } else {
      EXPECT_EQ(static_cast<double>(value), (bits & 0x8000) != 0 ? -magnitude : magnitude);
    }
    EXPECT_EQ(std::signbit(value), (bits & 0x8000) != 0);
  }
}

}  // namespace
}  // namespace cleave::model
