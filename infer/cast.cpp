#include "infer/cast.hpp"

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>

namespace cleave::infer {
namespace {

using at::Tensor;

constexpr double most_i8 = 127;

[[noreturn]] void refuse(const plan::ValueInfo& value, const std::string& saw,
                         const std::string& needs) {
  throw std::runtime_error("[cast] value " + value.name + ": saw " + saw + ", needs " + needs);
}

/// Scales and numbers of int8 rows, as views of their bytes.
struct Rows {
  Tensor scales;   // f32 [rows, 1]
  Tensor numbers;  // i8 [rows, D]
};
Rows rows_of(const Tensor& bytes, const plan::ValueInfo& info) {
  const std::int64_t columns = info.dims.empty() ? 1 : info.dims.back();
  const std::int64_t rows = bytes.numel() / (columns + base::scale_bytes_of(info.element));
  const std::int64_t scales = rows * base::scale_bytes_of(info.element);
  return {bytes.narrow(0, 0, scales).view(at::kFloat).view({rows, 1}),
          bytes.narrow(0, scales, rows * columns).view(at::kChar).view({rows, columns})};
}

/// Scale max|row| / 127. A scale that rounds to 0 makes zeros.
Tensor quantised(const Tensor& x, const plan::ValueInfo& from, const plan::ValueInfo& to) {
  const std::int64_t columns = to.dims.empty() ? 1 : to.dims.back();
  const Tensor flat = x.to(at::kFloat).reshape({-1, columns});
  const Tensor scales = flat.abs().amax({1}, true) / most_i8;
  if (!scales.isfinite().all().item<bool>())
    refuse(from, "a number that is not finite", "finite ones to travel as int8");
  Tensor bytes =
      at::empty({flat.size(0) * (columns + base::scale_bytes_of(to.element))}, at::kByte);
  Rows rows = rows_of(bytes, to);
  rows.scales.copy_(scales);
  // A row of zeros, or of numbers too small for a scale, is one of zeros.
  const Tensor divisors = scales.masked_fill(scales == 0, std::numeric_limits<float>::infinity());
  rows.numbers.copy_((flat / divisors).round().clamp(-most_i8, most_i8));
  return bytes;
}

Tensor restored(const Tensor& bytes, const plan::ValueInfo& from, at::ScalarType computed) {
  const Rows rows = rows_of(bytes, from);
  const Tensor wrong = (rows.scales < 0).logical_or(rows.scales.isfinite().logical_not());
  if (wrong.any().item<bool>())
    refuse(
        from,
        "a scale of " + std::to_string(rows.scales.masked_select(wrong).select(0, 0).item<float>()),
        "finite ones from 0 on");
  return (rows.numbers.to(at::kFloat) * rows.scales).to(computed).view(from.dims);
}

}  // namespace

at::Tensor cast(const Tensor& x, const plan::ValueInfo& from, const plan::ValueInfo& to) {
  const auto computed = [&] { return to.element == base::Element::f64 ? at::kDouble : at::kFloat; };
  if (from.element == base::Element::scaled_i8) return restored(x, from, computed());
  if (to.element == base::Element::scaled_i8) return quantised(x, from, to);
  const bool travels = to.element == base::Element::f16 || to.element == base::Element::bf16;
  if (!travels) return x.to(computed());
  const Tensor result =
      x.to(at::kFloat).to(to.element == base::Element::f16 ? at::kHalf : at::kBFloat16);
  if (!result.isfinite().all().item<bool>())
    refuse(from, "a number that is not finite or too large",
           "finite ones to travel as " + std::string(base::name_of(to.element)));
  return result;
}

}  // namespace cleave::infer
