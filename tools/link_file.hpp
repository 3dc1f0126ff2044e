#pragma once

#include <string>
#include <vector>

#include "net/emulated_link.hpp"
#include "tools/options.hpp"

namespace cleave::tools {

/// A link's conditions in a file, by hand or recorded: a row for each change, seconds since the
/// start, in commas.
///
///   seconds,mbit_s,latency_ms,jitter_ms
///   0,100,0.5,0
///   30,20,4,1
///
/// A rate of 0 is not limited. Throws std::runtime_error with file and line.
std::vector<net::LinkConditions> read_link_file(const std::string& path);
void write_link_file(const std::vector<net::LinkConditions>& trace, const std::string& path);

/// The link of --link over the streams of a process that listens at --listen; nothing where none is
/// given.
net::StreamWrap link_of(const Args& args);
/// Where such a process dials from, so that others know whose streams they are.
std::string dial_from(const Args& args);

}  // namespace cleave::tools
