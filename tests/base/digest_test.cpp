#include "base/digest.hpp"

#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::base {
namespace {

using cleave::testing::message_of;
using cleave::testing::Scratch;

// The examples of FIPS 180-2, appendix B.
constexpr auto digest_of_nothing =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr auto digest_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr auto digest_of_a_million_a =
    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256, AgreesWithTheStandard) {
  EXPECT_EQ(sha256(""), digest_of_nothing);
  EXPECT_EQ(sha256("abc"), digest_of_abc);
  EXPECT_EQ(sha256(std::string(1'000'000, 'a')), digest_of_a_million_a);
}

TEST(Sha256, DoesNotCareHowTheBytesArePieced) {
  Sha256 hash;
  for (const char letter : {'a', 'b', 'c'}) hash.update(&letter, 1);
  Sha256 moved = std::move(hash);
  EXPECT_EQ(moved.finish(), digest_of_abc);
}

TEST(Sha256, ReadsAFilePiecewise) {
  const Scratch scratch;
  write_whole(scratch / "million", std::string(1'000'000, 'a'));
  write_whole(scratch / "empty", "");
  EXPECT_EQ(sha256_file(scratch / "million"), digest_of_a_million_a);
  EXPECT_EQ(sha256_file(scratch / "empty"), digest_of_nothing);
}

TEST(Sha256, SaysWhyAFileCannotBeRead) {
  const Scratch scratch;
  const auto missing = scratch / "missing";
  EXPECT_EQ(message_of([&] { sha256_file(missing); }),
            "[" + missing.string() + "] cannot read: No such file or directory");
}

}  // namespace
}  // namespace cleave::base
