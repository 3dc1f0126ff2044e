#pragma once

#include <cstdint>
#include <string_view>

namespace cleave::base {

/// Element types of tensors in files, in memory and on the wire. The numbers stand in wire formats;
/// never change them. `scaled_i8` is for the wire alone: int8, and for each row, which is the last
/// axis, an f32 that its elements are multiplied by. The scales of all rows stand in front.
enum class Element : std::uint8_t {
  f32 = 1,
  f16 = 2,
  bf16 = 3,
  i64 = 4,
  i32 = 5,
  u8 = 6,
  i8 = 7,
  f64 = 8,
  boolean = 9,
  scaled_i8 = 10
};

/// Bytes of one element.
constexpr std::int64_t size_of(Element element) {
  switch (element) {
    case Element::f64:
    case Element::i64:
      return 8;
    case Element::f32:
    case Element::i32:
      return 4;
    case Element::f16:
    case Element::bf16:
      return 2;
    case Element::u8:
    case Element::i8:
    case Element::boolean:
    case Element::scaled_i8:
      return 1;
  }
  return 0;
}

/// Bytes that each row has beside its elements.
constexpr std::int64_t scale_bytes_of(Element element) {
  return element == Element::scaled_i8 ? 4 : 0;
}

/// "f32", "bf16" …; "int8" with a scale for each row.
constexpr std::string_view name_of(Element element) {
  switch (element) {
    case Element::f64:
      return "f64";
    case Element::i64:
      return "i64";
    case Element::f32:
      return "f32";
    case Element::i32:
      return "i32";
    case Element::f16:
      return "f16";
    case Element::bf16:
      return "bf16";
    case Element::u8:
      return "u8";
    case Element::i8:
      return "i8";
    case Element::boolean:
      return "bool";
    case Element::scaled_i8:
      return "int8";
  }
  return "?";
}

}  // namespace cleave::base
