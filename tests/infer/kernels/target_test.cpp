#include "infer/kernels/target.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

#include <gtest/gtest.h>

#include "infer/kernels/table.hpp"

namespace cleave::kernels {
namespace {

constexpr std::uint64_t asimd = 1 << 1, aes = 1 << 3, asimd_dot = 1 << 20, i8mm_2 = 1 << 13,
                        bf16_2 = 1 << 14;

std::string refusal(std::string_view wanted, const Features& features) {
  try {
    choose_target(wanted, features);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(Target, NeonIsTheBaselineWithoutAes) {
  // A Raspberry Pi 3 or 4 (no AES, no dot product), a Pi 5, and a newer core.
  EXPECT_EQ(choose_target("", features_of_hwcap(asimd, 0)), Target::neon);
  EXPECT_EQ(choose_target("", features_of_hwcap(asimd | aes, 0)), Target::neon);
  EXPECT_EQ(choose_target("", features_of_hwcap(asimd | aes | asimd_dot, 0)), Target::neon_dotprod);
  EXPECT_EQ(choose_target("", features_of_hwcap(asimd | asimd_dot, i8mm_2)), Target::neon_i8mm);
  EXPECT_EQ(choose_target("", features_of_hwcap(asimd | asimd_dot, i8mm_2 | bf16_2)),
            Target::neon_bf16);
  EXPECT_EQ(refusal("neon-bf16", features_of_hwcap(asimd | asimd_dot, bf16_2)),
            "[CLEAVE_CPU] this machine cannot run neon-bf16: lacks i8mm");
  EXPECT_EQ(choose_target("", features_of_hwcap(0, 0)), Target::scalar);
}

TEST(Target, TheBestOfAMachineIsChosen) {
  Features f;
  f.sse4 = f.avx2 = true;
  EXPECT_EQ(choose_target("", f), Target::avx2);
  f.avx_vnni = true;
  EXPECT_EQ(choose_target("", f), Target::avx2_vnni);
  f.avx512 = f.avx512_vnni = true;
  EXPECT_EQ(choose_target("", f), Target::avx512_vnni);
  f.avx512_bf16 = true;
  EXPECT_EQ(choose_target("", f), Target::avx512_bf16);
  f.bf16_is_slow = true;
  EXPECT_EQ(choose_target("", f), Target::avx512_vnni);
  EXPECT_EQ(choose_target("avx512-bf16", f), Target::avx512_bf16);
}

TEST(Target, AnotherIsTakenByNameOrRefused) {
  Features f;
  f.sse4 = f.avx2 = true;
  EXPECT_EQ(choose_target("scalar", f), Target::scalar);
  EXPECT_EQ(
      refusal("avx512-bf16", f),
      "[CLEAVE_CPU] this machine cannot run avx512-bf16: lacks AVX512-BF16, AVX512-VNNI, AVX512");
  const std::string said = refusal("sse5", f);
  EXPECT_EQ(said.rfind("[CLEAVE_CPU] no such target: saw \"sse5\", needs one of scalar, sse4, ", 0),
            0U)
      << said;
}

TEST(Target, EachOneOfThisMachineHasItsKernels) {
  const auto here = targets_of(features());
  ASSERT_EQ(here.front(), Target::scalar);
  for (const Target target : here) {
    const Table& table = table_of(target);
    EXPECT_EQ(table.target, target);
    EXPECT_TRUE(table.f32.tile && table.bf16.tile && table.int8.tile && table.attend && table.norm)
        << name_of(target);
  }
  // What this machine lacks is not tested here: say so.
#if defined(__aarch64__)
  constexpr std::array others = {Target::neon, Target::neon_dotprod, Target::neon_i8mm,
                                 Target::neon_bf16};
#else
  constexpr std::array others = {Target::sse4,   Target::avx2,        Target::avx2_vnni,
                                 Target::avx512, Target::avx512_vnni, Target::avx512_bf16};
#endif
  for (const Target target : others)
    if (std::find(here.begin(), here.end(), target) == here.end())
      GTEST_LOG_(INFO) << "not run: " << name_of(target) << " (this machine lacks "
                       << missing(target, features()) << ")";
}

}  // namespace
}  // namespace cleave::kernels
