#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "tools/commands/commands.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

int status(const Args& args) {
  check_address(args.at(0), "HOST:PORT");
  infer::Client client(args.at(0));
  const auto told = client.status();
  bool all = true;
  Table table({"device", "address", "state", "weights", "memory", "round trip", "queue", "answered",
               "last error"});
  nlohmann::json agents = nlohmann::json::array(), plans = nlohmann::json::array();
  for (const auto& agent : told.agents) {
    all = all && agent.state() == "joined";
    table.row({agent.device, agent.address, agent.state(),
               base::format_bytes(agent.held_bytes) + " " + agent.weight_format,
               agent.memory_bytes > 0 ? base::format_bytes(agent.memory_bytes) : "–",
               agent.round_trip_s > 0 ? base::format_seconds(agent.round_trip_s) : "–",
               std::to_string(agent.queued), std::to_string(agent.answered), agent.last_error});
    agents.push_back({{"device", agent.device},
                      {"address", agent.address},
                      {"connected", agent.connected},
                      {"state", agent.state()},
                      {"held_bytes", agent.held_bytes},
                      {"weight_format", agent.weight_format},
                      {"memory_bytes", agent.memory_bytes},
                      {"round_trip_s", agent.round_trip_s},
                      {"queued", agent.queued},
                      {"answered", agent.answered},
                      {"last_error", agent.last_error}});
  }
  Table served({"plan", "strategy", "weights", "devices"});
  for (const auto& plan : told.plans) {
    served.row({plan.name + (plans.empty() && told.plans.size() > 1 ? " (default)" : ""),
                plan.strategy, plan.weights, plan.devices});
    plans.push_back({{"name", plan.name},
                     {"strategy", plan.strategy},
                     {"weights", plan.weights},
                     {"devices", plan.devices}});
  }
  const nlohmann::json json = {{"agents", agents}, {"plans", plans}};
  std::printf("%s", args.json() ? (json.dump(2, ' ', false, replace_invalid) + "\n").c_str()
                                : (table.text() + "\n" + served.text()).c_str());
  return all ? exit_done : exit_negative;
}

}  // namespace

Command status_command() {
  return {
      "status",
      "list agents and plans of a running `cleave serve`; exit 3 where one is missing or ejected",
      {{"HOST:PORT", "where it serves"}},
      {"format", "verbose"},
      "cleave status 127.0.0.1:7100",
      status};
}

}  // namespace cleave::tools
