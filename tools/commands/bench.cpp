#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <mutex>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/units.hpp"
#include "infer/engine.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tools/commands/bench_kernels.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/output.hpp"
#include "tools/commands/serving.hpp"
#include "tools/commands/side_by_side.hpp"
#include "tools/commands/statistics.hpp"
#include "tools/commands/trace.hpp"
#include "tools/commands/workload.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// What a run of requests showed.
struct Measured {
  std::vector<double> latency_s, overhead_s, fuse_s;
  std::vector<double> prompt_s;  // of texts that are generated; the rest is of their steps
  std::map<std::string, std::vector<double>> compute_s, round_trip_s;
  std::size_t failed = 0, partial = 0;
  double wall_s = 0, bytes_on_wire = 0;
  std::string first_failure;
};

/// Keeps `concurrency` requests in flight until `count` are answered, or the callback stops it.
Measured measure(infer::Service& service, const Workload& workload,
                 std::chrono::milliseconds deadline, std::int64_t count, std::int64_t concurrency,
                 const base::ProgressCallback& progress) {
  Measured measured;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Workload::Stream> streams(static_cast<std::size_t>(concurrency));
  std::vector<Workload::Stream*> resting;
  for (auto& stream : streams) resting.push_back(&stream);
  std::atomic<std::int64_t> done{0};
  const auto started = infer::Clock::now();
  const auto on_done = [&](Workload::Stream* stream, bool counts, infer::Clock::time_point asked,
                           const infer::Response& response) {
    const double latency_s = std::chrono::duration<double>(infer::Clock::now() - asked).count();
    const std::lock_guard lock(mutex);
    resting.push_back(stream);
    if (response.status != infer::Status::answered) {
      if (measured.failed++ == 0) measured.first_failure = response.message;
      stream->past = std::numeric_limits<std::int64_t>::max();  // this text is over
      done += counts ? 0 : 1;                                   // nor will it ask for a step
    } else if (!counts) {
      measured.prompt_s.push_back(latency_s);
    } else {
      measured.latency_s.push_back(latency_s);
      measured.overhead_s.push_back(response.overhead_s);
      measured.fuse_s.push_back(response.fuse_s);
      bool partial = false;
      double bytes = 0;
      for (const auto& device : response.devices) {
        partial = partial || !device.present;
        bytes += static_cast<double>(device.sent_bytes + device.received_bytes);
        if (!device.present) continue;
        measured.compute_s[device.device].push_back(device.compute_s);
        measured.round_trip_s[device.device].push_back(device.round_trip_s);
      }
      measured.partial += partial ? 1 : 0;
      measured.bytes_on_wire = bytes;
    }
    changed.notify_all();
  };
  while (progress({"bench", done, count, ""})) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !resting.empty(); });
    if (done >= count) break;
    Workload::Stream* stream = resting.back();
    resting.pop_back();
    lock.unlock();
    auto [request, counts] = workload.next(*stream, service);
    request.deadline = deadline;
    done += counts ? 1 : 0;
    service.submit(
        std::move(request),
        [&on_done, stream, counts = counts, asked = infer::Clock::now()](
            const infer::Response& response) { on_done(stream, counts, asked, response); });
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return resting.size() == streams.size(); });
  measured.wall_s = std::chrono::duration<double>(infer::Clock::now() - started).count();
  for (auto& stream : streams) workload.end(stream, service);
  return measured;
}

/// A quantity that this target has not (all zero, as a round trip in one process) gets no row.
void add_row(Table& table, const std::string& what, const std::vector<double>& values,
             double predicted_s = 0) {
  if (std::all_of(values.begin(), values.end(), [](double value) { return value == 0; })) return;
  const Spread spread = spread_of(values);
  table.row({what, base::format_seconds(spread.median), base::format_seconds(spread.mad),
             base::format_seconds(spread.p90), base::format_seconds(spread.p99),
             predicted_s > 0 ? base::format_seconds(predicted_s) : "–",
             std::to_string(values.size())});
}

nlohmann::json to_json(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  const Spread spread = spread_of(values);
  return {{"median_s", spread.median},
          {"mad_s", spread.mad},
          {"p90_s", spread.p90},
          {"p99_s", spread.p99},
          {"count", values.size()}};
}

/// What is asked, and what is known of it.
struct Target {
  std::unique_ptr<infer::Service> service;
  plan::Plan plan;                // of a model alone or a server: what it takes, no prediction
  std::vector<plan::Plan> plans;  // all that are asked
  std::string what;
  plan::WeightsState weights = plan::WeightsState::unknown;
  std::string where;  // the folder or server that has them
};

