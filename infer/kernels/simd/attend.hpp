#pragma once

// Attention of some rows of one head, block by block of its keys.

#include "infer/kernels/attention.hpp"
#include "infer/kernels/simd/math.hpp"
#include "infer/kernels/simd/tile_f32.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

constexpr int panel_columns = panel_vectors * num_lanes;
/// Panels of keys between two looks at the maximum.
constexpr int panels_of_block = num_lanes >= 16 ? 8 : num_lanes >= 8 ? 12 : 16;
constexpr int block_keys = panels_of_block * panel_columns;
/// Far below any score, and finite: a row that has seen nothing yet has it as its largest.
constexpr float unseen = -1e30F;

inline std::int64_t in_vectors(std::int64_t width) {
  return (width + num_lanes - 1) / num_lanes * num_lanes;
}

/// `count` numbers of a format as fp32; a multiple of the lanes.
inline void widen(Format format, const std::byte* from, std::int64_t first, std::int64_t count,
                  float* to) {
  const F d;
  const hn::RebindToUnsigned<F> du;
  if (format == Format::bf16) {
    const hn::Rebind<std::uint16_t, F> d16;
    const auto* p = reinterpret_cast<const std::uint16_t*>(from) + first;
    for (std::int64_t i = 0; i < count; i += num_lanes)
      hn::Store(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, p + i)))), d,
                to + i);
    return;
  }
  const hn::Rebind<std::int8_t, F> d8;
  const I di;
  const auto* p = reinterpret_cast<const std::int8_t*>(from) + first;
  for (std::int64_t i = 0; i < count; i += num_lanes)
    hn::Store(hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, p + i))), d, to + i);
}

struct AttendState {
  HWY_ALIGN float scores[max_rows_f32 * block_keys];        // [rows, block]
  HWY_ALIGN float sums[max_rows_f32 * panel_columns];       // of a tile
  HWY_ALIGN float context[max_rows_f32 * max_head_width];   // [panels of K, rows, columns]
  HWY_ALIGN float widened[panel_columns * max_head_width];  // a panel of keys or rows of values
  float largest[max_rows_f32], sum[max_rows_f32];
};

/// A tile of `rows` rows of x [rows, inner] times a panel [inner, vectors · lanes].
inline void multiply_block(int rows, int vectors, const float* x, std::int64_t x_stride,
                           const float* panel, std::int64_t panel_stride, std::int64_t inner,
                           bool goes_on, float* sums) {
  Tile tile;
  tile.rows = rows;
  tile.vectors = vectors;
  tile.x = x;
  tile.x_stride = x_stride * static_cast<std::ptrdiff_t>(sizeof(float));
  tile.panel = panel;
  tile.panel_stride = panel_stride;
  tile.num_units = 1;
  tile.unit = inner;
  tile.goes_on = goes_on;
  tile.sums = sums;
  run_tile<TileF32, max_rows_f32>(tile);
}

/// q · k of keys [first, first + keys) -> scores with bias, unseen ones far below.
HWY_NOINLINE void score_block(const AttendRows& a, AttendState& s, std::int64_t first,
                              std::int64_t keys) {
  const F d;
  const I di;
  const Vf factor = hn::Set(d, a.scale);
  for (std::int64_t at = 0; at < keys; at += panel_columns) {
    const std::int64_t panel = (first + at) / panel_columns, size = a.width * panel_columns;
    const float* weights = s.widened;
    if (a.format == Format::f32)
      weights = reinterpret_cast<const float*>(a.key_panels) + panel * size;
    else
      widen(a.format, a.key_panels, panel * size, size, s.widened);
    // Of a last panel that is half empty one vector is enough.
    const int vectors = a.keys - first - at <= num_lanes ? 1 : panel_vectors;
    multiply_block(a.rows, vectors, a.query, a.query_stride, weights, panel_columns, a.width, false,
                   s.sums);
    for (int v = 0; v < panel_vectors; ++v) {
      const std::int64_t key = first + at + v * num_lanes, left = a.keys - key;
      const auto is_key = hn::FirstN(d, static_cast<std::size_t>(left < 0 ? 0 : left));
      const Vf scale = a.key_scales ? hn::Mul(factor, hn::LoadU(d, a.key_scales + key)) : factor;
      const Vf bias = a.bias && left > 0 ? load_first(a.bias + key, left) : hn::Zero(d);
      Vi from = hn::Zero(di);
      if (a.seen_from && left > 0)
        from = hn::BitCast(di, load_first(reinterpret_cast<const float*>(a.seen_from) + key, left));
      for (int r = 0; r < a.rows; ++r) {
        Vf score = v < vectors ? hn::LoadU(d, s.sums + (r * vectors + v) * num_lanes) : hn::Zero(d);
        score = hn::Mul(score, scale);
        if (a.bias) score = hn::Add(score, bias);
        auto seen = is_key;
        if (a.seen_from)
          seen = hn::AndNot(hn::RebindMask(d, hn::Gt(from, hn::Set(di, a.positions[r]))), seen);
        hn::Store(hn::IfThenElse(seen, score, hn::Set(d, unseen)), d,
                  s.scores + r * block_keys + at + v * num_lanes);
      }
    }
  }
}

