#pragma once

#include "tools/options.hpp"

namespace cleave::tools {

/// `cleave bench --kernels`: each kernel at the shapes of common models, beside this machine's
/// limit in the same round. Returns the exit code.
int bench_kernels(const Args& args);

}  // namespace cleave::tools
