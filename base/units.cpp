#include "base/units.hpp"

#include <array>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <stdexcept>

namespace cleave::base {
namespace {

struct Unit {
  std::string_view name;
  double scale;
};
using Units = std::initializer_list<Unit>;

const Units byte_units = {{"", 1},         {"B", 1},        {"kB", 1e3},    {"KB", 1e3},
                          {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},   {"KiB", 1024.0},
                          {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
const Units rate_units = {{"bit/s", 1.0 / 8},  {"kbit/s", 1e3 / 8}, {"Mbit/s", 1e6 / 8},
                          {"Gbit/s", 1e9 / 8}, {"B/s", 1},          {"kB/s", 1e3},
                          {"KB/s", 1e3},       {"MB/s", 1e6},       {"GB/s", 1e9},
                          {"KiB/s", 1024.0},   {"MiB/s", 0x1p20},   {"GiB/s", 0x1p30}};
const Units time_units = {{"", 1},      {"s", 1},     {"ms", 1e-3}, {"us", 1e-6},
                          {"µs", 1e-6}, {"ns", 1e-9}, {"min", 60},  {"h", 3600}};

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

std::invalid_argument unreadable(std::string_view text, const std::string& need) {
  constexpr std::size_t longest = 40;
  const bool cut = text.size() > longest;
  return std::invalid_argument("saw \"" + std::string(text.substr(0, longest)) + (cut ? "…" : "") +
                               "\", needs " + need);
}

/// A finite number of at least 0 and one of the units.
double parse(std::string_view text, const Units& units, const std::string& need) {
  const std::string_view trim = trimmed(text);
  double value = 0;
  const auto [end, error] = std::from_chars(trim.data(), trim.data() + trim.size(), value);
  if (error != std::errc{} || !std::isfinite(value) || value < 0) throw unreadable(text, need);
  const std::string_view name = trimmed(trim.substr(static_cast<std::size_t>(end - trim.data())));
  for (const Unit& unit : units) {
    if (unit.name == name) return value * unit.scale;
  }
  throw unreadable(text, need);
}

std::string fixed(double value, int decimals) {
  std::array<char, 64> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value,
                                          std::chars_format::fixed, decimals);
  return error == std::errc{} ? std::string(text.data(), end) : std::string("?");
}

/// To three significant digits.
double rounded(double value) {
  if (value == 0) return 0;
  const double step = std::pow(10.0, std::floor(std::log10(std::abs(value))) - 2);
  return std::round(value / step) * step;
}

/// `units` from the smallest to the largest.
std::string format(double value, const Units& units) {
  const auto unit_of = [](const Unit& unit) {
    return unit.name.empty() ? std::string() : " " + std::string(unit.name);
  };
  if (!std::isfinite(value))
    return (std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf") + std::string();
  if (value < 0) return "-" + format(-value, units);
  const Unit* chosen = units.begin();
  for (const Unit& unit : units) {
    // Rounded first, so that 999.9 ms is 1.00 s and not 1000 ms; a hair less, for what rounding
    // leaves.
    if (rounded(value) >= unit.scale * (1 - 1e-9)) chosen = &unit;
  }
  const double scaled = rounded(value) / chosen->scale;
  const bool whole = chosen == units.begin() && scaled == std::floor(scaled);
  const int decimals = whole || scaled >= 99.95 ? 0 : scaled >= 9.995 ? 1 : 2;
  return fixed(scaled, decimals) + unit_of(*chosen);
}

}  // namespace

std::uint64_t parse_bytes(std::string_view text) {
  const std::string need = "a number of bytes such as \"256 MB\" or \"1.5 GiB\"";
  // A whole number goes past double, which holds only 53 bits.
  const std::string_view trim = trimmed(text);
  std::uint64_t whole = 0;
  const auto [end, error] = std::from_chars(trim.data(), trim.data() + trim.size(), whole);
  if (error == std::errc{} && end == trim.data() + trim.size()) return whole;
  const double bytes = parse(text, byte_units, need);
  if (bytes >= 0x1p63) throw unreadable(text, need + ", below 8 EiB");
  return static_cast<std::uint64_t>(std::llround(bytes));
}

double parse_bytes_per_s(std::string_view text) {
  return parse(text, rate_units, "a rate such as \"100 Mbit/s\" or \"12.5 MB/s\"");
}

double parse_seconds(std::string_view text) {
  return parse(text, time_units, "a time such as \"2 ms\", \"150 us\" or \"1.5 s\"");
}

std::string format_bytes(double bytes) {
  return format(bytes, {{"B", 1}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}});
}

std::string format_seconds(double seconds) {
  if (seconds == 0) return "0 s";
  return format(seconds,
                {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"min", 60}, {"h", 3600}});
}

std::string format_bytes_per_s(double rate) {
  return format(rate * 8, {{"bit/s", 1}, {"kbit/s", 1e3}, {"Mbit/s", 1e6}, {"Gbit/s", 1e9}});
}

std::string format_count(double count) {
  return format(count, {{"", 1}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}});
}

}  // namespace cleave::base