/// Scores -> e^(score − largest so far); what was summed up before shrinks to the new largest.
HWY_NOINLINE void weigh_block(const AttendRows& a, AttendState& s, std::int64_t keys,
                              std::int64_t num_columns) {
  const F d;
  for (int r = 0; r < a.rows; ++r) {
    float* scores = s.scores + r * block_keys;
    Vf most = hn::Set(d, s.largest[r]);
    for (std::int64_t i = 0; i < keys; i += num_lanes)
      most = hn::Max(most, hn::Load(d, scores + i));
    const float largest = hn::GetLane(hn::MaxOfLanes(d, most));
    const Vf shift = hn::Set(d, largest);
    Vf sum = hn::Zero(d);
    for (std::int64_t i = 0; i < keys; i += num_lanes) {
      const Vf weight = exp_of_negative(hn::Sub(hn::Load(d, scores + i), shift));
      hn::Store(weight, d, scores + i);
      sum = hn::Add(sum, weight);
    }
    const float block_sum = hn::GetLane(hn::SumOfLanes(d, sum));
    if (largest > s.largest[r]) {
      const float shrink = hn::GetLane(exp_of_negative(hn::Set(d, s.largest[r] - largest)));
      s.sum[r] *= shrink;
      for (std::int64_t c = 0; c < num_columns; c += num_lanes) {
        float* context =
            s.context + (c / panel_columns * a.rows + r) * panel_columns + c % panel_columns;
        hn::Store(hn::Mul(hn::Load(d, context), hn::Set(d, shrink)), d, context);
      }
      s.largest[r] = largest;
    }
    s.sum[r] += block_sum;
  }
}

/// Adds weights · values to the context.
HWY_NOINLINE void add_block(const AttendRows& a, AttendState& s, std::int64_t first,
                            std::int64_t keys, std::int64_t row_size) {
  const F d;
  const std::int64_t real =
      a.keys - first < keys ? a.keys - first : keys;  // behind them nothing is stored
  if (a.value_scales)
    for (int r = 0; r < a.rows; ++r)
      for (std::int64_t i = 0; i < real; i += num_lanes) {
        float* weights = s.scores + r * block_keys + i;
        hn::Store(hn::Mul(hn::Load(d, weights), hn::LoadU(d, a.value_scales + first + i)), d,
                  weights);
      }
  // In fp32 the whole block at once, else as many rows as are widened together.
  const std::int64_t step = a.format == Format::f32 ? real : panel_columns;
  for (std::int64_t at = 0; at < real; at += step) {
    const std::int64_t rows = real - at < step ? real - at : step;
    const float* values = s.widened;
    if (a.format == Format::f32)
      values = reinterpret_cast<const float*>(a.values) + (first + at) * row_size;
    else
      widen(a.format, a.values, (first + at) * row_size, rows * row_size, s.widened);
    for (std::int64_t c = 0; c < row_size; c += panel_columns) {
      const int vectors = row_size - c < panel_columns ? 1 : panel_vectors;
      // A tile's sums have as many columns as it has vectors; the last one of an odd number has
      // half.
      float* context = s.context + c * a.rows;
      if (vectors == panel_vectors) {
        multiply_block(a.rows, vectors, s.scores + at, block_keys, values + c, row_size, rows, true,
                       context);
        continue;
      }
      for (int r = 0; r < a.rows; ++r)
        hn::Store(hn::Load(d, context + r * panel_columns), d, s.sums + r * num_lanes);
      multiply_block(a.rows, vectors, s.scores + at, block_keys, values + c, row_size, rows, true,
                     s.sums);
      for (int r = 0; r < a.rows; ++r)
        hn::Store(hn::Load(d, s.sums + r * num_lanes), d, context + r * panel_columns);
    }
  }
}

inline void attend(const AttendRows& a) {
  const F d;
  AttendState s;
  const std::int64_t row_size = in_vectors(a.width);
  for (int r = 0; r < a.rows; ++r) s.largest[r] = unseen, s.sum[r] = 0;
  const std::int64_t panels_of_row = (row_size + panel_columns - 1) / panel_columns;
  std::memset(s.context, 0,
              static_cast<std::size_t>(panels_of_row * a.rows * panel_columns) * sizeof(float));
  for (std::int64_t first = 0; first < a.keys; first += block_keys) {
    // Whole panels: a key that is not there has no weight.
    const std::int64_t left = (a.keys - first + panel_columns - 1) / panel_columns * panel_columns;
    const std::int64_t keys = left < block_keys ? left : block_keys;
    score_block(a, s, first, keys);
    weigh_block(a, s, keys, row_size);
    add_block(a, s, first, keys, row_size);
  }
  for (int r = 0; r < a.rows; ++r) {
    const Vf share = hn::Set(d, s.sum[r] > 0 ? 1 / s.sum[r] : 0);
    for (std::int64_t c = 0; c < row_size; c += num_lanes) {
      const float* context =
          s.context + (c / panel_columns * a.rows + r) * panel_columns + c % panel_columns;
      store_first(hn::Mul(hn::Load(d, context), share), a.out + r * a.out_stride + c, a.width - c);
    }
  }
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
