#include <algorithm>
#include <cstdio>
#include <sys/resource.h>

#include "infer/engine.hpp"
#include "infer/measure.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/serving.hpp"
#include "tools/log.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// As many files as the system lets this process open, less what agents and the process itself
/// need.
std::size_t most_clients(const plan::Plan& plan) {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return infer::ServerOptions().max_clients;
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 65536);
  setrlimit(RLIMIT_NOFILE, &files);
  getrlimit(RLIMIT_NOFILE, &files);
  const rlim_t kept = 64 + 2 * plan.parts.size();
  return std::max<std::size_t>(1, files.rlim_cur > kept ? files.rlim_cur - kept : 1);
}

int serve(const Args& args) {
  infer::set_threads(1);
  const base::Log log = stderr_log(args.flag("verbose"));  // its memory is the runtime's
  const double runtime_bytes = infer::measure_runtime_bytes();
  const plan::Bundle bundle(args.at(0));
  const auto plan = bundle.plan(args.text_or("plan"));
  const auto weights = plan::weights_state(bundle, plan);
  infer::ServerOptions options;
  options.listen = args.text("listen");
  options.insecure = args.flag("insecure");
  options.log = log;
  options.max_clients = most_clients(plan);
  options.request_bytes = static_cast<std::uint64_t>(args.bytes("request-memory"));
  const auto patience = args.milliseconds("drain");
  options.drain_patience = drain_patience(patience);
  options.on_listening = [&](const std::string& address) {
    warn_of_weights(weights, args.at(0));
    announce(args.json(), "aggregator", address, runtime_bytes, weights);
  };
  auto aggregator = make_aggregator(args, bundle, plan, options.log);
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
           "wait", "drain", "request-memory", "format", "verbose"},
          "cleave serve bundle/ --listen 127.0.0.1:7100",
          serve};
}

}  // namespace cleave::tools
