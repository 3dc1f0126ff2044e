#pragma once

#include <functional>
#include <string>

namespace cleave::base {

/// Whom a line is for: whoever runs the system (joined, lost, refused, draining), or whoever looks
/// for a fault (`--verbose`).
enum class LogLevel { notice, detail };

/// Takes one line, without its end. Called on I/O threads: it does not block.
using Log = std::function<void(LogLevel, const std::string&)>;

}  // namespace cleave::base
