#include "optimizer/simulate.hpp"

#include <cstdio>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/units.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/output.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

plan::Plan plan_of(const std::string& path) {
  return std::filesystem::is_directory(path) ? plan::Bundle(path).plan() : plan::read_plan(path);
}

int simulate(const Args& args) {
  expect_output(args, "trace", OutputKind::trace);
  auto plan = plan_of(args.at(0));
  if (args.given("batch")) plan.shape.batch = args.integer("batch");
  const auto fleet = plan::read_fleet(args.text("fleet"));
  const auto programs = plan::compile(plan, plan.shape);
  const auto timeline = optimizer::simulate(plan, programs, fleet);
  if (args.has("trace") && !args.flag("dry-run"))
    base::write_whole(args.text("trace"), optimizer::to_trace(timeline));
  if (args.json()) {
    nlohmann::json json{{"latency_s", timeline.latency_s},
                        {"bottleneck", timeline.bottleneck},
                        {"events", nlohmann::json::array()}};
    for (const auto& event : timeline.events)
      json["events"].push_back({{"lane", event.lane},
                                {"what", event.what},
                                {"start_s", event.start_s},
                                {"end_s", event.end_s},
                                {"critical", event.critical}});
    std::printf("%s\n", json.dump(2).c_str());
    return exit_done;
  }
  std::printf("%s\nlatency %s, bottleneck %s\n",
              optimizer::to_gantt(timeline, static_cast<int>(args.integer("columns"))).c_str(),
              base::format_seconds(timeline.latency_s).c_str(), timeline.bottleneck.c_str());
  if (args.flag("verbose"))
    for (const auto& program : programs) std::printf("\n%s", plan::to_text(program).c_str());
  if (args.has("trace"))
    std::printf("%s %s\n", args.flag("dry-run") ? "would write" : "wrote",
                args.text("trace").c_str());
  return exit_done;
}

}  // namespace

Command simulate_command() {
  return {"simulate",
          "play a plan on a fleet: timeline, bottleneck, trace",
          {{"PLAN", "plan.json or bundle"}},
          {"fleet", "batch", "trace", "columns", "dry-run", "format", "verbose"},
          "cleave simulate plan.json --fleet fleet.toml --trace trace.json",
          simulate};
}

}  // namespace cleave::tools
