#pragma once

// Compiles a source for one target. Before including this, a source defines CLEAVE_TARGET (the
// namespace of its kernels), CLEAVE_HIGHWAY_TARGET (HWY_AVX2 …) and, where its intrinsics need
// more, CLEAVE_FEATURES (what the compiler shall allow besides). The compiler's flags stay the
// baseline's, so that inline functions of the standard library, which the linker keeps once, run
// everywhere.

#if defined(__aarch64__)
// Else Highway compiles NEON with AES, which a Raspberry Pi 3 or 4 lacks. The name is Highway's.
#define TOOLCHAIN_MISS_SYS_AUXV_H
#endif
#define HWY_DISABLE_PCLMUL_AES
#include <cstdint>
#include <cstring>
#include <hwy/detect_targets.h>
#undef HWY_TARGET
#define HWY_TARGET CLEAVE_HIGHWAY_TARGET
#include <hwy/highway.h>

#if defined(CLEAVE_FEATURES)
#if defined(__x86_64__)
#if HWY_TARGET == HWY_AVX2
#undef HWY_TARGET_STR
#define HWY_TARGET_STR HWY_TARGET_STR_AVX2 CLEAVE_FEATURES
#else
#undef HWY_TARGET_STR
#define HWY_TARGET_STR HWY_TARGET_STR_AVX3 CLEAVE_FEATURES
#endif
#else
#define HWY_TARGET_STR CLEAVE_FEATURES
#undef HWY_BEFORE_NAMESPACE
#define HWY_BEFORE_NAMESPACE()        \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR) \
  static_assert(true, "For requiring trailing semicolon")
#undef HWY_AFTER_NAMESPACE
#define HWY_AFTER_NAMESPACE() \
  HWY_POP_ATTRIBUTES          \
  static_assert(true, "For requiring trailing semicolon")
#endif
#endif

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using I = hn::RebindToSigned<F>;
using Vf = hn::Vec<F>;
using Vi = hn::Vec<I>;
constexpr int num_lanes = HWY_LANES(float);
/// Columns of a panel in vectors.
constexpr int panel_vectors = 2;

/// Hides a value's origin from the compiler, so that equal chains are computed each by itself.
template <class V>
HWY_INLINE void hide(V& value) {
#if HWY_TARGET == HWY_SCALAR
  __asm__ volatile("" : "+m"(value.raw));
#elif defined(__x86_64__)
  __asm__ volatile("" : "+v"(value.raw));
#else
  __asm__ volatile("" : "+w"(value.raw));
#endif
}

/// The first `count` numbers at `p`, one at least and at most a vector, and zeros; reads nothing
/// beyond.
HWY_INLINE Vf load_first(const float* p, std::int64_t count) {
  const F d;
  if (num_lanes == 1 || count >= num_lanes) return hn::LoadU(d, p);
  HWY_ALIGN float some[num_lanes] = {};
  std::memcpy(some, p, static_cast<std::size_t>(count) * sizeof(float));
  return hn::Load(d, some);
}

HWY_INLINE void store_first(Vf value, float* p, std::int64_t count) {
  const F d;
  if (num_lanes == 1 || count >= num_lanes) return hn::StoreU(value, d, p);
  HWY_ALIGN float some[num_lanes];
  hn::Store(value, d, some);
  std::memcpy(p, some, static_cast<std::size_t>(count) * sizeof(float));
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
