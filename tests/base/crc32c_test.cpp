#include "base/crc32c.hpp"

#include <cstddef>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace cleave::base {
namespace {

std::vector<unsigned char> random_bytes(std::size_t size) {
  std::mt19937 random(1);
  std::vector<unsigned char> bytes(size);
  for (auto& byte : bytes) byte = static_cast<unsigned char>(random());
  return bytes;
}

// RFC 3720, B.4.
TEST(Crc32c, KnownVectors) {
  std::vector<unsigned char> rising(32), falling(32);
  std::iota(rising.begin(), rising.end(), static_cast<unsigned char>(0));
  std::iota(falling.rbegin(), falling.rend(), static_cast<unsigned char>(0));
  const std::vector<unsigned char> zeros(32, 0), ones(32, 0xff);
  const std::string digits = "123456789";
  for (const auto& way : crc32c_ways()) {
    EXPECT_EQ(way.run(zeros.data(), zeros.size(), 0), 0x8A9136AAu) << way.name;
    EXPECT_EQ(way.run(ones.data(), ones.size(), 0), 0x62A8AB43u) << way.name;
    EXPECT_EQ(way.run(rising.data(), rising.size(), 0), 0x46DD794Eu) << way.name;
    EXPECT_EQ(way.run(falling.data(), falling.size(), 0), 0x113FDB5Cu) << way.name;
    EXPECT_EQ(way.run(digits.data(), digits.size(), 0), 0xE3069283u) << way.name;
    EXPECT_EQ(way.run(nullptr, 0, 0), 0u) << way.name;
  }
}

// The definition, bit by bit.
TEST(Crc32c, IsTheRemainderOfThePolynomial) {
  const auto bytes = random_bytes(1000);
  std::uint32_t crc = 0xffffffff;
  for (const auto byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
  }
  EXPECT_EQ(crc32c(bytes.data(), bytes.size()), ~crc);
}

TEST(Crc32c, EveryWayAgreesWhateverLengthAndAlignment) {
  ASSERT_STREQ(crc32c_ways().back().name, "table");
  const auto& table = crc32c_ways().back();
  const auto bytes = random_bytes(40'000);
  std::mt19937 random(2);
  for (int i = 0; i < 2000; ++i) {
    const std::size_t begin = random() % 64, before = random();
    const std::size_t size = random() % (i % 2 == 0 ? 1000 : bytes.size() - 64);
    const auto start = static_cast<std::uint32_t>(before);
    const auto wanted = table.run(bytes.data() + begin, size, start);
    for (const auto& way : crc32c_ways())
      ASSERT_EQ(way.run(bytes.data() + begin, size, start), wanted)
          << way.name << ", " << size << " bytes from " << begin;
  }
}

TEST(Crc32c, OfPiecesIsThatOfTheWhole) {
  const auto bytes = random_bytes(30'000);
  std::mt19937 random(3);
  for (const auto& way : crc32c_ways()) {
    const auto whole = way.run(bytes.data(), bytes.size(), 0);
    for (int i = 0; i < 200; ++i) {
      std::uint32_t crc = 0;
      std::size_t at = 0;
      while (at < bytes.size()) {
        const std::size_t size = std::min<std::size_t>(random() % 5000, bytes.size() - at);
        crc = way.run(bytes.data() + at, size, crc);
        at += size;
      }
      ASSERT_EQ(crc, whole) << way.name;
    }
  }
}

}  // namespace
}  // namespace cleave::base
