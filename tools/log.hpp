#pragma once

#include "base/log.hpp"

namespace cleave::tools {

/// Lines on standard error, each with its time and without control characters: notices, and with
/// `verbose` details. A thread of its own writes them. Where nobody reads standard error (a full
/// pipe), lines are left out, and how many is said once somebody reads again. Any thread.
base::Log stderr_log(bool verbose);

}  // namespace cleave::tools
