#if defined(__aarch64__)
#define CLEAVE_TARGET neon_dotprod
#define CLEAVE_HIGHWAY_TARGET HWY_NEON
#define CLEAVE_FEATURES "arch=armv8.2-a+dotprod"
#include "infer/kernels/simd/tile_dot.hpp"
//
#include "infer/kernels/simd/tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::neon_dotprod {

struct Int8 {
  static constexpr bool has_offsets = false;
  static HWY_INLINE Vi dot(Vi sums, Vi x, Vi w) {
    return Vi{vdotq_s32(sums.raw, vreinterpretq_s8_s32(x.raw), vreinterpretq_s8_s32(w.raw))};
  }
};

}  // namespace cleave::kernels::neon_dotprod
HWY_AFTER_NAMESPACE();

namespace cleave::kernels {

ProductKernels int8_neon_dotprod() { return neon_dotprod::int8_kernels<neon_dotprod::Int8>(); }

}  // namespace cleave::kernels

#endif
