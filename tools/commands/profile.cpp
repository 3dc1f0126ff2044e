#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "infer/engine.hpp"
#include "infer/measure.hpp"
#include "optimizer/predict.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/config.hpp"
#include "tools/commands/output.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

int profile(const Args& args) {
  expect_output(args, "out", OutputKind::profile);
  infer::MeasureOptions options;
  options.threads = threads_of(args, 1);
  options.max_time_s = args.seconds("max-time");
  if (args.has("like")) options.like = config_of(args, "like");
  infer::set_threads(options.threads);
  plan::Profile profile;
  {
    ProgressBar bar;
    profile = infer::measure(options, bar.callback());
  }
  const auto fitted = optimizer::fit(profile.samples);
  const auto measured = profile.cost;  // message and instruction costs are measured, not fitted
  profile.cost = fitted.cost;
  profile.cost.instruction_s = measured.instruction_s;
  profile.cost.wake_s = measured.wake_s;
  profile.cost.message_s = measured.message_s;
  profile.cost.message_s_per_byte = measured.message_s_per_byte;
  profile.median_error = fitted.median_error;
  profile.p90_error = fitted.p90_error;
  if (args.has("out") && !args.flag("dry-run")) plan::write_profile(profile, args.text("out"));

  if (args.json()) {
    std::printf("%s\n", plan::to_json(profile).dump(2).c_str());
    return exit_done;
  }
  std::printf("%s\n\n", profile.machine.c_str());
  Table table({"kernel", "overhead", "rate", "bandwidth"});
  for (int kind = 0; kind < plan::num_kernel_kinds; ++kind) {
    const auto& cost = profile.cost.kernels[static_cast<std::size_t>(kind)];
    table.row({std::string(plan::name_of(static_cast<plan::KernelKind>(kind))),
               base::format_seconds(cost.overhead_s),
               cost.flops_per_s > 0 ? format("%.1f GFLOP/s", cost.flops_per_s / 1e9) : "–",
               cost.bytes_per_s > 0 ? format("%.1f GB/s", cost.bytes_per_s / 1e9) : "–"});
  }
  std::printf("%s\n%zu samples; error on held-out shapes: median %s, p90 %s; runtime memory %s\n",
              table.text().c_str(), profile.samples.size(),
              percent(profile.median_error, 1).c_str(), percent(profile.p90_error, 1).c_str(),
              base::format_bytes(profile.runtime_bytes).c_str());
  if (args.has("out"))
    std::printf("%s %s\n", args.flag("dry-run") ? "would write" : "wrote",
                args.text("out").c_str());
  return exit_done;
}

}  // namespace

Command profile_command() {
  return {"profile",
          "measure what this machine can do",
          {},
          {"out", "like", "threads", "max-time", "dry-run", "format", "verbose"},
          "cleave profile --like teacher/ --out pi4.json",
          profile};
}

}  // namespace cleave::tools
