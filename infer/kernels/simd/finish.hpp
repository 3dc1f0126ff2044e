#pragma once

// What becomes of a tile's sums.

#include "infer/kernels/simd/math.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

inline void finish(const Finish& f) {
  const F d;
  for (int r = 0; r < f.rows; ++r) {
    const float* sums = f.sums + r * f.sums_stride;
    float* out = f.out + r * f.out_stride;
    for (int c = 0; c < f.columns; c += num_lanes) {
      // The sums are whole vectors, but nothing else need be.
      const int count = f.columns - c;
      Vf value = hn::LoadU(d, sums + c);
      if (f.bias) value = hn::Add(value, load_first(f.bias + c, count));
      value = activate(f.activation, value);
      if (f.factor) value = hn::Mul(value, load_first(f.factor + r * f.factor_stride + c, count));
      if (f.residual)
        value = hn::Add(value, load_first(f.residual + r * f.residual_stride + c, count));
      store_first(value, out + c, count);
    }
  }
}

inline std::uint64_t read(const void* data, std::size_t bytes) {
  const hn::ScalableTag<std::uint64_t> d;
  constexpr std::size_t lanes = HWY_LANES(std::uint64_t);
  const auto* p = static_cast<const std::uint64_t*>(data);
  auto a = hn::Zero(d), b = hn::Zero(d);
  for (std::size_t i = 0; i + 16 <= bytes / 8; i += 16) {
    for (std::size_t j = 0; j < 8; j += lanes) {
      a = hn::Or(a, hn::LoadU(d, p + i + j));
      b = hn::Or(b, hn::LoadU(d, p + i + 8 + j));
    }
  }
  return hn::GetLane(hn::Or(a, b));
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
