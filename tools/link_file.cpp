#include "tools/link_file.hpp"

#include <charconv>
#include <sstream>
#include <stdexcept>

#include "base/file.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

constexpr char header[] = "seconds,mbit_s,latency_ms,jitter_ms";

/// Four numbers between commas; false where it is anything else.
bool read_row(const std::string& line, double (&numbers)[4]) {
  const char *at = line.data(), *end = at + line.size();
  for (int i = 0; i < 4; ++i) {
    const auto [after, error] = std::from_chars(at, end, numbers[i]);
    if (error != std::errc() || (i < 3 ? after == end || *after != ',' : after != end))
      return false;
    at = after + 1;
  }
  return true;
}

}  // namespace

std::vector<net::LinkConditions> read_link_file(const std::string& path) {
  std::istringstream lines(base::read_text(path));
  std::vector<net::LinkConditions> trace;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const auto wrong = [&](const std::string& needed) {
      return std::runtime_error("[" + path + " line " + std::to_string(number) + "] saw '" +
                                line.substr(0, 80) + "', needs " + needed);
    };
    if (number == 1 && line != header) throw wrong("'" + std::string(header) + "'");
    if (number == 1 || line.empty()) continue;
    double numbers[4] = {};
    if (!read_row(line, numbers)) throw wrong("four numbers with commas between");
    trace.push_back({numbers[0], numbers[1] * 1e6 / 8, numbers[2] / 1e3, numbers[3] / 1e3});
  }
  if (trace.empty()) throw std::runtime_error("[" + path + "] saw no row, needs one or more");
  return trace;
}

void write_link_file(const std::vector<net::LinkConditions>& trace, const std::string& path) {
  std::string text = std::string(header) + "\n";
  for (const net::LinkConditions& link : trace)
    text += format("%.9g,%.9g,%.9g,%.9g\n", link.from_s, link.bytes_per_s * 8 / 1e6,
                   link.latency_s * 1e3, link.jitter_s * 1e3);
  base::write_whole(path, text);
}

std::string dial_from(const Args& args) {
  if (!args.has("link")) return "";
  const std::string address = args.text("listen");
  return address.substr(0, address.rfind(':'));
}

net::StreamWrap link_of(const Args& args) {
  if (!args.has("link")) return {};
  const std::string path = args.text("link");
  try {
    return net::emulated_link(read_link_file(path), dial_from(args), 1);
  } catch (const std::invalid_argument& wrong) {
    throw std::runtime_error("[" + path + "] " + wrong.what());
  }
}

}  // namespace cleave::tools