Target find_target(const Args& args) {
  const bool via = args.has("via");
  if (!via && args.positionals().empty())
    throw UsageError("[bench] needs a BUNDLE, a MODEL or --via HOST:PORT");
  Target target;
  target.what = via ? args.text("via") : args.at(0);
  const std::filesystem::path folder = via ? "" : target.what;
  if (!via && args.has("without") && !plan::is_bundle(folder))
    throw UsageError("[--without] saw " + target.what + ", a model folder; needs a bundle");
  check_trace(args, via || plan::is_bundle(folder));
  const Source source = source_of(args, folder, true);
  target.plan = source.plan;
  target.plans = source.plans;
  target.weights = source.weights;
  target.where = source.where;
  target.service = source.open();
  return target;
}

void print_text(const Measured& measured, const Table& table, const Workload& workload,
                std::int64_t concurrency, double rate) {
  std::printf("%s\nbatch %lld, %lld in flight: %.1f %s/s", table.text().c_str(),
              static_cast<long long>(workload.shape().batch), static_cast<long long>(concurrency),
              rate, workload.unit());
  if (measured.bytes_on_wire > 0)
    std::printf(", %s on the wire a request", base::format_bytes(measured.bytes_on_wire).c_str());
  std::printf("\n");
  if (measured.partial > 0) std::printf("%zu answers are without some device\n", measured.partial);
  if (measured.failed > 0)
    std::printf("%zu requests failed: %s\n", measured.failed, measured.first_failure.c_str());
}

void print_json(const Measured& measured, const Target& target, const Workload& workload,
                std::int64_t concurrency, double rate) {
  const plan::RequestShape& shape = workload.shape();
  nlohmann::json json{{"what", target.what},
                      {"weights", plan::name_of(target.weights)},
                      {"batch", shape.batch},
                      {"tokens", shape.tokens},
                      {"generate", shape.generate},
                      {"concurrency", concurrency},
                      {"latency", to_json(measured.latency_s)},
                      {"aggregator_overhead", to_json(measured.overhead_s)},
                      {"fuse", to_json(measured.fuse_s)},
                      {"predicted_fuse_s", predicted_fuse_s(target.plan)},
                      {"prompt", to_json(measured.prompt_s)},
                      {std::string(workload.unit()) + "_per_s", rate},
                      {"bytes_on_wire", measured.bytes_on_wire},
                      {"predicted_latency_s", target.plan.prediction.latency_s},
                      {"failed", measured.failed},
                      {"partial", measured.partial},
                      {"devices", nlohmann::json::object()}};
  for (const auto& [device, values] : measured.compute_s)
    json["devices"][device] = {{"compute", to_json(values)},
                               {"predicted_compute_s", target.plan.prediction.of(device).compute_s},
                               {"round_trip", to_json(measured.round_trip_s.at(device))}};
  std::printf("%s\n", json.dump(2, ' ', false, replace_invalid).c_str());
}

/// One more request of each plan, which is traced.
void trace(const Args& args, const Target& target, const Workload& workload) {
  std::vector<Traced> all;
  for (const plan::Plan& plan : target.plans) {
    Side side;
    side.plan = plan;
    side.service = target.service.get();
    auto response = ask_once(side, workload, args.milliseconds("deadline"), net::Observe::trace);
    workload.end(side.stream, *side.service);
    all.push_back({std::move(response), plan, workload.shape()});
  }
  write_trace(args, all);
}

