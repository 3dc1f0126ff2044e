#if defined(__x86_64__)
#define CLEAVE_TARGET avx512_bf16
#define CLEAVE_HIGHWAY_TARGET HWY_AVX3
#define CLEAVE_FEATURES ",avx512bf16"
#include "infer/kernels/simd/tile_dot.hpp"
//
#include "infer/kernels/simd/tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::avx512_bf16 {

struct Bf16 {
  static HWY_INLINE Vf dot(Vf sums, Vi x, Vi w) {
    return Vf{_mm512_dpbf16_ps(sums.raw, reinterpret_cast<__m512bh>(x.raw),
                               reinterpret_cast<__m512bh>(w.raw))};
  }
};

}  // namespace cleave::kernels::avx512_bf16
HWY_AFTER_NAMESPACE();

namespace cleave::kernels {

ProductKernels bf16_avx512_bf16() { return avx512_bf16::bf16_kernels<avx512_bf16::Bf16>(); }

}  // namespace cleave::kernels

#endif
