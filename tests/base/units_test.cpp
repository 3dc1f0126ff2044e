#include "base/units.hpp"

#include <cstdint>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "tests/base/scratch.hpp"

namespace cleave::base {
namespace {

using cleave::testing::message_of;

TEST(Units, ReadsBytes) {
  EXPECT_EQ(parse_bytes("4096"), 4096u);
  EXPECT_EQ(parse_bytes("512 B"), 512u);
  EXPECT_EQ(parse_bytes("256 MB"), 256'000'000u);
  EXPECT_EQ(parse_bytes("256MiB"), 256u << 20);
  EXPECT_EQ(parse_bytes(" 1.5 GiB "), 1'610'612'736u);
  EXPECT_EQ(parse_bytes("0"), 0u);
}

TEST(Units, ReadsWholeBytesBeyondTheBitsOfADouble) {
  EXPECT_EQ(parse_bytes("9007199254740993"), 9'007'199'254'740'993u);
}

TEST(Units, ReadsRates) {
  EXPECT_DOUBLE_EQ(parse_bytes_per_s("100 Mbit/s"), 12.5e6);
  EXPECT_DOUBLE_EQ(parse_bytes_per_s("12.5 MB/s"), 12.5e6);
  EXPECT_DOUBLE_EQ(parse_bytes_per_s("1 Gbit/s"), 125e6);
  EXPECT_DOUBLE_EQ(parse_bytes_per_s("2 MiB/s"), 2097152.0);
}

TEST(Units, ReadsTimes) {
  EXPECT_DOUBLE_EQ(parse_seconds("2 ms"), 0.002);
  EXPECT_DOUBLE_EQ(parse_seconds("150 us"), 150e-6);
  EXPECT_DOUBLE_EQ(parse_seconds("150 µs"), 150e-6);
  EXPECT_DOUBLE_EQ(parse_seconds("1.5 s"), 1.5);
  EXPECT_DOUBLE_EQ(parse_seconds("0.25"), 0.25);
  EXPECT_DOUBLE_EQ(parse_seconds("3 min"), 180);
}

TEST(Units, SaysWhatItSawAndWhatItNeeds) {
  EXPECT_EQ(message_of([] { parse_bytes("25 MX"); }),
            "saw \"25 MX\", needs a number of bytes such as \"256 MB\" or \"1.5 GiB\"");
  EXPECT_EQ(message_of([] { parse_bytes_per_s("100"); }),
            "saw \"100\", needs a rate such as \"100 Mbit/s\" or \"12.5 MB/s\"");
  EXPECT_EQ(message_of([] { parse_seconds("soon"); }),
            "saw \"soon\", needs a time such as \"2 ms\", \"150 us\" or \"1.5 s\"");
}

TEST(Units, RefusesWhatIsNoQuantity) {
  for (const std::string text : {"", " ", "MB", "-1 MB", "nan", "inf MB", "1e400 MB", "9 EB",
                                 "1 2 MB", "1,5 GB", "0x10", "10000000 TB"}) {
    EXPECT_THROW(parse_bytes(text), std::invalid_argument) << text;
  }
  for (const std::string text : {"", "-2 ms", "inf", "nan s", "1 month"}) {
    EXPECT_THROW(parse_seconds(text), std::invalid_argument) << text;
  }
  for (const std::string text : {"", "-1 Mbit/s", "100 mbit/s", "100 Mbit", "Mbit/s"}) {
    EXPECT_THROW(parse_bytes_per_s(text), std::invalid_argument) << text;
  }
}

TEST(Units, ShortensLongTextInMessages) {
  EXPECT_LT(message_of([] { parse_bytes(std::string(100'000, 'x')); }).size(), 200u);
}

TEST(Units, PrintsThreeDigits) {
  EXPECT_EQ(format_bytes(1.534e9), "1.53 GB");
  EXPECT_EQ(format_bytes(31e6), "31.0 MB");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_seconds(0.412), "412 ms");
  EXPECT_EQ(format_seconds(1), "1.00 s");
  EXPECT_EQ(format_seconds(2.5e-6), "2.50 us");
  EXPECT_EQ(format_seconds(5400), "1.50 h");
  EXPECT_EQ(format_bytes_per_s(94.2e6 / 8), "94.2 Mbit/s");
  EXPECT_EQ(format_count(2.65e6), "2.65 M");
  EXPECT_EQ(format_count(1.56e9), "1.56 G");
  EXPECT_EQ(format_count(42), "42");
}

TEST(Units, RoundsIntoTheNextUnit) {
  EXPECT_EQ(format_seconds(0.9996), "1.00 s");
  EXPECT_EQ(format_bytes(999.7), "1.00 kB");
  EXPECT_EQ(format_bytes(9.996e6), "10.0 MB");
  EXPECT_EQ(format_bytes(99.96e6), "100 MB");
}

TEST(Units, PrintsWhatIsNoOrdinaryNumber) {
  EXPECT_EQ(format_seconds(0), "0 s");
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_seconds(-0.002), "-2.00 ms");
  EXPECT_EQ(format_seconds(std::numeric_limits<double>::infinity()), "inf");
  EXPECT_EQ(format_seconds(std::numeric_limits<double>::quiet_NaN()), "nan");
}

}  // namespace
}  // namespace cleave::base
