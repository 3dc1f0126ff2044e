#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cleave::kernels {

/// What kernels are compiled for, each one's requirements on top of those before it in its family.
enum class Target {
  scalar,        // no vectors, on every machine
  sse4,          // SSSE3, SSE4.1, SSE4.2
  avx2,          // AVX2, FMA, BMI1, BMI2, F16C
  avx2_vnni,     // AVX-VNNI
  avx512,        // AVX512 F, BW, DQ, VL; not AVX-VNNI
  avx512_vnni,   // AVX512-VNNI
  avx512_bf16,   // AVX512-BF16
  neon,          // every aarch64, with or without AES
  neon_dotprod,  // dot product (ASIMDDP)
  neon_i8mm,     // int8 matrices (i8mm)
  neon_bf16,     // bf16
};

/// "avx512-bf16".
std::string_view name_of(Target target);
/// Throws std::invalid_argument where there is no such target.
Target target_named(std::string_view name);

/// What a CPU and its operating system can, as far as the targets ask.
struct Features {
  bool sse4 = false, avx2 = false, avx_vnni = false;
  bool avx512 = false, avx512_vnni = false, avx512_bf16 = false;
  /// It multiplies bf16 at half the rate of fp32, as Intel's CPUs do (AMD's: at twice): widening
  /// the weights is the better way there.
  bool bf16_is_slow = false;
  bool neon = false, dotprod = false, i8mm = false, bf16 = false;
};

/// Of this machine: cpuid and what the operating system saves, or the auxiliary vector's HWCAP.
Features features();
/// Of an aarch64 machine by its AT_HWCAP and AT_HWCAP2 (Linux: Documentation/arm64/elf_hwcaps.rst).
Features features_of_hwcap(std::uint64_t hwcap, std::uint64_t hwcap2);

/// What the features lack for the target, "AVX512-BF16"; empty: nothing.
std::string missing(Target target, const Features& features);
/// The targets that a machine can run, the best one last: avx512_bf16 is not where it is slow.
std::vector<Target> targets_of(const Features& features);
/// The best one; `wanted` (CLEAVE_CPU, may be empty) names another. Throws std::invalid_argument
/// "[CLEAVE_CPU] …" where there is no such target, or the machine lacks a feature for it.
Target choose_target(std::string_view wanted, const Features& features);

}  // namespace cleave::kernels
