#include "tools/commands/trace.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "base/file.hpp"
#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/program.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

using net::Happening;

bool is_transfer(const Happening& happening) {
  return happening.what == Happening::What::send || happening.what == Happening::What::receive;
}

std::string lane_of(const std::string& device, const Happening& happening) {
  if (happening.what == Happening::What::send)
    return device + " -> " + happening.peer + ", sending";
  if (happening.what == Happening::What::receive)
    return happening.peer + " -> " + device + ", receiving";
  return device;
}

/// What a device computed in the order of time, a stretch before its instructions; then its links.
void add(const std::string& device, const net::Account& account,
         std::vector<optimizer::Event>& to) {
  std::vector<Happening> happenings = account.happenings;
  std::stable_sort(happenings.begin(), happenings.end(),
                   [](const Happening& a, const Happening& b) {
                     if (is_transfer(a) != is_transfer(b)) return is_transfer(b);
                     if (a.start_s != b.start_s) return a.start_s < b.start_s;
                     return a.what < b.what;
                   });
  for (const Happening& happening : happenings)
    to.push_back(
        {lane_of(device, happening), happening.name, happening.start_s, happening.end_s, false});
}

/// The simulator's, where the fleet and the plan are known.
optimizer::Timeline simulated_timeline(const plan::Fleet& fleet, const Traced& traced) {
  plan::Plan plan = traced.plan;
  plan.shape = traced.shape;
  return optimizer::simulate(plan, plan::compile(plan, plan.shape), fleet);
}

}  // namespace

optimizer::Timeline measured_timeline(const infer::Response& response, const plan::Plan& plan) {
  optimizer::Timeline timeline;
  timeline.latency_s = response.total_s;
  const std::string aggregator =
      plan.aggregator.empty() ? "aggregator" : plan::aggregator_process(plan.aggregator);
  add(aggregator, response.aggregator, timeline.events);
  for (const auto& device : response.devices) add(device.device, device.account, timeline.events);
  return timeline;
}

void check_trace(const Args& args, bool agents) {
  if (args.has("trace") && (args.flag("local") || !agents))
    throw UsageError("[--trace] saw parts in this process, needs agents that tell what they do");
}

void write_trace(const Args& args, const std::vector<Traced>& all) {
  const std::string path = args.text("trace");
  std::vector<optimizer::TraceGroup> groups;
  std::uint64_t left_out = 0;
  for (const Traced& traced : all) {
    groups.push_back(
        {"measured: " + traced.plan.name, measured_timeline(traced.response, traced.plan)});
    if (groups.back().timeline.events.empty())
      throw std::runtime_error("[--trace] no device told what it did for plan " + traced.plan.name +
                               ": " + traced.response.message);
    left_out += traced.response.aggregator.left_out;
    for (const auto& device : traced.response.devices) left_out += device.account.left_out;
    if (!args.has("fleet") || traced.plan.parts.empty()) continue;
    groups.push_back({"simulated: " + traced.plan.name,
                      simulated_timeline(plan::read_fleet(args.text("fleet")), traced)});
  }
  if (!args.has("fleet"))
    std::fprintf(stderr, "note: [--trace] without --fleet nothing is simulated beside it\n");
  if (left_out > 0)
    std::fprintf(stderr, "note: [--trace] %llu events are left out: there was no room for them\n",
                 static_cast<unsigned long long>(left_out));
  base::write_whole(path, optimizer::to_trace(groups));
  if (!args.json()) std::fprintf(stderr, "wrote %s\n", path.c_str());
}

}  // namespace cleave::tools
