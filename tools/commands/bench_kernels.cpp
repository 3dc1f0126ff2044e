#include "tools/commands/bench_kernels.hpp"

#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "infer/kernels/measure.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/output.hpp"
#include "tools/commands/statistics.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

constexpr std::int64_t usual_rounds = 5;

std::string rate_of(double work, double seconds, const char* unit) {
  return work > 0 ? format("%.1f %s", work / seconds / 1e9, unit) : "–";
}

Table table_of(const kernels::KernelReport& report) {
  Table table({"kernel", "shape", "format", "median", "MAD", "computes", "reads", "of the limit",
               "lowest round", "highest"});
  for (const auto& kernel : report.kernels) {
    const Spread seconds = spread_of(kernel.seconds), share = spread_of(kernel.shares);
    table.row({kernel.kernel, kernel.shape, kernels::name_of(kernel.format),
               base::format_seconds(seconds.median), base::format_seconds(seconds.mad),
               rate_of(kernel.flops, seconds.median, "GFLOP/s"),
               rate_of(kernel.bytes, seconds.median, "GB/s"), percent(share.median, 0),
               percent(share.minimum, 0), percent(share.maximum, 0)});
  }
  return table;
}

nlohmann::json to_json(const kernels::KernelReport& report) {
  nlohmann::json json{{"target", kernels::name_of(report.target)},
                      {"limits",
                       {{"f32_flops_per_s", report.limits.f32_flops_s},
                        {"bf16_flops_per_s", report.limits.bf16_flops_s},
                        {"int8_flops_per_s", report.limits.int8_flops_s},
                        {"read_bytes_per_s", report.limits.read_bytes_s}}},
                      {"kernels", nlohmann::json::array()}};
  for (const auto& kernel : report.kernels) {
    const Spread seconds = spread_of(kernel.seconds), share = spread_of(kernel.shares);
    json["kernels"].push_back({{"kernel", kernel.kernel},
                               {"shape", kernel.shape},
                               {"format", kernels::name_of(kernel.format)},
                               {"median_s", seconds.median},
                               {"mad_s", seconds.mad},
                               {"rounds", kernel.seconds.size()},
                               {"flops", kernel.flops},
                               {"bytes", kernel.bytes},
                               {"share_of_limit", share.median},
                               {"lowest_share", share.minimum},
                               {"highest_share", share.maximum}});
  }
  return json;
}

}  // namespace

int bench_kernels(const Args& args) {
  if (!args.positionals().empty() || args.has("via"))
    throw UsageError("[--kernels] saw a bundle or model too, needs none: it measures this machine");
  const kernels::Table& table =
      from_options([]() -> const kernels::Table& { return kernels::chosen_table(); });
  catch_signals();
  const auto rounds = args.given("requests") ? args.integer("requests") : usual_rounds;
  const kernels::KernelReport report = [&] {
    ProgressBar bar;
    const auto show = bar.callback();
    return kernels::measure_kernels(table, static_cast<int>(rounds),
                                    [&](std::int64_t done, std::int64_t all) {
                                      return show({"kernels", done, all, ""});
                                    });
  }();
  const Table shown = table_of(report);
  write_csv(args, shown);
  if (args.json())
    std::printf("%s\n", to_json(report).dump(2).c_str());
  else
    std::printf(
        "%s, one thread. This machine's limits: %.1f GFLOP/s in f32, %.1f in bf16, %.1f in int8; "
        "reads %.1f GB/s\n\n%s",
        std::string(kernels::name_of(report.target)).c_str(), report.limits.f32_flops_s / 1e9,
        report.limits.bf16_flops_s / 1e9, report.limits.int8_flops_s / 1e9,
        report.limits.read_bytes_s / 1e9, shown.text().c_str());
  return stop_wanted() ? exit_failed : exit_done;
}

}  // namespace cleave::tools
