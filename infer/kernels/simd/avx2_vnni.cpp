#if defined(__x86_64__)
#define CLEAVE_TARGET avx2_vnni
#define CLEAVE_HIGHWAY_TARGET HWY_AVX2
#define CLEAVE_FEATURES ",avxvnni"
#include "infer/kernels/simd/tile_dot.hpp"
//
#include "infer/kernels/simd/tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::avx2_vnni {

struct Int8 {
  static constexpr bool has_offsets = true;
  static HWY_INLINE Vi dot(Vi sums, Vi x, Vi w) {
    // In words of its own: g++ 12 copies registers to and fro around the intrinsic.
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums.raw) : "x"(x.raw), "x"(w.raw));
    return sums;
  }
};

}  // namespace cleave::kernels::avx2_vnni
HWY_AFTER_NAMESPACE();

namespace cleave::kernels {

ProductKernels int8_avx2_vnni() { return avx2_vnni::int8_kernels<avx2_vnni::Int8>(); }

}  // namespace cleave::kernels

#endif
