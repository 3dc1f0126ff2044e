#pragma once

#include <cstdint>

namespace cleave::calibrate {

/// A whole number that torchrun or the user sets. Throws std::invalid_argument "[environment] RANK:
/// saw 'x', needs 0 … 1" where `variable` is not set, no number or not in [least, most].
std::int64_t environment_number(const char* variable, std::int64_t least, std::int64_t most);

}  // namespace cleave::calibrate
