#pragma once

// Tiles of a product in int8 where no instruction multiplies four int8 at once.

#include "infer/kernels/simd/tile_int8.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

constexpr int max_rows_widened = max_rows_f32 < 4 ? max_rows_f32 : 4;

#if HWY_TARGET == HWY_SCALAR

struct TileInt8Widened {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const auto* panel = static_cast<const char*>(t.panel);
    for (std::int64_t u = 0; u < t.num_units; ++u) {
      const UnitOfPanel<V> unit(panel, false);
      const auto* w = reinterpret_cast<const std::int8_t*>(unit.weights);
      for (int r = 0; r < R; ++r) {
        const auto* x = static_cast<const std::int8_t*>(t.x) + r * t.x_stride + u * t.unit;
        for (int v = 0; v < V; ++v) {
          std::int32_t sum = 0;
          for (std::int64_t k = 0; k < t.unit; ++k) sum += x[k] * w[k * V + v];
          add_scaled(hn::Set(I(), sum), unit.scales + v, t.x_scales[r * t.x_scales_stride + u],
                     u == 0, t.sums + r * V + v);
        }
      }
      panel = unit.weights + t.unit * V;
    }
  }
};

inline ProductKernels int8_widened() {
  ProductKernels k;
  k.x_bytes = 1;
  k.prepare = prepare_int8<std::int8_t, false, 1>;
  k.max_rows = max_rows_widened;
  k.tile = run_tile<TileInt8Widened, max_rows_widened>;
  return k;
}

#elif HWY_TARGET == HWY_NEON

/// Two products of int8 fit an int16; pairs of those are added to int32.
struct TileInt8Widened {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const auto* panel = static_cast<const char*>(t.panel);
    const std::int64_t steps = (t.unit + 3) / 4;
    RowPointers<R> x(t);
    for (std::int64_t u = 0; u < t.num_units; ++u) {
      const UnitOfPanel<V> unit(panel, false);
      const auto* w = reinterpret_cast<const std::int8_t*>(unit.weights);
      // Two sums for each column: of the first and of the last two of four neighbours.
      int32x4_t sums[R][V][2];
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v][0] = sums[r][v][1] = vdupq_n_s32(0);
      for (std::int64_t k = 0; k < steps; ++k) {
        for (int v = 0; v < V; ++v) {
          const int8x16_t column = vld1q_s8(w + v * 16);
          for (int r = 0; r < R; ++r) {
            const int8x8_t value = vreinterpret_s8_s32(vdup_n_s32(load_as<std::int32_t>(x.at(r))));
            sums[r][v][0] = vpadalq_s16(sums[r][v][0], vmull_s8(vget_low_s8(column), value));
            sums[r][v][1] = vpadalq_s16(sums[r][v][1], vmull_s8(vget_high_s8(column), value));
          }
        }
        w += V * 16;
        x.advance(4);
      }
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
          add_scaled(Vi{vpaddq_s32(sums[r][v][0], sums[r][v][1])}, unit.scales + v * num_lanes,
                     t.x_scales[r * t.x_scales_stride + u], u == 0,
                     t.sums + (r * V + v) * num_lanes);
      panel = reinterpret_cast<const char*>(w);
    }
  }
};

inline ProductKernels int8_widened() {
  ProductKernels k;
  k.group = 4;
  k.x_bytes = 1;
  k.prepare = prepare_int8<std::int8_t, false, 1>;
  k.max_rows = max_rows_widened;
  k.tile = run_tile<TileInt8Widened, max_rows_widened>;
  return k;
}

#else

/// Pairs of int16 are multiplied and added: of four neighbours the even ones, then the odd ones.
struct TileInt8Widened {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const I di;
    const hn::Repartition<std::int16_t, I> dw;
    const auto* panel = static_cast<const char*>(t.panel);
    const std::int64_t steps = (t.unit + 3) / 4;
    RowPointers<R> x(t);
    for (std::int64_t u = 0; u < t.num_units; ++u) {
      const UnitOfPanel<V> unit(panel, false);
      const char* w = unit.weights;
      Vi sums[R][V], unused = hn::Zero(di);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] = hn::Zero(di);
      for (std::int64_t k = 0; k < steps; ++k) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          const auto column =
              hn::LoadU(dw, reinterpret_cast<const std::int16_t*>(w) + 2 * v * num_lanes);
          const auto even = hn::ShiftRight<8>(hn::ShiftLeft<8>(column)),
                     odd = hn::ShiftRight<8>(column);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) {
            const auto x_even = hn::BitCast(dw, hn::Set(di, load_as<std::int32_t>(x.at(r))));
            const auto x_odd = hn::BitCast(dw, hn::Set(di, load_as<std::int32_t>(x.at(r) + 4)));
            sums[r][v] = hn::ReorderWidenMulAccumulate(di, even, x_even, sums[r][v], unused);
            sums[r][v] = hn::ReorderWidenMulAccumulate(di, odd, x_odd, sums[r][v], unused);
          }
        }
        w += V * num_lanes * 4;
        x.advance(8);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v)
          add_scaled(sums[r][v], unit.scales + v * num_lanes, t.x_scales[r * t.x_scales_stride + u],
                     u == 0, t.sums + (r * V + v) * num_lanes);
      panel = w;
    }
  }
};

inline ProductKernels int8_widened() {
  ProductKernels k;
  k.group = 4;
  k.x_bytes = 2;
  k.prepare = prepare_int8<std::int16_t, false, 4>;
  k.max_rows = max_rows_widened;
  k.tile = run_tile<TileInt8Widened, max_rows_widened>;
  return k;
}

#endif

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
