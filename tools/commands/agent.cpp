#include "infer/agent.hpp"

#include <algorithm>
#include <cstdio>
#include <set>

#include "base/text.hpp"
#include "base/units.hpp"
#include "infer/engine.hpp"
#include "infer/measure.hpp"
#include "infer/paced.hpp"
#include "tools/commands/commands.hpp"
#include "tools/link_file.hpp"
#include "tools/log.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// The plan of --plan, or all of the bundle's in which the device takes part, the default one
/// first. Throws UsageError where there is none.
std::vector<plan::Plan> plans_of(const Args& args, const plan::Bundle& bundle,
                                 const std::string& device) {
  std::vector<plan::Plan> plans;
  std::set<std::string> known;
  for (const std::string& name : args.has("plan") ? args.list("plan") : bundle.manifest().plans()) {
    plan::Plan plan = bundle.plan(name);
    for (const plan::PlanPart& part : plan.parts) known.insert(part.device);
    if (plan::rank_of(plan, device)) plans.push_back(std::move(plan));
  }
  if (!plans.empty()) return plans;
  throw UsageError("[--device] saw '" + device + "', " +
                   (args.has("plan") ? "plan " + args.text("plan") : "the bundle") +
                   " needs one of " + base::joined(known));
}

/// What the plans expect a process of the device to take: the runtime once, and the models of all.
double expected_bytes(const std::vector<plan::Plan>& plans, const std::string& device) {
  double runtime_bytes = 0, parts_bytes = 0, share_bytes = 0;
  for (const plan::Plan& plan : plans) {
    const auto predicted = plan.prediction.of(device);
    runtime_bytes = std::max(runtime_bytes, predicted.runtime_bytes);
    // Shares lie in one holding, which is as large as the largest of them or larger.
    if (plan::is_shared(plan))
      share_bytes = std::max(share_bytes, predicted.model_bytes);
    else
      parts_bytes += predicted.model_bytes;
  }
  return runtime_bytes + parts_bytes + share_bytes;
}

int agent(const Args& args) {
  const int threads = threads_of(args, 1);
  infer::set_threads(threads);
  const base::Log log = stderr_log(args.flag("verbose"));  // its memory is the runtime's
  const double runtime_bytes = infer::measure_runtime_bytes();
  const plan::Bundle bundle(args.at(0));
  infer::AgentOptions options;
  options.device = args.text("device");
  const auto plans = plans_of(args, bundle, options.device);
  const auto weights = plan::weights_state(bundle, plans.front());
  options.listen = args.text("listen");
  options.insecure = args.flag("insecure");
  options.max_requests = static_cast<int>(args.integer("max-requests"));
  options.memory_bytes =
      args.given("memory")
          ? args.bytes("memory")
          : plans.front().prediction.of(options.device).limit_bytes;  // 0: the plan says none
  options.on_listening = [&](const std::string& address) {
    warn_of_weights(weights, args.at(0));
    announce(args.json(), options.device, address, runtime_bytes, weights, plans);
  };
  options.wrap_stream = link_of(args);
  options.dial_from = dial_from(args);
  const auto patience = args.milliseconds("drain");
  options.drain_patience = drain_patience(patience);
  options.log = log;
  if (options.insecure)
    std::fprintf(stderr, "warning: no TLS; anyone who reaches %s can use this agent\n",
                 options.listen.c_str());

  const double needs = expected_bytes(plans, options.device);
  if (options.memory_bytes > 0 && needs > options.memory_bytes)
    std::fprintf(stderr, "warning: the plan expects %s of this process, --memory gives %s\n",
                 base::format_bytes(needs).c_str(),
                 base::format_bytes(options.memory_bytes).c_str());

  infer::EngineOptions engine_options;
  engine_options.threads = threads;
  auto engine = infer::device_engine(bundle, plans, options.device, engine_options);
  const double share = args.number("pace");
  if (share < 1 && threads > 1)
    throw UsageError("[--pace] saw " + std::to_string(threads) +
                     " threads, needs 1: the time of one thread is paced");
  if (share < 1) engine = infer::paced(std::move(engine), 1 / share, args.text_or("pace-turns"));
  auto agent =
      from_options([&] { return infer::Agent(bundle, plans, std::move(engine), options); });
  drain_on_signal([&agent] { agent.drain(); }, patience);
  agent.run();
  return exit_done;
}

}  // namespace

Command agent_command() {
  return {"agent",
          "serve this device's part of a bundle",
          {{"BUNDLE", "bundle folder (manifest, plans and this device's part)"}},
          {"device", "listen", "plan", "insecure", "memory", "max-requests", "drain", "threads",
           "pace", "pace-turns", "link", "format", "verbose"},
          "cleave-agent bundle/ --device pi4 --listen 127.0.0.1:7101",
          agent};
}

}  // namespace cleave::tools
