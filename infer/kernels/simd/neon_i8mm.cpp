#if defined(__aarch64__)
#define CLEAVE_TARGET neon_i8mm
#define CLEAVE_HIGHWAY_TARGET HWY_NEON
#define CLEAVE_FEATURES "arch=armv8.2-a+i8mm"
#include "infer/kernels/simd/tile_dot.hpp"
//
#include "infer/kernels/simd/tables.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::neon_i8mm {

/// One instruction multiplies two rows by two columns over eight neighbours of the inner axis:
/// panels are in groups of eight.
struct TileInt8Matrix {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const F d;
    constexpr int row_pairs = (R + 1) / 2, column_pairs = 2 * V;
    const auto* panel = static_cast<const char*>(t.panel);
    const std::int64_t steps = (t.unit + 7) / 8;
    RowPointers<R> x(t);
    Ahead ahead(t);
    Vf scaled[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) scaled[r][v] = hn::Zero(d);
    for (std::int64_t u = 0; u < t.num_units; ++u) {
      const UnitOfPanel<V> unit(panel, false);
      const auto* w = reinterpret_cast<const std::int8_t*>(unit.weights);
      int32x4_t sums[row_pairs][column_pairs];
#pragma GCC unroll 8
      for (int r = 0; r < row_pairs; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < column_pairs; ++c) sums[r][c] = vdupq_n_s32(0);
      for (std::int64_t k = 0; k < steps; ++k) {
#pragma GCC unroll 8
        for (int r = 0; r < row_pairs; ++r) {
          // The last of an odd number of rows is its own second one.
          const int second = 2 * r + 1 < R ? 2 * r + 1 : 2 * r;
          const int8x16_t rows =
              vcombine_s8(load_as<int8x8_t>(x.at(2 * r)), load_as<int8x8_t>(x.at(second)));
#pragma GCC unroll 4
          for (int c = 0; c < column_pairs; ++c)
            sums[r][c] = vmmlaq_s32(sums[r][c], rows, vld1q_s8(w + c * 16));
        }
        w += column_pairs * 16;
        x.advance(8);
        ahead.fetch();
      }
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const Vf column_scales = hn::LoadU(d, unit.scales + v * num_lanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const int64x2_t left = vreinterpretq_s64_s32(sums[r / 2][2 * v]);
          const int64x2_t right = vreinterpretq_s64_s32(sums[r / 2][2 * v + 1]);
          const int64x2_t row = r % 2 == 0 ? vzip1q_s64(left, right) : vzip2q_s64(left, right);
          const Vf scale =
              hn::Mul(column_scales, hn::Set(d, t.x_scales[r * t.x_scales_stride + u]));
          scaled[r][v] =
              hn::MulAdd(hn::ConvertTo(d, Vi{vreinterpretq_s32_s64(row)}), scale, scaled[r][v]);
        }
      }
      panel = reinterpret_cast<const char*>(w);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) hn::StoreU(scaled[r][v], d, t.sums + (r * V + v) * num_lanes);
  }
};

struct Matrix {
  static HWY_INLINE Vi dot(Vi sums, Vi x, Vi w) {
    return Vi{vmmlaq_s32(sums.raw, vreinterpretq_s8_s32(x.raw), vreinterpretq_s8_s32(w.raw))};
  }
};

}  // namespace cleave::kernels::neon_i8mm
HWY_AFTER_NAMESPACE();

namespace cleave::kernels {

ProductKernels int8_neon_i8mm() {
  using namespace neon_i8mm;
  ProductKernels k;
  k.max_rows = max_rows_int8;
  k.group = 8;
  k.x_bytes = 1;
  k.prepare = prepare_int8<std::int8_t, false, 1>;
  k.tile = run_tile<TileInt8Matrix, max_rows_int8>;
  k.limit = [](std::int64_t repeats) { return limit_dot<Matrix, Vi>(repeats, 8); };
  return k;
}

}  // namespace cleave::kernels

#endif
