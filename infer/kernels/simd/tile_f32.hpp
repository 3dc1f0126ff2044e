#pragma once

// Tiles of a product in fp32, and of one in bf16 where the weights are widened.

#include <cstring>

#include "infer/kernels/simd/target.hpp"
#include "infer/kernels/table.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

// So many rows that sums, a panel's vectors and one number of x fit the registers.
#if HWY_TARGET == HWY_AVX3
constexpr int max_rows_f32 = 14;
#elif HWY_TARGET == HWY_NEON
constexpr int max_rows_f32 = 12;
#elif HWY_TARGET == HWY_SCALAR
constexpr int max_rows_f32 = 2;
#else
constexpr int max_rows_f32 = 6;
#endif
static_assert(max_rows_f32 <= max_tile_rows && panel_vectors * num_lanes <= max_tile_columns);

/// The addresses of a tile's rows, by every fourth row and a stride: less registers than a pointer
/// a row.
template <int R>
struct RowPointers {
  explicit RowPointers(const Tile& t) : stride(t.x_stride), stride3(3 * t.x_stride) {
    for (int i = 0; i < (R + 3) / 4; ++i)
      base[i] = static_cast<const char*>(t.x) + 4 * i * t.x_stride;
  }
  HWY_INLINE const char* at(int row) const {
    const char* p = base[row / 4];
    const int rest = row % 4;
    return rest == 3 ? p + stride3 : p + rest * stride;
  }
  HWY_INLINE void advance(std::ptrdiff_t bytes) {
    for (int i = 0; i < (R + 3) / 4; ++i) base[i] += bytes;
  }

  const char* base[(R + 3) / 4];
  std::ptrdiff_t stride, stride3;
};

/// Fetches into the second cache what a tile shall fetch ahead; nothing where that is null.
struct Ahead {
  explicit Ahead(const Tile& t) : at(t.ahead), step(t.ahead_step) {}
  HWY_INLINE void fetch() {
    __builtin_prefetch(at, 0, 2);
    at += step;
  }
  const char* at;
  std::ptrdiff_t step;
};

/// Calls Of::run<rows, vectors> for as many rows and vectors as the tile has, at most R rows.
template <class Of, int R>
void run_tile(const Tile& t) {
  if (t.rows == R)
    t.vectors == 1 ? Of::template run<R, 1>(t) : Of::template run<R, 2>(t);
  else if constexpr (R > 1)
    run_tile<Of, R - 1>(t);
}

template <class T>
HWY_INLINE T load_as(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

struct TileF32 {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const F d;
    Vf sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v)
        sums[r][v] = t.goes_on ? hn::LoadU(d, t.sums + (r * V + v) * num_lanes) : hn::Zero(d);
    RowPointers<R> x(t);
    Ahead ahead(t);
    const auto* w = static_cast<const float*>(t.panel);
    for (std::int64_t k = t.num_units * t.unit; k > 0; --k) {
      Vf column[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) column[v] = hn::LoadU(d, w + v * num_lanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vf value = hn::Set(d, load_as<float>(x.at(r)));
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(value, column[v], sums[r][v]);
      }
      w += t.panel_stride;
      x.advance(sizeof(float));
      ahead.fetch();
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) hn::StoreU(sums[r][v], d, t.sums + (r * V + v) * num_lanes);
  }
};

/// x in fp32 as it is; panels [inner / 2, columns, 2] of bf16, units padded to an even number.
struct TileBf16Widened {
  template <int R, int V>
  static HWY_NOINLINE void run(const Tile& t) {
    const F d;
    const hn::RebindToUnsigned<F> du;
    Vf sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] = hn::Zero(d);
    RowPointers<R> x(t);
    Ahead ahead(t);
    const auto* w = static_cast<const std::uint32_t*>(t.panel);
    const auto high_half = hn::Set(du, 0xffff0000U);
    for (std::int64_t u = 0; u < t.num_units; ++u) {
      for (std::int64_t k = 0; k < t.unit; k += 2) {
        Vf column[V];
        decltype(hn::Zero(du)) pairs[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          pairs[v] = hn::LoadU(du, w + v * num_lanes);
          column[v] = hn::BitCast(d, hn::ShiftLeft<16>(pairs[v]));
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vf value = hn::Set(d, load_as<float>(x.at(r)));
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(value, column[v], sums[r][v]);
        }
        w += V * num_lanes;
        x.advance(sizeof(float));
        ahead.fetch();
        if (k + 1 == t.unit) break;
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) column[v] = hn::BitCast(d, hn::And(pairs[v], high_half));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Vf value = hn::Set(d, load_as<float>(x.at(r)));
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(value, column[v], sums[r][v]);
        }
        x.advance(sizeof(float));
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) hn::StoreU(sums[r][v], d, t.sums + (r * V + v) * num_lanes);
  }
};

/// Multiply-adds on registers alone, as many chains as a tile has.
inline double limit_f32(std::int64_t repeats) {
  const F d;
  constexpr int chains = max_rows_f32 * panel_vectors;
  Vf sums[chains];
#pragma GCC unroll 32
  for (int i = 0; i < chains; ++i) hide(sums[i] = hn::Zero(d));
  Vf a = hn::Set(d, 1.0F), b = hn::Set(d, 0x1p-30F);
  hide(a);
  hide(b);
  for (std::int64_t n = 0; n < repeats; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < chains; ++i) sums[i] = hn::MulAdd(a, b, sums[i]);
  }
  Vf sum = sums[0];
  for (int i = 1; i < chains; ++i) sum = hn::Add(sum, sums[i]);
  volatile float kept = hn::GetLane(sum);
  (void)kept;
  return static_cast<double>(repeats) * chains * num_lanes;
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
