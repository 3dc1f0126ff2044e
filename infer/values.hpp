#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/element.hpp"
#include "net/buffer.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::infer {

/// "f32 [1, 5, 24]".
std::string shape_text(base::Element element, const std::vector<std::int64_t>& dims);

/// Empty where the value is what the program says, else "saw f32 [1, 1, 5], needs f32 [1, 1, 96]".
std::string mismatch(const net::Value& value, const plan::ValueInfo& info);

/// A feature so many times as large as any in calibration is no feature, but a fault of a device.
constexpr double plausible_times = 4;

/// Why a value of floats is no feature: a number that is not finite, or larger than `most` (0: not
/// known). Empty where it may be one.
std::string implausible(const net::Value& value, double most);

}  // namespace cleave::infer
