#pragma once

#include <cstdint>

#include "infer/kernels/table.hpp"

namespace cleave::kernels {

inline std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t rounded_up(std::int64_t a, std::int64_t b) { return divided_up(a, b) * b; }
/// Bytes of a number.
inline std::int64_t size_of(Format format) {
  return format == Format::f32 ? 4 : format == Format::bf16 ? 2 : 1;
}

}  // namespace cleave::kernels
