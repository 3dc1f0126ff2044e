#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace cleave::model {

/// Where the first byte lies that is not valid UTF-8 (also overlong forms and surrogates), or
/// nothing.
std::optional<std::size_t> first_invalid_utf8(std::string_view text);
/// The text with each maximal invalid sequence replaced by U+FFFD (Unicode 15, section 3.9).
std::string repaired_utf8(std::string_view text);

/// The code point at `position` of valid UTF-8; moves `position` behind it.
char32_t next_code_point(std::string_view text, std::size_t& position);
void append_utf8(char32_t point, std::string& text);

/// Classes of code points, by ICU. White space is the property White_Space; a control is of the
/// categories Cc, Cf, Cn, Co and Cs; punctuation of P*, or an ASCII symbol.
bool is_white_space(char32_t point);
bool is_control(char32_t point);
bool is_letter(char32_t point);
bool is_number(char32_t point);
bool is_punctuation(char32_t point);
bool is_nonspacing_mark(char32_t point);

/// Canonical decomposition and composition of valid UTF-8.
std::string to_nfd(std::string_view text);
std::string to_nfc(std::string_view text);
/// Full lower case of one code point, without context ("İ" becomes "i" and U+0307).
void append_lower(char32_t point, std::string& text);

}  // namespace cleave::model
