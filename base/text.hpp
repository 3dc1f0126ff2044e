#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cleave::base {

inline bool starts_with(std::string_view text, std::string_view begin) {
  return text.substr(0, begin.size()) == begin;
}

inline bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

/// "hub, cam".
template <class Texts>
std::string joined(const Texts& texts, std::string_view between = ", ") {
  std::string all;
  bool first = true;
  for (const auto& text : texts) {
    if (!first) all += between;
    all += text;
    first = false;
  }
  return all;
}

/// What stands between the separators, one text at least: "a,,b" -> "a", "", "b".
inline std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at != std::string_view::npos;) {
    const std::size_t end = text.find(separator, at);
    parts.emplace_back(text.substr(at, end == std::string_view::npos ? end : end - at));
    at = end == std::string_view::npos ? end : end + 1;
  }
  return parts;
}

/// Control characters as "\n" or "\x1b", so that what a peer calls itself neither forges a line nor
/// steers a terminal. Other bytes stay as they are.
std::string printable(std::string_view text);

}  // namespace cleave::base
