#pragma once

// Tiles whose instruction multiplies four int8 neighbours, or two of bf16, and adds them to a lane.
// A target that includes this has defined `dot(sums, x, w)` of both kinds before.

#include <type_traits>

#include "infer/kernels/simd/tile_int8.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

#if HWY_TARGET == HWY_AVX2
constexpr int max_rows_dot = 6;
#else
constexpr int max_rows_dot = 12;
#endif
constexpr int max_rows_int8 = HWY_TARGET == HWY_AVX3 ? 7 : 6;

/// Dot: `Vi dot(Vi sums, Vi x, Vi w)` on four int8 in each lane, and whether x is stored plus 128.
/// Both the exact sums of a unit and the scaled ones stay in registers: fewer rows, but a unit's
/// end costs no memory.
template <class Dot>
struct TileInt8Dot {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const F d;
    const I di;
    const auto* panel = static_cast<const char*>(t.panel);
    const std::int64_t steps = (t.unit + 3) / 4;
    RowPointers<R> x(t);
    Ahead ahead(t);
    Vf scaled[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) scaled[r][v] = hn::Zero(d);
    for (std::int64_t u = 0; u < t.num_units; ++u) {
      const UnitOfPanel<V> unit(panel, Dot::has_offsets);
      Vi sums[R][V];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v)
          sums[r][v] =
              Dot::has_offsets ? hn::LoadU(di, unit.offsets + v * num_lanes) : hn::Zero(di);
      const char* w = unit.weights;
      for (std::int64_t k = 0; k < steps; ++k) {
        Vi column[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v)
          column[v] = hn::LoadU(di, reinterpret_cast<const std::int32_t*>(w) + v * num_lanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vi value = hn::Set(di, load_as<std::int32_t>(x.at(r)));
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) sums[r][v] = Dot::dot(sums[r][v], value, column[v]);
        }
        w += V * num_lanes * 4;
        x.advance(4);
        ahead.fetch();
      }
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const Vf column_scales = hn::LoadU(d, unit.scales + v * num_lanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vf scale =
              hn::Mul(column_scales, hn::Set(d, t.x_scales[r * t.x_scales_stride + u]));
          scaled[r][v] = hn::MulAdd(hn::ConvertTo(d, sums[r][v]), scale, scaled[r][v]);
        }
      }
      panel = w;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) hn::StoreU(scaled[r][v], d, t.sums + (r * V + v) * num_lanes);
  }
};

/// Dot: `Vf dot(Vf sums, Vi x, Vi w)` on two bf16 in each lane.
template <class Dot>
struct TileBf16Dot {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const F d;
    const I di;
    Vf sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] = hn::Zero(d);
    RowPointers<R> x(t);
    Ahead ahead(t);
    const auto* w = static_cast<const std::int32_t*>(t.panel);
    for (std::int64_t k = t.num_units * ((t.unit + 1) / 2); k > 0; --k) {
      Vi column[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) column[v] = hn::LoadU(di, w + v * num_lanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vi value = hn::Set(di, load_as<std::int32_t>(x.at(r)));
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] = Dot::dot(sums[r][v], value, column[v]);
      }
      w += V * num_lanes;
      x.advance(4);
      ahead.fetch();
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) hn::StoreU(sums[r][v], d, t.sums + (r * V + v) * num_lanes);
  }
};

/// x in bf16, rounded to nearest even.
inline void prepare_bf16(const Prepare& p) {
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const float* x = p.x + r * p.x_stride;
    auto* out = static_cast<std::uint16_t*>(p.out) + r * p.num_units * p.padded_unit;
    for (std::int64_t u = 0; u < p.num_units; ++u) {
      for (std::int64_t k = 0; k < p.unit; ++k) {
        const auto bits = load_as<std::uint32_t>(reinterpret_cast<const char*>(x + k));
        const bool is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
        out[k] = static_cast<std::uint16_t>(is_nan ? bits >> 16 | 0x40
                                                   : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
      }
      for (std::int64_t k = p.unit; k < p.padded_unit; ++k) out[k] = 0;
      x += p.unit;
      out += p.padded_unit;
    }
  }
}

/// Multiply-adds on registers alone, `terms` in each lane of each instruction.
template <class Dot, class V>
double limit_dot(std::int64_t repeats, int terms) {
  const I di;
  constexpr int chains = max_rows_dot * panel_vectors;
  V sums[chains];
#pragma GCC unroll 32
  for (int i = 0; i < chains; ++i) hide(sums[i] = hn::Zero(hn::DFromV<V>()));
  Vi a = hn::Set(di, 0x3f803f80), b = hn::Set(di, 0x01010101);
  hide(a);
  hide(b);
  for (std::int64_t n = 0; n < repeats; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < chains; ++i) sums[i] = Dot::dot(sums[i], a, b);
  }
  V sum = sums[0];
  for (int i = 1; i < chains; ++i) sum = hn::Add(sum, sums[i]);
  volatile auto kept = hn::GetLane(sum);
  (void)kept;
  return static_cast<double>(repeats) * chains * num_lanes * terms;
}

/// The kernels around an instruction on four int8, and on two bf16.
template <class Dot>
ProductKernels int8_kernels() {
  ProductKernels k;
  k.max_rows = max_rows_int8;
  k.group = 4;
  k.x_bytes = 1;
  k.has_offsets = Dot::has_offsets;
  using Stored = std::conditional_t<Dot::has_offsets, std::uint8_t, std::int8_t>;
  k.prepare = prepare_int8<Stored, Dot::has_offsets, 1>;
  k.tile = run_tile<TileInt8Dot<Dot>, max_rows_int8>;
  k.limit = [](std::int64_t repeats) { return limit_dot<Dot, Vi>(repeats, 4); };
  return k;
}

template <class Dot>
ProductKernels bf16_kernels() {
  ProductKernels k;
  k.max_rows = max_rows_dot;
  k.group = 2;
  k.x_bytes = 2;
  k.prepare = prepare_bf16;
  k.tile = run_tile<TileBf16Dot<Dot>, max_rows_dot>;
  k.limit = [](std::int64_t repeats) { return limit_dot<Dot, Vf>(repeats, 2); };
  return k;
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
