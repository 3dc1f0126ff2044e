#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cleave::base {

/// "256 MB", "1.5 GiB", "4096" -> bytes. Throws std::invalid_argument "saw …, needs …".
std::uint64_t parse_bytes(std::string_view text);
/// "100 Mbit/s", "12.5 MB/s", "1 Gbit/s" -> bytes a second.
double parse_bytes_per_s(std::string_view text);
/// "2 ms", "150 us", "1.5 s", "0.25" -> seconds.
double parse_seconds(std::string_view text);

/// Three significant digits and a unit: "1.53 GB", "412 ms", "94.2 Mbit/s".
std::string format_bytes(double bytes);
std::string format_seconds(double seconds);
std::string format_bytes_per_s(double rate);
/// "2.65 M", "1.56 G".
std::string format_count(double count);

}  // namespace cleave::base
