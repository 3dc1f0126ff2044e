#include "infer/kernels/target.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace cleave::kernels {
namespace {

/// In the order of preference, best last.
constexpr std::array<std::pair<Target, std::string_view>, 11> names = {
    {{Target::scalar, "scalar"},
     {Target::sse4, "sse4"},
     {Target::avx2, "avx2"},
     {Target::avx2_vnni, "avx2-vnni"},
     {Target::avx512, "avx512"},
     {Target::avx512_vnni, "avx512-vnni"},
     {Target::avx512_bf16, "avx512-bf16"},
     {Target::neon, "neon"},
     {Target::neon_dotprod, "neon-dotprod"},
     {Target::neon_i8mm, "neon-i8mm"},
     {Target::neon_bf16, "neon-bf16"}}};

#if defined(__x86_64__)
struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

/// All zero where the CPU has no such leaf.
Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

/// Which registers the operating system saves (XCR0).
std::uint64_t saved_registers() {
  std::uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

bool has(unsigned word, std::initializer_list<int> bits) {
  for (const int bit : bits)
    if ((word >> bit & 1) == 0) return false;
  return true;
}
#endif

}  // namespace

std::string_view name_of(Target target) {
  for (const auto& [known, name] : names)
    if (known == target) return name;
  return "?";
}

Target target_named(std::string_view name) {
  std::string all;
  for (const auto& [target, known] : names) {
    if (known == name) return target;
    all += (all.empty() ? "" : ", ") + std::string(known);
  }
  throw std::invalid_argument("saw \"" + std::string(name) + "\", needs one of " + all);
}

Features features_of_hwcap(std::uint64_t hwcap, std::uint64_t hwcap2) {
  constexpr int asimd = 1, asimd_dot = 20, i8mm = 13, bf16 = 14;
  Features f;
  f.neon = hwcap >> asimd & 1;
  f.dotprod = hwcap >> asimd_dot & 1;
  f.i8mm = hwcap2 >> i8mm & 1;
  f.bf16 = hwcap2 >> bf16 & 1;
  return f;
}

Features features() {
#if defined(__x86_64__)
  // Intel SDM volume 2A, CPUID: leaves 1, 7.0 and 7.1.
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven_one = cpuid(7, 1);
  Features f;
  f.sse4 = has(one.ecx, {9, 19, 20});
  if (!has(one.ecx, {27})) return f;  // no XGETBV
  const std::uint64_t saved = saved_registers();
  constexpr std::uint64_t ymm = 0x6, zmm = 0xe6;
  f.avx2 =
      f.sse4 && (saved & ymm) == ymm && has(one.ecx, {12, 28, 29}) && has(seven.ebx, {3, 5, 8});
  f.avx_vnni = f.avx2 && has(seven_one.eax, {4});
  f.avx512 = f.avx2 && (saved & zmm) == zmm && has(seven.ebx, {16, 17, 30, 31});
  f.avx512_vnni = f.avx512 && has(seven.ecx, {11});
  f.avx512_bf16 = f.avx512 && has(seven_one.eax, {5});
  const Registers vendor = cpuid(0, 0);
  f.bf16_is_slow = vendor.ebx == 0x756e6547 && vendor.edx == 0x49656e69 &&
                   vendor.ecx == 0x6c65746e;  // "GenuineIntel"
  return f;
#elif defined(__aarch64__)
  return features_of_hwcap(getauxval(AT_HWCAP), getauxval(AT_HWCAP2));
#else
  return {};
#endif
}

std::string missing(Target target, const Features& f) {
  std::string lacks;
  const auto need = [&](bool present, const char* name) {
    if (!present) lacks += (lacks.empty() ? "" : ", ") + std::string(name);
  };
  switch (target) {
    case Target::scalar:
      break;
    case Target::sse4:
      need(f.sse4, "SSE4");
      break;
    case Target::avx2_vnni:
      need(f.avx_vnni, "AVX-VNNI");
      [[fallthrough]];
    case Target::avx2:
      need(f.avx2, "AVX2");
      break;
    case Target::avx512_bf16:
      need(f.avx512_bf16, "AVX512-BF16");
      [[fallthrough]];
    case Target::avx512_vnni:
      need(f.avx512_vnni, "AVX512-VNNI");
      [[fallthrough]];
    case Target::avx512:
      need(f.avx512, "AVX512");
      break;
    case Target::neon_bf16:
      need(f.bf16, "bf16");
      [[fallthrough]];
    case Target::neon_i8mm:
      need(f.i8mm, "i8mm");
      [[fallthrough]];
    case Target::neon_dotprod:
      need(f.dotprod, "dot product");
      [[fallthrough]];
    case Target::neon:
      need(f.neon, "NEON");
      break;
  }
  return lacks;
}

std::vector<Target> targets_of(const Features& features) {
  std::vector<Target> targets;
  for (const auto& [target, name] : names)
    if (missing(target, features).empty()) targets.push_back(target);
  if (features.bf16_is_slow && targets.back() == Target::avx512_bf16)
    std::iter_swap(targets.end() - 1, targets.end() - 2);
  return targets;
}

Target choose_target(std::string_view wanted, const Features& features) {
  if (wanted.empty()) return targets_of(features).back();
  const Target target = [&] {
    try {
      return target_named(wanted);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(std::string("[CLEAVE_CPU] no such target: ") + error.what());
    }
  }();
  if (const std::string lacks = missing(target, features); !lacks.empty())
    throw std::invalid_argument("[CLEAVE_CPU] this machine cannot run " + std::string(wanted) +
                                ": lacks " + lacks);
  return target;
}

}  // namespace cleave::kernels
