#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cleave::kernels {

/// Rotary positions (Su and others 2021) as Hugging Face lays them out: number i and i + K/2 of a
/// head turn together by the angle position · frequencies[i].
class Rotary {
 public:
  /// K/2 angles from one position to the next: base^(−2i/K), scaled as the model says.
  explicit Rotary(std::vector<double> frequencies);
  std::int64_t width() const { return 2 * static_cast<std::int64_t>(frequencies_.size()); }

  /// Turns rows [rows, heads · K] in place. Positions are fp32: a mean may stand between two
  /// tokens.
  void turn(float* rows, std::ptrdiff_t stride, std::int64_t count, std::int64_t heads,
            const float* positions) const;

 private:
  std::vector<double> frequencies_;
};

}  // namespace cleave::kernels
