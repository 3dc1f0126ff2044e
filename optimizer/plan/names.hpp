#pragma once

#include <string>
#include <string_view>

namespace cleave::plan {

/// What numbers the weights are: files name it, so that others can come.
constexpr std::string_view weight_format_f32 = "f32";

/// Names of devices and plans become folders of a bundle: letters, digits, '-', '_' and '.', the
/// first a letter or digit, at most 64.
inline bool is_name(std::string_view text) {
  const auto letter_or_digit = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (text.empty() || text.size() > 64 || !letter_or_digit(text.front())) return false;
  for (const char c : text)
    if (!letter_or_digit(c) && c != '-' && c != '_' && c != '.') return false;
  return true;
}
constexpr std::string_view name_needs =
    "1 to 64 letters, digits, '-', '_' or '.', a letter or digit first";

/// 'text' for a message: one line of ASCII, not longer than needed to be recognised.
inline std::string shown(std::string_view text) {
  constexpr std::size_t longest = 80;
  std::string line = "'";
  for (const char c : text.substr(0, longest)) line += c >= ' ' && c <= '~' ? c : '?';
  return line + (text.size() > longest ? "...'" : "'");
}

/// "host:port" with a port 1..65535; IPv6 in brackets.
inline bool is_address(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || text.size() > 256) return false;
  const std::string_view host = text.substr(0, colon), port = text.substr(colon + 1);
  if (host.find(':') != std::string_view::npos && (host.front() != '[' || host.back() != ']'))
    return false;
  for (const char c : host)
    if (c <= ' ' || c == '"' || c == '\\' || c == 0x7f) return false;
  if (port.empty() || port.size() > 5) return false;
  int number = 0;
  for (const char c : port) {
    if (c < '0' || c > '9') return false;
    number = number * 10 + (c - '0');
  }
  return number >= 1 && number <= 65535;
}

}  // namespace cleave::plan
