#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace cleave::base {

/// How far a long piece of work is. `what` is a short phrase ("calibrate epoch 3"), `note` the
/// figures of the moment. A `total` of 0: nothing is counted, `note` is a remark on the work.
struct Progress {
  std::string what;
  std::int64_t done = 0;
  std::int64_t total = 0;
  std::string note;
};

/// Called from the thread that works, not more often than ten times a second; returning false asks
/// the work to stop at its next safe point (a checkpoint).
using ProgressCallback = std::function<bool(const Progress&)>;

}  // namespace cleave::base
