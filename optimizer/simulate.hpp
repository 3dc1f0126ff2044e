#pragma once

#include <string>
#include <vector>

#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::optimizer {

/// One bar of the timeline.
struct Event {
  std::string lane;  // "hub", "cam -> hub", "aggregator@hub"
  std::string what;  // "layers 0-5", "send f_1"
  double start_s = 0, end_s = 0;
  bool critical = false;
};

struct Timeline {
  double latency_s = 0;
  std::vector<Event> events;
  /// The lane that the critical path spends most time on, in words.
  std::string bottleneck;
};

/// Plays the programs on the fleet: a Boost.Graph task graph (compute on a device, transfer on a
/// link, dependencies), list scheduling in order of readiness; a device computes one thing at a
/// time, a link direction carries one message at a time. Parts run on the devices named by the
/// plan, rank P on plan.aggregator (its own process, sharing that device's compute).
Timeline simulate(const plan::Plan& plan, const std::vector<plan::Program>& programs,
                  const plan::Fleet& fleet);

/// A timeline that a trace shows as a process of its own.
struct TraceGroup {
  std::string name;  // "measured: default"
  Timeline timeline;
};

/// Chrome/Perfetto trace JSON of several timelines above each other; of one; and a text Gantt of
/// `columns` characters.
std::string to_trace(const std::vector<TraceGroup>& groups);
std::string to_trace(const Timeline& timeline);
std::string to_gantt(const Timeline& timeline, int columns = 100);

}  // namespace cleave::optimizer
