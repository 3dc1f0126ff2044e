#pragma once

// Norms, and the largest number of a row with its sum of exponentials.

#include "infer/kernels/simd/math.hpp"

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

/// Σ f(x), in lanes and then together, whatever the width.
template <class Of>
HWY_INLINE float sum_of(const float* x, std::int64_t width, const Of& of) {
  const F d;
  Vf sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + num_lanes <= width; i += num_lanes) sum = hn::Add(sum, of(hn::LoadU(d, x + i)));
  if (i < width) {
    const auto there = hn::FirstN(d, static_cast<std::size_t>(width - i));
    sum = hn::Add(sum, hn::IfThenElseZero(there, of(load_first(x + i, width - i))));
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

inline void norm(const NormRows& n) {
  const F d;
  const float per = 1 / static_cast<float>(n.width);
  for (std::int64_t r = 0; r < n.rows; ++r) {
    const float* x = n.x + r * n.width;
    float* out = n.out + r * n.width;
    if (n.residual) {
      float* stream = n.stream ? n.stream + r * n.width : out;
      const float* residual = n.residual + r * n.width;
      for (std::int64_t i = 0; i < n.width; i += num_lanes)
        store_first(hn::Add(load_first(x + i, n.width - i), load_first(residual + i, n.width - i)),
                    stream + i, n.width - i);
      x = stream;
    }
    const float mean = n.is_rms ? 0 : per * sum_of(x, n.width, [](Vf v) { return v; });
    const Vf centre = hn::Set(d, mean);
    const float variance = per * sum_of(x, n.width, [centre](Vf v) {
                             const Vf away = hn::Sub(v, centre);
                             return hn::Mul(away, away);
                           });
    const Vf factor = hn::Div(hn::Set(d, 1.0F), hn::Sqrt(hn::Set(d, variance + n.eps)));
    for (std::int64_t i = 0; i < n.width; i += num_lanes) {
      const std::int64_t count = n.width - i;
      Vf y = hn::Mul(hn::Mul(hn::Sub(load_first(x + i, count), centre), factor),
                     load_first(n.weight + i, count));
      if (n.bias) y = hn::Add(y, load_first(n.bias + i, count));
      store_first(y, out + i, count);
    }
  }
}

/// Of factor · x.
inline LargestAndSum largest_and_sum(const float* x, std::int64_t count, float factor) {
  const F d;
  const Vf times = hn::Set(d, factor), low = hn::Set(d, -3e38F);
  Vf most = low;
  std::int64_t i = 0;
  for (; i + num_lanes <= count; i += num_lanes)
    most = hn::Max(most, hn::Mul(hn::LoadU(d, x + i), times));
  const auto there = hn::FirstN(d, static_cast<std::size_t>(count - i));
  if (i < count)
    most = hn::Max(most, hn::IfThenElse(there, hn::Mul(load_first(x + i, count - i), times), low));
  LargestAndSum found;
  found.largest = hn::GetLane(hn::MaxOfLanes(d, most));
  const Vf shift = hn::Set(d, found.largest);
  found.sum = sum_of(x, count, [&](Vf v) { return hn::Exp(d, hn::Sub(hn::Mul(v, times), shift)); });
  return found;
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
