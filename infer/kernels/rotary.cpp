#include "infer/kernels/rotary.hpp"

#include <array>
#include <cassert>
#include <cmath>
#include <utility>

#include "infer/kernels/attention.hpp"

namespace cleave::kernels {

Rotary::Rotary(std::vector<double> frequencies) : frequencies_(std::move(frequencies)) {
  assert(!frequencies_.empty() && width() <= max_head_width);
}

void Rotary::turn(float* rows, std::ptrdiff_t stride, std::int64_t count, std::int64_t heads,
                  const float* positions) const {
  const std::int64_t half = width() / 2;
  std::array<float, max_head_width / 2> cosines, sines;
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t i = 0; i < half; ++i) {
      const auto k = static_cast<std::size_t>(i);
      // The angle in fp32, as Transformers computes it; its functions are exact.
      const double angle = positions[r] * static_cast<float>(frequencies_[k]);
      cosines[k] = static_cast<float>(std::cos(angle));
      sines[k] = static_cast<float>(std::sin(angle));
    }
    for (std::int64_t h = 0; h < heads; ++h) {
      float* head = rows + r * stride + h * 2 * half;
      for (std::int64_t i = 0; i < half; ++i) {
        const auto k = static_cast<std::size_t>(i);
        const float a = head[i], b = head[i + half];
        head[i] = a * cosines[k] - b * sines[k];
        head[i + half] = b * cosines[k] + a * sines[k];
      }
    }
  }
}

}  // namespace cleave::kernels
