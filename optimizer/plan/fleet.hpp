#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "optimizer/plan/profile.hpp"

namespace cleave::plan {

struct Device {
  std::string name;
  /// "host:port" where its agent listens.
  std::string address;
  /// What a process on it may take, runtime and model: the agent, and the aggregator where it runs.
  /// Bytes.
  double memory_bytes = 0;
  double disk_bytes = 0;  // 0: not limited
  double watts_idle = 0, watts_busy = 0;
  /// From the file named in `profile`, or the hand-written figures; rates are those of speed 1.
  Profile profile;
  /// Share of the profile's speed: 0.2 is a device five times slower. The testbed paces its agent
  /// to it.
  double speed = 1;
  /// Has a part of the model; without one a device can only aggregate.
  bool agent = true;
  /// What an instruction costs beside its kernels: computing too, so a slow device is slow in it.
  double instruction_seconds() const { return profile.cost.instruction_s / speed; }
  double wake_seconds() const { return profile.cost.wake_s / speed; }
  /// Seconds of `cost` on this device: profile.cost / speed.
  double seconds(const std::vector<Kernel>& kernels) const;
};

struct Link {
  double bytes_per_s = 0;
  double latency_s = 0;  // one way
};

/// fleet.toml, format 1: who there is, what each gives, and how they are linked.
///
///   format = 1
///   [links]                       # default for all pairs
///   bandwidth = "100 Mbit/s"
///   latency = "0.3 ms"
///   [[link]]                      # one pair, both directions unless one_way = true
///   from = "hub"
///   to = "cam"
///   bandwidth = "50 Mbit/s"
///   [[device]]
///   name = "hub"
///   address = "127.0.0.1:7101"
///   memory = "260 MB"
///   speed = 0.2                   # default 1
///   profile = "hub.json"          # beside the fleet; or [device.figures] by hand, or preset = "…"
///   aggregator = true             # default: all may aggregate where no device says true
///   agent = false                 # default true; this device can only aggregate
///   watts_idle = 2.5
///   watts_busy = 6.0
///
/// Exactly one of profile, preset and figures says how fast a device computes. Presets (estimates
/// from public figures): "pi4", "pi5", "jetson-nano", "jetson-orin-nano", "n100". Figures by hand,
/// the last three with defaults:
///
///   [device.figures]
///   gflops = 60                   # fp32 matrix products of the whole device, 10^9 flops a second
///   memory_bandwidth = "9 GB/s"
///   overhead = "10 us"            # of starting one kernel
///   message = "100 us"            # of one message, at each end
///   runtime_memory = "175 MB"     # the process before any model
struct Fleet {
  std::vector<Device> devices;
  Link default_link;
  struct Pair {
    std::size_t from = 0, to = 0;
    Link link;
  };
  std::vector<Pair> pairs;
  std::vector<bool> may_aggregate;

  /// The pair's link, else the default one; a device reaches itself in no time.
  const Link& link(std::size_t from, std::size_t to) const;
  std::optional<std::size_t> find(const std::string& name) const;
  /// The fastest of those that may aggregate (seconds for a reference product); ties: the first.
  std::size_t aggregator() const;
};

/// Throws std::runtime_error with file and field: unknown or doubled device, zero memory, no link,
/// no profile …
Fleet read_fleet(const std::filesystem::path& path);
/// The same from a text; `name` stands for the file in messages, profiles are looked for in
/// `folder`.
Fleet fleet_from_toml(const std::string& text, const std::string& name,
                      const std::filesystem::path& folder = {});

}  // namespace cleave::plan
