#include <algorithm>
#include <cstdio>
#include <set>
#include <sys/resource.h>

#include "infer/engine.hpp"
#include "infer/measure.hpp"
#include "infer/server.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/serving.hpp"
#include "tools/log.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// As many files as the system lets this process open, less what agents and the process itself
/// need.
std::size_t most_clients(std::size_t agents) {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return infer::ServerOptions().max_clients;
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 65536);
  setrlimit(RLIMIT_NOFILE, &files);
  getrlimit(RLIMIT_NOFILE, &files);
  const rlim_t kept = 64 + 2 * agents;
  return std::max<std::size_t>(1, files.rlim_cur > kept ? files.rlim_cur - kept : 1);
}

/// Those of --plan, or all of the bundle's whose devices have addresses, the default one first.
std::vector<plan::Plan> plans_of(const Args& args, const plan::Bundle& bundle) {
  std::vector<plan::Plan> plans;
  if (args.has("plan")) {
    for (const std::string& name : args.list("plan")) plans.push_back(bundle.plan(name));
    return plans;
  }
  for (const std::string& name : bundle.manifest().plans()) {
    plan::Plan plan = bundle.plan(name);
    try {
      hosts_of(args, bundle, plan);
    } catch (const std::runtime_error& missing) {
      if (plans.empty()) throw;
      std::fprintf(stderr, "note: plan %s is not served: %s\n", name.c_str(), missing.what());
      continue;
    }
    plans.push_back(std::move(plan));
  }
  return plans;
}

int serve(const Args& args) {
  infer::set_threads(1);
  const base::Log log = stderr_log(args.flag("verbose"));  // its memory is the runtime's
  const double runtime_bytes = infer::measure_runtime_bytes();
  const plan::Bundle bundle(args.at(0));
  const auto plans = plans_of(args, bundle);
  const auto weights = plan::weights_state(bundle, plans.front());
  infer::ServerOptions options;
  options.listen = args.text("listen");
  options.insecure = args.flag("insecure");
  options.log = log;
  std::set<std::string> devices;
  for (const plan::Plan& plan : plans)
    for (const std::string& device : plan::devices_of(plan)) devices.insert(device);
  options.max_clients = most_clients(devices.size());
  options.request_bytes = static_cast<std::uint64_t>(args.bytes("request-memory"));
  const auto patience = args.milliseconds("drain");
  options.drain_patience = drain_patience(patience);
  options.on_listening = [&](const std::string& address) {
    warn_of_weights(weights, args.at(0));
    announce(args.json(), "aggregator", address, runtime_bytes, weights, plans);
  };
  auto aggregator = make_aggregator(args, bundle, plans, options.log);
  if (options.insecure)
    std::fprintf(stderr, "warning: no TLS; anyone who reaches %s can ask\n",
                 options.listen.c_str());
  auto server = from_options([&] { return infer::Server(*aggregator, bundle, options); });
  drain_on_signal([&server] { server.drain(); }, patience);
  aggregator->wait_for_those_in_reach(args.milliseconds("wait"));
  server.run();
  aggregator->drain();
  return exit_done;
}

}  // namespace

Command serve_command() {
  return {"serve",
          "the aggregator as a service",
          {{"BUNDLE", "bundle folder"}},
          {"listen", "fleet", "hosts", "plan", "insecure", "max-queue", "pace", "pace-turns",
           "link", "wait", "drain", "request-memory", "format", "verbose"},
          "cleave serve bundle/ --listen 127.0.0.1:7100",
          serve};
}

}  // namespace cleave::tools
