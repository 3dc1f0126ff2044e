#include "tools/commands/measured.hpp"

#include <limits>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "calibrate/measure.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

using base::Reader;

constexpr double any = std::numeric_limits<double>::max();

bool is_of(const Reader& section, const std::string& identity) {
  return section.text("bundle", "") == identity;
}

std::string heading(const Reader& section, const std::string& identity) {
  if (is_of(section, identity)) return "";
  return section.path() + " of an earlier bundle, not of these weights:\n";
}

std::string size_text(double bytes) { return bytes > 0 ? base::format_bytes(bytes) : "–"; }

std::string seconds_text(const Reader& table, const std::string& key) {
  const double value = table.number(key, 0, any, 0);
  return value > 0 ? base::format_seconds(value) : "–";
}

std::string quality_text(const Reader& section) {
  const auto measure = calibrate::measure_named(section.text("measure", "accuracy"));
  std::optional<double> teacher;
  const auto rows = section.at("rows").items();
  for (const auto& row : rows)
    if (row.at("what").text() == "teacher") teacher = row.at("value").number(-1, any);
  Table table({"of", std::string(measure.name),
               measure.more_is_better ? "against teacher" : "% above teacher"});
  for (const auto& row : rows) {
    const double value = row.at("value").number(-1, any);
    table.row({row.at("what").text(), to_text(measure, value),
               teacher ? calibrate::compared(measure, *teacher, value) : "–"});
  }
  const auto size = section.number("size", 0, any, 0);
  if (size == 0) return table.text();
  const std::string data = section.text("data", "");
  return table.text() + format("of %.0f rows", size) + (data.empty() ? "" : " of " + data) + "\n";
}

void add_memory(const Reader& system, const std::string& what, Table& table) {
  const Reader processes = system.at("memory");
  for (const auto& process : processes.keys()) {
    const Reader row = processes.at(process);
    table.row({what + ": " + process, base::format_bytes(row.at("peak_bytes").number(0, any)),
               size_text(row.at("runtime_bytes").number(0, any)),
               size_text(row.at("predicted_runtime_bytes").number(0, any)),
               size_text(row.at("model_bytes").number(0, any)),
               size_text(row.at("predicted_model_bytes").number(0, any)),
               size_text(row.at("limit_bytes").number(0, any)) +
                   (row.boolean("limited", true) ? "" : " (lifted)")});
  }
}

std::string testbed_text(const Reader& section) {
  Table memory(
      {"process", "peak memory", "runtime", "(predicted)", "model", "(predicted)", "limit"}),
      latency({"latency", "median", "MAD", "predicted", "on the wire"});
  for (const auto& system : section.at("systems").items()) {
    const std::string what = system.at("what").text();
    add_memory(system, what, memory);
    latency.row({what, seconds_text(system, "median_s"), seconds_text(system, "mad_s"),
                 seconds_text(system, "predicted_latency_s"),
                 base::format_bytes(system.at("bytes_on_wire").number(0, any))});
  }
  const double ratio = section.at("ratio").number(0, any);
  const std::string network = section.at("network").text();
  std::string text = memory.text() + "\n" + latency.text();
  if (ratio > 0)
    text += format("the system is %.2f times as fast as the original on the fastest device (%s)\n",
                   ratio, network.c_str());
  return text;
}

}  // namespace

std::string measured_text(const Reader& measured, const std::string& identity) {
  std::string text;
  if (const auto section = measured.find("accuracy"))
    text += heading(*section, identity) + quality_text(*section);
  if (const auto section = measured.find("testbed"))
    text += (text.empty() ? "" : "\n") + heading(*section, identity) + testbed_text(*section);
  return text.empty() ? "nothing is measured yet\n" : text;
}

nlohmann::json measured_json(const Reader& measured, const std::string& identity) {
  nlohmann::json json = measured.json();
  for (const std::string& section : measured.keys())
    if (section != "format")
      json[section]["of_this_bundle"] = is_of(measured.at(section), identity);
  return json;
}

}  // namespace cleave::tools
