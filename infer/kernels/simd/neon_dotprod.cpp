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

ProductKernels int8_neon_dotprod() {
  using namespace neon_dotprod;
  ProductKernels k;
  k.max_rows = max_rows_int8;
  k.group = 4;
  k.x_bytes = 1;
  k.prepare = prepare_int8<std::int8_t, false, 1>;
  k.tile = run_tile<TileInt8Dot<Int8>, max_rows_int8>;
  k.limit = [](std::int64_t repeats) { return limit_dot<Int8, Vi>(repeats, 4); };
  return k;
}

}  // namespace cleave::kernels

#endif
