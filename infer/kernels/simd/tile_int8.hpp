#pragma once

// What tiles of a product in int8 share, whatever multiplies.
//
// A panel holds for each unit of the inner axis: the columns' scales, f32; where x is stored plus
// 128, what that adds to each column's sum (−128 · the sum of the unit's weights), i32; the
// weights, [padded unit / group, columns, group]. Sums of a unit are exact; each is scaled and
// added to the fp32 sum in the order of the units.

#include "infer/kernels/simd/tile_f32.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

/// int8 with a scale for each unit: max |x| / 127, and x = scale · q. Where a number is not
/// finite, no more is the scale.
template <class Q, bool Offset, int Order>
void prepare_int8(const Prepare& p) {
  const F d;
  const I di;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const float* x = p.x + r * p.x_stride;
    auto* out = static_cast<Q*>(p.out) + r * p.num_units * p.padded_unit;
    for (std::int64_t u = 0; u < p.num_units; ++u) {
      // Without their sign, numbers are in the order of their bits, and above all stand infinity
      // and NaN.
      Vi most = hn::Zero(di);
      for (std::int64_t k = 0; k < p.unit; k += num_lanes)
        most = hn::Max(most, hn::BitCast(di, hn::Abs(load_first(x + k, p.unit - k))));
      const std::int32_t bits = hn::GetLane(hn::MaxOfLanes(di, most));
      const float largest = load_as<float>(reinterpret_cast<const char*>(&bits));
      p.scales[r * p.num_units + u] = largest / 127.0F;
      // Less than 127 / FLT_MAX would make the inverse infinite.
      const Vf inverse = hn::Set(d, largest > 1e-36F ? 127.0F / largest : 0.0F);
      for (std::int64_t k = 0; k < p.padded_unit; k += num_lanes) {
        Vi q = hn::Zero(di);
        if (k < p.unit) q = hn::NearestInt(hn::Mul(load_first(x + k, p.unit - k), inverse));
        if (Offset) q = hn::Add(q, hn::Set(di, 128));
        const std::int64_t count = std::min<std::int64_t>(num_lanes, p.padded_unit - k);
#if HWY_TARGET != HWY_SCALAR
        if constexpr (Order == 1) {
          if (count == num_lanes) {
            const hn::Rebind<Q, F> dq;
            hn::StoreU(hn::DemoteTo(dq, q), dq, out + k);
            continue;
          }
        }
#endif
        HWY_ALIGN std::int32_t whole[num_lanes];
        hn::Store(q, di, whole);
        for (std::int64_t i = 0; i < count; ++i) {
          // Order 4: the even ones of four first, as tiles that multiply pairs want them.
          const std::int64_t at = k + i;
          const std::int64_t place = Order == 4 ? (at & ~3) | (at & 1) << 1 | (at >> 1 & 1) : at;
          out[place] = static_cast<Q>(whole[i]);
        }
      }
      x += p.unit;
      out += p.padded_unit;
    }
  }
}

/// A unit's part of the panel.
template <int V>
struct UnitOfPanel {
  HWY_INLINE UnitOfPanel(const char* p, bool has_offsets)
      : scales(reinterpret_cast<const float*>(p)),
        offsets(reinterpret_cast<const std::int32_t*>(p + V * num_lanes * 4)),
        weights(p + (has_offsets ? 8 : 4) * V * num_lanes) {}
  const float* scales;
  const std::int32_t* offsets;
  const char* weights;
};

/// Adds a unit's exact sums, scaled, to the tile's.
HWY_INLINE void add_scaled(Vi exact, const float* column_scales, float row_scale, bool first,
                           float* sums) {
  const F d;
  const Vf scale = hn::Mul(hn::LoadU(d, column_scales), hn::Set(d, row_scale));
  const Vf before = first ? hn::Zero(d) : hn::LoadU(d, sums);
  hn::StoreU(hn::MulAdd(hn::ConvertTo(d, exact), scale, before), d, sums);
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
