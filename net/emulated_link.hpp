#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "net/stream_wrap.hpp"

namespace cleave::net {

/// What a device's link is like from a moment on, in both directions.
struct LinkConditions {
  double from_s = 0;       // since the link was made
  double bytes_per_s = 0;  // 0: as fast as the machine is
  double latency_s = 0;    // one way
  double jitter_s = 0;     // of each piece, evenly within latency_s ± jitter_s; order stays
};

/// The streams of one process as they would be behind a network interface of these conditions: what
/// they write leaves at the interface's rate, all streams together, and arrives its latency later;
/// what they read comes in at that rate. Two devices whose links differ are as fast as the slower
/// one. No packets are lost, and TCP's own timing is the machine's.
///
/// What goes to `own_host` stays on the device and is as it is. `trace` is in the order of time and
/// begins at 0; the last of it stays. Streams are used on one I/O thread. Throws
/// std::invalid_argument.
StreamWrap emulated_link(std::vector<LinkConditions> trace, std::string own_host,
                         std::uint64_t seed);

}  // namespace cleave::net
