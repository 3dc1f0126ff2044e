#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <mutex>

#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/units.hpp"
#include "infer/engine.hpp"
#include "model/config/hugging_face.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/serving.hpp"
#include "tools/commands/statistics.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

/// What a run of requests showed.
struct Measured {
  std::vector<double> latency_s, overhead_s, fuse_s;
  std::map<std::string, std::vector<double>> compute_s, round_trip_s;
  std::size_t failed = 0, partial = 0;
  double wall_s = 0, bytes_on_wire = 0;
  std::string first_failure;
};

/// Keeps `concurrency` requests in flight until `count` are answered, or the callback stops it.
Measured measure(infer::Service& service, const infer::Request& request, std::int64_t count,
                 std::int64_t concurrency, const base::ProgressCallback& progress) {
  Measured measured;
  std::mutex mutex;
  std::condition_variable changed;
  std::int64_t in_flight = 0, done = 0;
  const auto started = infer::Clock::now();
  const auto on_done = [&](infer::Clock::time_point asked, const infer::Response& response) {
    const double latency_s = std::chrono::duration<double>(infer::Clock::now() - asked).count();
    const std::lock_guard lock(mutex);
    --in_flight;
    ++done;
    if (response.status != infer::Status::answered) {
      if (measured.failed++ == 0) measured.first_failure = response.message;
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
  for (std::int64_t i = 0; i < count && progress({"bench", i, count, ""}); ++i) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return in_flight < concurrency; });
    ++in_flight;
    lock.unlock();
    service.submit(request, [&on_done, asked = infer::Clock::now()](
                                const infer::Response& response) { on_done(asked, response); });
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return in_flight == 0; });
  measured.wall_s = std::chrono::duration<double>(infer::Clock::now() - started).count();
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
  model::ModelConfig config;
  plan::Plan plan;  // empty where only a model or a server is known
  std::string what;
};

Target find_target(const Args& args) {
  Target target;
  if (args.has("via")) {
    target.what = args.text("via");
    auto client = std::make_unique<infer::Client>(target.what);
    target.config =
        model::config_from_json(base::Reader::json_text(client->model_json(), target.what));
    target.service = std::move(client);
    return target;
  }
  if (args.positionals().empty())
    throw UsageError("[bench] needs a BUNDLE, a MODEL or --via HOST:PORT");
  target.what = args.at(0);
  if (!std::filesystem::exists(std::filesystem::path(target.what) / "manifest.json")) {
    if (args.has("without"))
      throw UsageError("[--without] saw " + target.what + ", a model folder; needs a bundle");
    target.config = model::read_config(target.what);
    target.service = make_original(target.what);
    return target;
  }
  const plan::Bundle bundle(target.what);
  target.plan = bundle.plan(args.text_or("plan"));
  target.config = target.plan.teacher;
  if (args.flag("local")) {
    target.service = make_local(args, bundle, target.plan);
  } else {
    auto aggregator = make_aggregator(args, bundle, target.plan);
    join_agents(args, *aggregator);
    target.service = std::move(aggregator);
  }
  return target;
}

void print_text(const Measured& measured, const Table& table, std::int64_t batch,
                std::int64_t concurrency, double images_per_s) {
  std::printf("%s\nbatch %lld, %lld in flight: %.1f images/s", table.text().c_str(),
              static_cast<long long>(batch), static_cast<long long>(concurrency), images_per_s);
  if (measured.bytes_on_wire > 0)
    std::printf(", %s on the wire a request", base::format_bytes(measured.bytes_on_wire).c_str());
  std::printf("\n");
  if (measured.partial > 0) std::printf("%zu answers are without some device\n", measured.partial);
  if (measured.failed > 0)
    std::printf("%zu requests failed: %s\n", measured.failed, measured.first_failure.c_str());
}

void print_json(const Measured& measured, const Target& target, std::int64_t batch,
                std::int64_t concurrency, double images_per_s) {
  nlohmann::json json{{"what", target.what},
                      {"batch", batch},
                      {"concurrency", concurrency},
                      {"latency", to_json(measured.latency_s)},
                      {"aggregator_overhead", to_json(measured.overhead_s)},
                      {"fuse", to_json(measured.fuse_s)},
                      {"predicted_fuse_s", predicted_fuse_s(target.plan)},
                      {"images_per_s", images_per_s},
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

int bench(const Args& args) {
  infer::set_threads(1);
  const auto batch = args.integer("batch"), concurrency = args.integer("concurrency");
  check_way(args);
  const Target target = find_target(args);
  catch_signals();
  infer::Request request;
  request.input =
      noise_images(target.config, batch, static_cast<std::uint64_t>(args.integer("seed")));
  request.deadline = milliseconds_of(args, "deadline");
  const Measured measured = [&] {
    ProgressBar bar;
    const auto progress = bar.callback();
    measure(*target.service, request, args.integer("warmup"), concurrency, progress);
    return measure(*target.service, request, args.integer("requests"), concurrency, progress);
  }();

  // The plan's figures are of its fleet and its batch; others are compared with nothing.
  const plan::Prediction& predicted = target.plan.prediction;
  const bool on_fleet = !args.flag("local") && batch == target.plan.shape.batch;
  Table table({"what", "median", "MAD", "p90", "p99", "predicted", "requests"});
  add_row(table, "latency", measured.latency_s, on_fleet ? predicted.latency_s : 0);
  for (const auto& [device, values] : measured.compute_s) {
    add_row(table, "compute " + device, values, on_fleet ? predicted.of(device).compute_s : 0);
    add_row(table, "round trip " + device, measured.round_trip_s.at(device));
  }
  add_row(table, "fuse", measured.fuse_s, on_fleet ? predicted_fuse_s(target.plan) : 0);
  add_row(table, "aggregator overhead", measured.overhead_s);
  write_csv(args, table);

  const double images_per_s =
      static_cast<double>(batch) * static_cast<double>(measured.latency_s.size()) / measured.wall_s;
  if (args.json())
    print_json(measured, target, batch, concurrency, images_per_s);
  else
    print_text(measured, table, batch, concurrency, images_per_s);
  if (stop_wanted())
    std::fprintf(stderr, "stopped after %zu requests\n",
                 measured.latency_s.size() + measured.failed);
  return measured.failed == 0 && !stop_wanted() ? exit_done : exit_failed;
}

}  // namespace

Command bench_command() {
  return {"bench",
          "latency and throughput with their spread",
          {{"BUNDLE", "bundle folder, or a model folder (the original, in this process)", false}},
          {"via", "local", "fleet", "hosts", "plan", "requests", "warmup", "concurrency", "batch",
           "deadline", "join-timeout", "max-queue", "without", "seed", "csv", "dry-run", "format",
           "verbose"},
          "cleave bench bundle/ --requests 500 --concurrency 8",
          bench};
}

}  // namespace cleave::tools