/// Several plans, asked in turn.
int bench_side_by_side(const Args& args, const Target& target, const Workload& workload) {
  if (args.integer("concurrency") > 1)
    throw UsageError("[--concurrency] saw " + args.text("concurrency") + " and " +
                     std::to_string(target.plans.size()) +
                     " plans, which are asked in turn: needs 1");
  std::vector<Side> sides;
  for (const plan::Plan& plan : target.plans) {
    Side side;
    side.what = plan.name;
    side.plan = plan;
    side.service = target.service.get();
    // Through a server only the plans' names are known.
    side.is_predicted =
        !args.flag("local") && !plan.parts.empty() && workload.shape() == plan.shape;
    sides.push_back(std::move(side));
  }
  {
    ProgressBar bar;
    ask_in_turn(sides, workload, args.milliseconds("deadline"), args.integer("warmup"),
                args.integer("requests"), bar.callback());
  }
  write_csv(args, numbers_table(sides));
  if (args.has("trace") && !stop_wanted()) trace(args, target, workload);
  if (!sides.front().latency_s.empty()) warn_of_weights(target.weights, target.where);
  bool failed = stop_wanted();
  if (args.json()) {
    auto json = to_json(sides);
    json["what"] = target.what;
    json["batch"] = workload.shape().batch;
    json["tokens"] = workload.shape().tokens;
    json["generate"] = workload.shape().generate;
    std::printf("%s\n", json.dump(2, ' ', false, replace_invalid).c_str());
  } else {
    const std::string devices = devices_table(sides).text();
    std::printf("%s\n%s", sides_table(sides).text().c_str(), devices.c_str());
  }
  for (const Side& side : sides) {
    failed = failed || side.failed > 0;
    if (side.failed > 0 && !args.json())
      std::printf("%s: %zu requests failed: %s\n", side.what.c_str(), side.failed,
                  side.last_failure.c_str());
    if (side.partial > 0 && !args.json())
      std::printf("%s: %zu answers are without some device\n", side.what.c_str(), side.partial);
  }
  return failed ? exit_failed : exit_done;
}

int bench(const Args& args) {
  if (args.flag("kernels")) {
    expect_output(args, "csv", OutputKind::table);
    return bench_kernels(args);
  }
  infer::set_threads(1);
  expect_output(args, "csv", OutputKind::table);
  expect_output(args, "trace", OutputKind::trace);
  const auto concurrency = args.integer("concurrency");
  check_way(args);
  const Target target = find_target(args);
  const Workload workload = from_options([&] {
    const auto& config = target.plan.teacher;
    return Workload(config, shape_of(args, target.plan.shape, config),
                    static_cast<std::uint64_t>(args.integer("seed")));
  });
  catch_signals();
  if (target.plans.size() > 1) return bench_side_by_side(args, target, workload);
  const auto deadline = args.milliseconds("deadline");
  const Measured measured = [&] {
    ProgressBar bar;
    const auto progress = bar.callback();
    const auto run = [&](const char* count) {
      return measure(*target.service, workload, deadline, args.integer(count), concurrency,
                     progress);
    };
    run("warmup");
    return run("requests");
  }();

  // The plan's figures are of its fleet and its batch; others are compared with nothing.
  const plan::Prediction& predicted = target.plan.prediction;
  const bool on_fleet = !args.flag("local") && workload.shape() == target.plan.shape;
  Table table({"what", "median", "MAD", "p90", "p99", "predicted", "requests"});
  add_row(table, workload.generates() ? "a token" : "latency", measured.latency_s,
          on_fleet ? predicted.latency_s : 0);
  add_row(table, "prompt", measured.prompt_s);
  for (const auto& [device, values] : measured.compute_s) {
    add_row(table, "compute " + device, values, on_fleet ? predicted.of(device).compute_s : 0);
    add_row(table, "round trip " + device, measured.round_trip_s.at(device));
  }
  add_row(table, "fuse", measured.fuse_s, on_fleet ? predicted_fuse_s(target.plan) : 0);
  add_row(table, "aggregator overhead", measured.overhead_s);
  write_csv(args, table);
  if (args.has("trace") && !stop_wanted()) trace(args, target, workload);
  if (!measured.latency_s.empty()) warn_of_weights(target.weights, target.where);

  const double rate = static_cast<double>(workload.shape().batch) *
                      static_cast<double>(measured.latency_s.size()) / measured.wall_s;
  if (args.json())
    print_json(measured, target, workload, concurrency, rate);
  else
    print_text(measured, table, workload, concurrency, rate);
  if (stop_wanted())
    std::fprintf(stderr, "stopped after %zu requests\n",
                 measured.latency_s.size() + measured.failed);
  return measured.failed == 0 && !stop_wanted() ? exit_done : exit_failed;
}

}  // namespace

Command bench_command() {
  return {"bench",
          "latency and throughput with their spread; several plans are asked in turn",
          {{"BUNDLE", "bundle folder, or a model folder (the original, in this process)", false}},
          {"via",          "local",       "fleet",   "hosts",  "plan",     "requests",
           "warmup",       "concurrency", "batch",   "tokens", "generate", "deadline",
           "join-timeout", "max-queue",   "without", "seed",   "csv",      "trace",
           "dry-run",      "format",      "verbose", "kernels"},
          "cleave bench bundle/ --requests 500 --concurrency 8",
          bench};
}

}  // namespace cleave::tools
