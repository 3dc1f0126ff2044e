#include "infer/cast.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>

#include "net/buffer.hpp"

namespace cleave::infer {
namespace {

using at::Tensor;

constexpr float most_i8 = 127;

[[noreturn]] void refuse(const plan::ValueInfo& value, const std::string& saw,
                         const std::string& needs) {
  throw std::runtime_error("[cast] value " + value.name + ": saw " + saw + ", needs " + needs);
}

/// To the nearest whole number, of two the even one; |x| below 2^22. As addition it becomes vector
/// instructions, which std::nearbyint does not.
float rounded(float x) {
  constexpr float shift = 0x1.8p23F;
  return (x + shift) - shift;
}

/// The bits of the largest |x|. Without their signs, bits of numbers are in the order of the
/// numbers, and those of infinity and NaN behind all others.
template <class Bits>
Bits most_bits(const void* numbers, std::int64_t count) {
  constexpr auto without_sign = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  Bits most = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    Bits bits = 0;
    std::memcpy(&bits, static_cast<const Bits*>(numbers) + i, sizeof bits);
    most = std::max(most, static_cast<Bits>(bits & without_sign));
  }
  return most;
}
/// Those of infinity, in each format.
constexpr std::uint32_t infinity_f32 = 0x7F800000;
constexpr std::uint16_t infinity_f16 = 0x7C00, infinity_bf16 = 0x7F80;

/// Writes the numbers and returns their scale. One that rounds to 0 makes zeros; one far below the
/// smallest normal number is so coarse that quotients may be beyond 127.
float quantise_row(const float* row, std::int64_t columns, float most, std::int8_t* numbers) {
  const float scale = most / most_i8;
  if (scale == 0) {
    std::fill_n(numbers, columns, std::int8_t{0});
    return scale;
  }
  for (std::int64_t i = 0; i < columns; ++i)
    numbers[i] =
        static_cast<std::int8_t>(rounded(std::min(std::max(row[i] / scale, -most_i8), most_i8)));
  return scale;
}

/// Rows and columns of int8 rows; where their scales and numbers stand.
struct Rows {
  Rows(const Tensor& bytes, const plan::ValueInfo& info)
      : columns(info.dims.empty() ? 1 : info.dims.back()),
        count(bytes.numel() / (columns + base::scale_bytes_of(info.element))),
        scales(static_cast<float*>(bytes.data_ptr())),
        numbers(static_cast<std::int8_t*>(bytes.data_ptr()) +
                count * base::scale_bytes_of(info.element)) {}
  std::int64_t columns, count;
  float* scales;
  std::int8_t* numbers;
};

Tensor quantised(const Tensor& x, const plan::ValueInfo& from, const plan::ValueInfo& to) {
  const Tensor given = x.to(at::kFloat).contiguous();
  net::Value travels;
  travels.element = to.element;
  travels.dims = to.dims;
  Tensor bytes = at::empty({travels.bytes()}, at::kByte);
  const Rows rows(bytes, to);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const float* row = given.data_ptr<float>() + r * rows.columns;
    const std::uint32_t bits = most_bits<std::uint32_t>(row, rows.columns);
    if (bits >= infinity_f32)
      refuse(from, "a number that is not finite", "finite ones to travel as int8");
    float most = 0;
    std::memcpy(&most, &bits, sizeof most);
    rows.scales[r] = quantise_row(row, rows.columns, most, rows.numbers + r * rows.columns);
  }
  return bytes;
}

Tensor restored(const Tensor& bytes, const plan::ValueInfo& from, at::ScalarType computed) {
  const Rows rows(bytes, from);
  Tensor result = at::empty(from.dims, at::kFloat);
  for (std::int64_t r = 0; r < rows.count; ++r) {
    const float scale = rows.scales[r];
    if (!(scale >= 0) || !std::isfinite(scale))
      refuse(from, "a scale of " + std::to_string(scale), "finite ones from 0 on");
    const std::int8_t* numbers = rows.numbers + r * rows.columns;
    float* row = result.data_ptr<float>() + r * rows.columns;
    for (std::int64_t i = 0; i < rows.columns; ++i) row[i] = static_cast<float>(numbers[i]) * scale;
  }
  return result.to(computed);
}

}  // namespace

at::Tensor cast(const Tensor& x, const plan::ValueInfo& from, const plan::ValueInfo& to) {
  const bool half = to.element == base::Element::f16;
  if (to.element == base::Element::scaled_i8) return quantised(x, from, to);
  if (!half && to.element != base::Element::bf16) {
    const auto computed = to.element == base::Element::f64 ? at::kDouble : at::kFloat;
    const bool scaled = from.element == base::Element::scaled_i8;
    return scaled ? restored(x, from, computed) : x.to(computed);
  }
  const Tensor result = x.to(at::kFloat).to(half ? at::kHalf : at::kBFloat16).contiguous();
  if (most_bits<std::uint16_t>(result.data_ptr(), result.numel()) >=
      (half ? infinity_f16 : infinity_bf16))
    refuse(from, "a number that is not finite or too large",
           "finite ones to travel as " + std::string(base::name_of(to.element)));
  return result;
}

}  // namespace cleave::infer
