#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cleave::model {

/// Where the first byte lies that is not valid UTF-8 (also overlong forms and surrogates), or
/// nothing.
std::optional<std::size_t> first_invalid_utf8(std::string_view text);
/// The same as an error says it, of text that begins at byte `offset` of what is read: "byte 7: is
/// no valid UTF-8" and behind it the remedy, if any; or that the text is UTF-16. Empty: it is
/// valid.
std::string why_not_utf8(std::string_view text, const std::string& remedy = "",
                         std::size_t offset = 0);
/// The text with each maximal invalid sequence replaced by U+FFFD (Unicode 15, section 3.9).
std::string repaired_utf8(std::string_view text);

/// The text without the byte order mark (U+FEFF) that it may begin with: editors write it, and it
/// is no part of what was written. Every door for text drops it.
std::string_view without_byte_order_mark(std::string_view text);

/// The code point at `position` of valid UTF-8; moves `position` behind it.
char32_t next_code_point(std::string_view text, std::size_t& position);
void append_utf8(char32_t point, std::string& text);

/// Classes of code points, by ICU. White space is the property White_Space; a control is of the
/// categories Cc, Cf, Co and Cs (what no table knows yet is none); punctuation of P*, or an ASCII
/// symbol.
bool is_white_space(char32_t point);
bool is_control(char32_t point);
bool is_letter(char32_t point);
bool is_number(char32_t point);
bool is_punctuation(char32_t point);
bool is_nonspacing_mark(char32_t point);

/// Canonical decomposition and composition of valid UTF-8.
std::string to_nfd(std::string_view text);
std::string to_nfc(std::string_view text);
/// A regular expression over valid UTF-8, by ICU; \s is the property White_Space.
class Pattern {
 public:
  /// Throws std::invalid_argument with what ICU says of it.
  explicit Pattern(const std::string& expression);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  /// Cuts the text at the beginning and the end of every match: pieces in order, none empty. Throws
  /// std::runtime_error where matching takes too long.
  std::vector<std::string_view> cut(std::string_view text) const;

 private:
  struct Compiled;
  std::unique_ptr<const Compiled> compiled_;
};

/// Full lower case of one code point, without context ("İ" becomes "i" and U+0307).
void append_lower(char32_t point, std::string& text);

}  // namespace cleave::model
