#include "tools/commands/side_by_side.hpp"

#include <algorithm>
#include <functional>

#include "base/units.hpp"
#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/program.hpp"
#include "tools/commands/serving.hpp"
#include "tools/commands/statistics.hpp"

namespace cleave::tools {
namespace {

void count(Side& side, const infer::Response& response) {
  if (response.status != infer::Status::answered) {
    ++side.failed;
    side.last_failure = response.message;
    return;
  }
  side.latency_s.push_back(response.total_s);
  side.overhead_s.push_back(response.overhead_s);
  side.fuse_s.push_back(response.fuse_s);
  side.bytes_on_wire = 0;
  bool partial = false;
  for (const auto& device : response.devices) {
    partial = partial || !device.present;
    side.bytes_on_wire += static_cast<double>(device.sent_bytes + device.received_bytes);
    if (!device.present) continue;
    side.compute_s[device.device].push_back(device.compute_s);
    side.round_trip_s[device.device].push_back(device.round_trip_s);
    if (device.account.told) side.accounts[device.device].push_back(device.account);
  }
  if (response.aggregator.told)
    side.accounts[plan::aggregator_process(side.plan.aggregator)].push_back(response.aggregator);
  side.partial += partial ? 1 : 0;
}

/// One thing that a process did for a request.
struct Quantity {
  const char* what;
  bool is_sum;  // false: the largest is what counts
  double (*seen)(const net::Account& account);
  /// 0: nothing is predicted.
  double (*predicted)(const plan::DevicePrediction& device);
  std::string (*text)(double value);
};

double sent(const net::Account& account) {
  double bytes = 0;
  for (const auto& link : account.links) bytes += static_cast<double>(link.sent_bytes);
  return bytes;
}
double received(const net::Account& account) {
  double bytes = 0;
  for (const auto& link : account.links) bytes += static_cast<double>(link.received_bytes);
  return bytes;
}
/// Nothing is predicted.
double nothing(const plan::DevicePrediction&) { return 0; }
std::string flops_text(double value) { return base::format_count(value); }
std::string seconds_text(double value) { return base::format_seconds(value); }
std::string bytes_text(double value) { return base::format_bytes(value); }

const std::vector<Quantity>& quantities() {
  using Account = net::Account;
  using Device = plan::DevicePrediction;
  static const std::vector<Quantity> all = {
      {"flops", true, [](const Account& a) { return a.flops; }, nothing, flops_text},
      {"sent", true, sent, [](const Device& d) { return d.sent_bytes; }, bytes_text},
      {"received", true, received, [](const Device& d) { return d.received_bytes; }, bytes_text},
      {"computing", true, [](const Account& a) { return a.compute_s; },
       [](const Device& d) { return d.compute_s; }, seconds_text},
      {"waiting", true, [](const Account& a) { return a.wait_s; }, nothing, seconds_text},
      {"queued", true, [](const Account& a) { return a.queued_s; }, nothing, seconds_text},
      {"transferring", true, [](const Account& a) { return a.transfer_s; },
       [](const Device& d) { return d.send_s + d.receive_s; }, seconds_text},
      {"peak memory", false, [](const Account& a) { return a.peak_memory_bytes; },
       [](const Device& d) { return d.runtime_bytes + d.model_bytes; }, bytes_text},
  };
  return all;
}

/// What a process did, and what is predicted of it.
struct Figure {
  const Quantity* quantity;
  Spread seen;
  double predicted = 0;
};

/// Of each process its figures, in the order of quantities().
std::vector<std::pair<std::string, std::vector<Figure>>> figures_of(const Side& side) {
  std::vector<std::pair<std::string, std::vector<Figure>>> all;
  std::vector<std::string> processes = plan::devices_of(side.plan);
  processes.push_back(plan::aggregator_process(side.plan.aggregator));
  std::vector<plan::Program> programs;
  if (side.is_predicted) programs = plan::compile(side.plan, side.plan.shape);
  const std::int64_t past = plan::planned_load(side.plan.shape).past;
  for (std::size_t rank = 0; rank < processes.size(); ++rank) {
    const auto told = side.accounts.find(processes[rank]);
    if (told == side.accounts.end()) continue;
    std::vector<Figure> figures;
    const auto predicted = side.plan.prediction.of(processes[rank]);
    for (const Quantity& quantity : quantities()) {
      std::vector<double> values;
      for (const net::Account& account : told->second) values.push_back(quantity.seen(account));
      Figure figure{&quantity, spread_of(values), 0};
      if (!quantity.is_sum) figure.seen.median = figure.seen.maximum;
      if (side.is_predicted) figure.predicted = quantity.predicted(predicted);
      figures.push_back(figure);
    }
    if (side.is_predicted)
      figures.front().predicted = plan::flops_of(programs.at(rank), side.plan, past);
    all.emplace_back(processes[rank], std::move(figures));
  }
  return all;
}

double predicted_latency_s(const Side& side) {
  return side.is_predicted ? side.plan.prediction.latency_s : 0;
}

double median_of_first(const std::vector<Side>& sides) {
  return sides.empty() || sides.front().latency_s.empty() ? 0 : median_of(sides.front().latency_s);
}

std::string time_or_dash(double seconds) {
  return seconds > 0 ? base::format_seconds(seconds) : "–";
}

std::string ratio_text(double seconds, double first_s) {
  return seconds > 0 && first_s > 0 ? format("%.2f", seconds / first_s) : "–";
}

}  // namespace

infer::Response ask_once(Side& side, const Workload& workload, std::chrono::milliseconds deadline,
                         net::Observe observe) {
  infer::Response response;
  for (bool counts = false; !counts;) {
    auto item = workload.next(side.stream, *side.service);
    counts = item.counts;
    item.request.plan = side.plan.name;
    item.request.deadline = deadline;
    item.request.observe = observe;
    response = ask(*side.service, std::move(item.request));
    if (response.status == infer::Status::answered) continue;
    workload.end(side.stream, *side.service);
    break;
  }
  return response;
}

void ask_in_turn(std::vector<Side>& sides, const Workload& workload,
                 std::chrono::milliseconds deadline, std::int64_t warmup, std::int64_t requests,
                 const base::ProgressCallback& progress) {
  const std::int64_t rounds = warmup + requests;
  for (std::int64_t round = 0; progress({"rounds", round, rounds, ""}) && round < rounds; ++round)
    for (Side& side : sides) {
      const auto response = ask_once(side, workload, deadline, net::Observe::account);
      if (round >= warmup) count(side, response);
    }
  for (Side& side : sides) workload.end(side.stream, *side.service);
}

Table sides_table(const std::vector<Side>& sides, const std::vector<Bound>& bounds) {
  Table table({"plan", "strategy", "median", "MAD", "p90", "predicted", "beside the first",
               "requests", "failed"});
  const double first_s = median_of_first(sides);
  for (const Side& side : sides) {
    const bool any = !side.latency_s.empty();
    const Spread spread = any ? spread_of(side.latency_s) : Spread();
    table.row({side.what, side.plan.strategy, time_or_dash(spread.median), time_or_dash(spread.mad),
               time_or_dash(spread.p90), time_or_dash(predicted_latency_s(side)),
               ratio_text(spread.median, first_s), std::to_string(side.latency_s.size()),
               std::to_string(side.failed)});
  }
  for (const Bound& bound : bounds)
    table.row({bound.what, "", "–", "–", "–", time_or_dash(bound.latency_s),
               ratio_text(bound.latency_s, first_s), "–", "–"});
  return table;
}

Table devices_table(const std::vector<Side>& sides) {
  std::vector<std::string> header = {"plan", "process"};
  for (const Quantity& quantity : quantities()) {
    header.emplace_back(quantity.what);
    if (&quantity == &quantities().front() || quantity.predicted != nothing)
      header.emplace_back("(predicted)");
  }
  Table table(header);
  for (const Side& side : sides)
    for (const auto& [process, figures] : figures_of(side)) {
      std::vector<std::string> row = {side.what, process};
      for (const Figure& figure : figures) {
        row.push_back(figure.quantity->text(figure.seen.median));
        if (&figure == &figures.front() || figure.quantity->predicted != nothing)
          row.push_back(figure.predicted > 0 ? figure.quantity->text(figure.predicted) : "–");
      }
      table.row(row);
    }
  return table;
}

Table numbers_table(const std::vector<Side>& sides, const std::vector<Bound>& bounds) {
  Table table({"what", "plan", "device", "median", "MAD", "predicted"});
  const auto number = [](double value) { return format("%.9g", value); };
  for (const Side& side : sides) {
    if (!side.latency_s.empty()) {
      const Spread spread = spread_of(side.latency_s);
      table.row({"latency", side.what, "", number(spread.median), number(spread.mad),
                 number(predicted_latency_s(side))});
    }
    for (const auto& [process, figures] : figures_of(side))
      for (const Figure& figure : figures)
        table.row({figure.quantity->what, side.what, process, number(figure.seen.median),
                   number(figure.seen.mad), number(figure.predicted)});
  }
  for (const Bound& bound : bounds)
    table.row({"bound", bound.what, "", "", "", number(bound.latency_s)});
  return table;
}

nlohmann::json to_json(const std::vector<Side>& sides, const std::vector<Bound>& bounds) {
  nlohmann::json json = {{"plans", nlohmann::json::array()}, {"bounds", nlohmann::json::array()}};
  const double first_s = median_of_first(sides);
  for (const Side& side : sides) {
    nlohmann::json plan = {{"what", side.what},
                           {"plan", side.plan.name},
                           {"strategy", side.plan.strategy},
                           {"requests", side.latency_s.size()},
                           {"failed", side.failed},
                           {"partial", side.partial},
                           {"latency_s", side.latency_s},
                           {"predicted_latency_s", predicted_latency_s(side)},
                           {"devices", nlohmann::json::object()}};
    if (!side.latency_s.empty()) {
      const Spread spread = spread_of(side.latency_s);
      plan["median_s"] = spread.median;
      plan["mad_s"] = spread.mad;
      plan["p90_s"] = spread.p90;
      plan["p99_s"] = spread.p99;
      plan["ratio"] = first_s > 0 ? spread.median / first_s : 0;
    }
    for (const auto& [process, figures] : figures_of(side)) {
      nlohmann::json& device = plan["devices"][process];
      for (const Figure& figure : figures)
        device[figure.quantity->what] = {{"median", figure.seen.median},
                                         {"mad", figure.seen.mad},
                                         {"predicted", figure.predicted}};
      for (const net::LinkBytes& link : side.accounts.at(process).back().links)
        device["links"][link.peer] = {{"sent_bytes", link.sent_bytes},
                                      {"received_bytes", link.received_bytes}};
    }
    json["plans"].push_back(std::move(plan));
  }
  for (const Bound& bound : bounds)
    json["bounds"].push_back({{"what", bound.what}, {"latency_s", bound.latency_s}});
  return json;
}

}  // namespace cleave::tools
