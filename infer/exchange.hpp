#pragma once

namespace cleave::infer {

/// Seconds from one thread's notice to another thread's waking up, both asleep before: what an
/// instruction costs beside its computing. Median.
double hand_over_seconds();

/// What a message costs at each of its two ends when the wire costs nothing: seconds + bytes ·
/// seconds_per_byte.
struct MessageCost {
  double seconds = 0;
  double seconds_per_byte = 0;
};
/// Measured by round trips over TCP on loopback, each after a pause as between requests. Throws
/// std::system_error when there is no loopback.
MessageCost message_cost();

}  // namespace cleave::infer
