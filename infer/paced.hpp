#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "infer/slots.hpp"

namespace cleave::infer {

/// Stretches what is computed between two values that leave to thread CPU time · factor, so that a
/// fast core is honest about being slow. What is owed is slept off in settle(), and by itself where
/// it is more than `most_owed`: seldom, because a core that slept goes on with cold caches, which
/// the factor would stretch too (pauses after each 200 us made a request of 37 instructions
/// take 1.8 times as long, after each 20 ms a large one 1.1 times). The inner engine computes on
/// the calling thread alone. Processes that name the same file in `turns` compute one at a time,
/// from one settle() to the next: emulated devices do not share caches and memory bandwidth, and
/// what one waits for its turn is a part of its stretched time. Throws std::invalid_argument where
/// `factor` is below 1, std::system_error where the file cannot be opened.
std::unique_ptr<Engine> paced(std::unique_ptr<Engine> engine, double factor,
                              const std::string& turns = {},
                              std::chrono::milliseconds most_owed = std::chrono::seconds(2));
/// Adds a fixed delay to each run: a slow phone, in a test or in `cleave bench`.
std::unique_ptr<Engine> with_delay(std::unique_ptr<Engine> engine, std::chrono::microseconds delay);

}  // namespace cleave::infer
