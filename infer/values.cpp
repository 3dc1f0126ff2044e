#include "infer/values.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace cleave::infer {

std::string shape_text(base::Element element, const std::vector<std::int64_t>& dims) {
  std::string text = std::string(base::name_of(element)) + " [";
  for (std::size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

std::string mismatch(const net::Value& value, const plan::ValueInfo& info) {
  if (!value.present || value.element != info.element || value.dims != info.dims)
    return "saw " + shape_text(value.element, value.dims) + ", needs " +
           shape_text(info.element, info.dims);
  if (static_cast<std::int64_t>(value.data.size()) != value.bytes())
    return "saw " + std::to_string(value.data.size()) + " bytes, needs " +
           std::to_string(value.bytes());
  return {};
}

std::string implausible(const net::Value& value, double most) {
  if (value.element != base::Element::f32) return {};
  const auto count = static_cast<std::size_t>(value.count());
  const std::byte* bytes = value.data.data();
  const float bound = most > 0 ? static_cast<float>(most) : std::numeric_limits<float>::max();
  for (std::size_t i = 0; i < count; ++i) {
    float number = 0;
    std::memcpy(&number, bytes + i * sizeof number, sizeof number);
    if (std::abs(number) <= bound) continue;  // a NaN is not
    char text[128];
    if (std::isfinite(number))
      std::snprintf(text, sizeof text,
                    "saw %g, needs at most %g, %g times the largest in calibration",
                    static_cast<double>(number), most, plausible_times);
    else
      std::snprintf(text, sizeof text, "saw %g, needs finite numbers", static_cast<double>(number));
    return text;
  }
  return {};
}

}  // namespace cleave::infer
