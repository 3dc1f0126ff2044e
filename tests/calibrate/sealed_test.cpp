#include "calibrate/sealed.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.hpp"
#include "model/config/safetensors.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::calibrate {
namespace {

using cleave::testing::message_of;
using cleave::testing::names_below;
using cleave::testing::Scratch;

/// Without fsync.
void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

void write_small(const std::filesystem::path& path) {
  write_sealed(path, {{"a", at::arange(5, at::kFloat)}, {"b", at::ones({2, 3}, at::kHalf)}},
               {{"state", "{\"epoch\": 1}"}});
}

model::TensorFiles open(const std::filesystem::path& path) {
  return open_sealed(path, "checkpoint", "start anew");
}

TEST(Sealed, ComesBack) {
  const Scratch scratch;
  write_small(scratch / "file");
  const auto files = open(scratch / "file");
  EXPECT_EQ(files.metadata().at("state"), "{\"epoch\": 1}");
  EXPECT_EQ(files.at("a").dims, std::vector<std::int64_t>{5});
  EXPECT_EQ(files.at("b").element, base::Element::f16);
  const float third = 2;
  EXPECT_EQ(std::memcmp(files.data(files.at("a")) + 8, &third, 4), 0);
}

TEST(Sealed, RefusesEveryFlippedBit) {
  const Scratch scratch;
  write_small(scratch / "file");
  const std::string good = base::read_text(scratch / "file");
  const std::size_t json_end = good.rfind('}') + 1;
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    // Padding behind the JSON: a NUL there ends the text as the next blank does.
    if (bit / 8 >= json_end && good[bit / 8] == ' ' && bit % 8 == 5) continue;
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
    write_bytes(scratch / "file", bytes);
    const std::string message = message_of([&] { open(scratch / "file"); });
    const std::string lead = "[" + (scratch / "file").string() + "] checkpoint: ";
    ASSERT_EQ(message.rfind(lead, 0), 0U) << "bit " << bit << ": " << message;
    ASSERT_NE(message.find(", needs to be deleted to start anew"), std::string::npos) << message;
    ASSERT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(Sealed, RefusesEveryTruncation) {
  const Scratch scratch;
  write_small(scratch / "file");
  const std::string good = base::read_text(scratch / "file");
  for (std::size_t size = 0; size < good.size(); ++size) {
    write_bytes(scratch / "file", good.substr(0, size));
    ASSERT_NE(message_of([&] { open(scratch / "file"); }).find("needs to be deleted"),
              std::string::npos)
        << size;
  }
}

TEST(Sealed, SaysWhatIsWrong) {
  const Scratch scratch;
  const std::string lead = "[" + (scratch / "file").string() + "] ";
  write_small(scratch / "file");
  std::string bytes = base::read_text(scratch / "file");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(scratch / "file", bytes);
  EXPECT_EQ(message_of([&] { open(scratch / "file"); }),
            lead +
                "checkpoint: saw contents that are not those of its digest (the file is "
                "damaged), needs to be deleted to start anew");
  const float one = 1;
  model::SafetensorsWriter older(scratch / "file", {{"a", base::Element::f32, {1}, 0, 0}},
                                 {{"state", "{}"}});
  older.write(&one, sizeof one);
  older.commit();
  EXPECT_EQ(message_of([&] { open(scratch / "file"); }),
            lead +
                "checkpoint: saw no digest of its contents (made by an older version, or "
                "damaged), needs to be deleted to start anew");
  EXPECT_EQ(message_of([&] { open(scratch / "none"); }),
            "[" + (scratch / "none").string() + "] cannot map: No such file or directory");
}

}  // namespace
}  // namespace cleave::calibrate
