#if defined(__x86_64__)
#define CLEAVE_TARGET avx512_vnni
#define CLEAVE_HIGHWAY_TARGET HWY_AVX3
#define CLEAVE_FEATURES ",avx512vnni"
#include "infer/kernels/simd/tile_dot.hpp"
//
#include "infer/kernels/simd/tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::avx512_vnni {

struct Int8 {
  static constexpr bool has_offsets = true;
  static HWY_INLINE Vi dot(Vi sums, Vi x, Vi w) {
    // In words of its own: g++ 12 copies registers to and fro around the intrinsic.
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums.raw) : "v"(x.raw), "v"(w.raw));
    return sums;
  }
};

}  // namespace cleave::kernels::avx512_vnni
HWY_AFTER_NAMESPACE();

namespace cleave::kernels {

ProductKernels int8_avx512_vnni() { return avx512_vnni::int8_kernels<avx512_vnni::Int8>(); }

}  // namespace cleave::kernels

#endif
