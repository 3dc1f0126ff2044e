#if defined(__aarch64__)
#define CLEAVE_TARGET neon_bf16
#define CLEAVE_HIGHWAY_TARGET HWY_NEON
#define CLEAVE_FEATURES "arch=armv8.2-a+bf16"
#include "infer/kernels/simd/tile_dot.hpp"
//
#include "infer/kernels/simd/tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::neon_bf16 {

struct Bf16 {
  static HWY_INLINE Vf dot(Vf sums, Vi x, Vi w) {
    return Vf{vbfdotq_f32(sums.raw, vreinterpretq_bf16_s32(x.raw), vreinterpretq_bf16_s32(w.raw))};
  }
};

}  // namespace cleave::kernels::neon_bf16
HWY_AFTER_NAMESPACE();

namespace cleave::kernels {

ProductKernels bf16_neon_bf16() { return neon_bf16::bf16_kernels<neon_bf16::Bf16>(); }

}  // namespace cleave::kernels

#endif
