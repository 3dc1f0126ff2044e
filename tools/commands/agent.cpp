#include "infer/agent.hpp"

#include <algorithm>
#include <cstdio>

#include "base/units.hpp"
#include "infer/engine.hpp"
#include "infer/measure.hpp"
#include "infer/paced.hpp"
#include "tools/commands/commands.hpp"
#include "tools/log.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// Throws UsageError where the plan has no part for the device.
void check_device(const plan::Plan& plan, const std::string& device) {
  std::string known;
  for (const auto& part : plan.parts) {
    if (part.device == device) return;
    known += (known.empty() ? "" : ", ") + part.device;
  }
  throw UsageError("[--device] saw '" + device + "', plan " + plan.name + " needs one of " + known);
}

int agent(const Args& args) {
  const int threads = threads_of(args, 1);
  infer::set_threads(threads);
  const base::Log log = stderr_log(args.flag("verbose"));  // its memory is the runtime's
  const double runtime_bytes = infer::measure_runtime_bytes();
  const plan::Bundle bundle(args.at(0));
  const auto plan = bundle.plan(args.text_or("plan"));
  const auto weights = plan::weights_state(bundle, plan);
  infer::AgentOptions options;
  options.device = args.text("device");
  check_device(plan, options.device);
  options.listen = args.text("listen");
  options.insecure = args.flag("insecure");
  options.max_requests = static_cast<int>(args.integer("max-requests"));
  const auto predicted = plan.prediction.of(options.device);
  options.memory_bytes =
      args.given("memory") ? args.bytes("memory") : predicted.limit_bytes;  // 0: the plan says none
  options.on_listening = [&](const std::string& address) {
    warn_of_weights(weights, args.at(0));
    announce(args.json(), options.device, address, runtime_bytes, weights);
  };
  const auto patience = args.milliseconds("drain");
  options.drain_patience = drain_patience(patience);
  options.log = log;
  if (options.insecure)
    std::fprintf(stderr, "warning: no TLS; anyone who reaches %s can use this agent\n",
                 options.listen.c_str());

  const double needs = predicted.runtime_bytes + predicted.model_bytes;
  if (options.memory_bytes > 0 && needs > options.memory_bytes)
    std::fprintf(stderr, "warning: the plan expects %s of this process, --memory gives %s\n",
                 base::format_bytes(needs).c_str(),
                 base::format_bytes(options.memory_bytes).c_str());

  infer::EngineOptions engine_options;
  engine_options.threads = threads;
  auto engine = infer::part_engine(bundle, plan, options.device, engine_options);
  const double share = args.number("pace");
  if (share < 1 && threads > 1)
    throw UsageError("[--pace] saw " + std::to_string(threads) +
                     " threads, needs 1: the time of one thread is paced");
  if (share < 1) engine = infer::paced(std::move(engine), 1 / share, args.text_or("pace-turns"));
  auto agent = from_options([&] { return infer::Agent(bundle, plan, std::move(engine), options); });
  drain_on_signal([&agent] { agent.drain(); }, patience);
  agent.run();
  return exit_done;
}

}  // namespace

Command agent_command() {
  return {"agent",
          "serve one part of a bundle on this device",
          {{"BUNDLE", "bundle folder (manifest, plans and this device's part)"}},
          {"device", "listen", "plan", "insecure", "memory", "max-requests", "drain", "threads",
           "pace", "pace-turns", "format", "verbose"},
          "cleave-agent bundle/ --device pi4 --listen 127.0.0.1:7101",
          agent};
}

}  // namespace cleave::tools
