#include "infer/kernels/rotary.hpp"

#include <cmath>
#include <complex>

#include <gtest/gtest.h>

#include "tests/infer/kernels/numbers.hpp"

namespace cleave::kernels {
namespace {

TEST(Rotary, TurnsEachPairByItsAngle) {
  const std::vector<double> frequencies = {1, 0.1, 0.003};
  const Rotary rotary(frequencies);
  const std::int64_t rows = 4, heads = 2, width = 6, stride = 15;
  const auto before = noise(rows * stride, 1);
  auto after = before;
  const std::vector<float> positions = {0, 1, 2.5F, 1000};
  rotary.turn(after.data(), stride, rows, heads, positions.data());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < stride; ++i) {
      const auto at = static_cast<std::size_t>(r * stride + i);
      if (i >= heads * width) {
        EXPECT_EQ(after[at], before[at]) << "beside the heads";
        continue;
      }
      const std::int64_t k = i % width, pair = k % 3;
      const auto first = at - static_cast<std::size_t>(k) + static_cast<std::size_t>(pair);
      const std::complex<double> number(before[first], before[first + 3]);
      const auto turned = number * std::polar(1.0, double{positions[static_cast<std::size_t>(r)]} *
                                                       frequencies[static_cast<std::size_t>(pair)]);
      EXPECT_NEAR(after[at], k < 3 ? turned.real() : turned.imag(), 2e-4);
    }
}

TEST(Rotary, PositionZeroChangesNothing) {
  const Rotary rotary({1, 0.5});
  const auto before = noise(4, 2);
  auto after = before;
  const float zero = 0;
  rotary.turn(after.data(), 4, 1, 1, &zero);
  EXPECT_EQ(after, before);
}

}  // namespace
}  // namespace cleave::kernels
