#pragma once

#include <string>
#include <vector>

#include "infer/service.hpp"
#include "optimizer/plan/plan.hpp"
#include "optimizer/simulate.hpp"
#include "tools/options.hpp"

namespace cleave::tools {

/// What every device did for a request that was traced, on one clock, from when it was submitted:
/// the lane of a device has what it computed, stretches with their instructions, and when nothing
/// was ready; two lanes for each way of a link have when its sender wrote values and its receiver
/// read them.
optimizer::Timeline measured_timeline(const infer::Response& response, const plan::Plan& plan);

/// A request that was traced, and the plan that it was asked of.
struct Traced {
  infer::Response response;
  plan::Plan plan;           // of a server whose bundle is not known, only its name
  plan::RequestShape shape;  // of the request
};

/// Throws UsageError where nobody would tell: the parts are in this process.
void check_trace(const Args& args, bool agents);
/// Writes --trace: the measured timeline of each and, with --fleet, the simulator's of the same
/// plan below it. Throws std::runtime_error where no device told anything.
void write_trace(const Args& args, const std::vector<Traced>& traced);

}  // namespace cleave::tools
