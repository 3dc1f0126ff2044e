#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/reader.hpp"
#include "base/units.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"
#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/work.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/show.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;

/// One cell a bucket of units: full, half or empty, by how much of it is kept.
std::string strip(const std::vector<std::int64_t>& kept, std::int64_t total, int cells) {
  const int width = static_cast<int>(std::min<std::int64_t>(cells, total));
  std::vector<int> held(static_cast<std::size_t>(width)), size(held.size());
  const auto cell_of = [&](std::int64_t unit) {
    return static_cast<std::size_t>(unit * width / total);
  };
  for (std::int64_t unit = 0; unit < total; ++unit) ++size[cell_of(unit)];
  for (auto unit : kept) ++held[cell_of(unit)];
  std::string text;
  for (std::size_t i = 0; i < held.size(); ++i) {
    const double share = static_cast<double>(held[i]) / size[i];
    text += share == 0 ? "·" : share < 0.34 ? "░" : share < 0.67 ? "▒" : share < 1 ? "▓" : "█";
  }
  return text;
}

std::vector<std::int64_t> integers(const base::Reader& reader) {
  std::vector<std::int64_t> values;
  for (const auto& item : reader.items()) values.push_back(item.integer(0, INT64_MAX));
  return values;
}

/// Who keeps what: a row a part for channels, then for the heads of each teacher layer.
std::string drawing(const plan::Bundle& bundle, const plan::Plan& plan, int columns) {
  std::string text;
  std::size_t name_width = 7;
  for (const auto& part : plan.parts) name_width = std::max(name_width, part.device.size());
  for (const auto& part : plan.parts) {
    const fs::path keep_path = bundle.part_path(plan, part.device) / "keep.json";
    const std::string name = part.device + std::string(name_width - part.device.size(), ' ');
    if (!fs::exists(keep_path)) {
      text += "  " + name + "  (part is not here)\n";
      continue;
    }
    const auto keep = base::Reader::json_file(keep_path);
    text += "  " + name + "  channels " +
            strip(integers(keep.at("channels")), plan.teacher.width,
                  columns - static_cast<int>(name_width) - 14) +
            "\n";
    const auto layers = integers(keep.at("layers"));
    const auto heads = keep.at("heads").items();
    std::string row = "  " + std::string(name_width, ' ') + "  heads    ";
    for (std::int64_t layer = 0; layer < plan.teacher.num_layers(); ++layer) {
      const auto found = std::find(layers.begin(), layers.end(), layer);
      const auto total = plan.teacher.layers[static_cast<std::size_t>(layer)].heads;
      row += (layer == 0 ? "" : " ") +
             (found == layers.end()
                  ? strip({}, total, 16)
                  : strip(integers(heads[static_cast<std::size_t>(found - layers.begin())]), total,
                          16));
    }
    text += row + "\n";
  }
  return text;
}

nlohmann::json to_json(const model::ModelConfig& config) {
  nlohmann::json layers = nlohmann::json::array();
  for (const auto& layer : config.layers)
    layers.push_back({{"heads", layer.heads}, {"mlp_width", layer.mlp_width}});
  return {{"family", model::name_of(config.family)},
          {"parameters", model::count_parameters(config)},
          {"flops", total_flops(config)},
          {"bytes", plan::weight_bytes(config)},
          {"width", config.width},
          {"head_width", config.head_width},
          {"tokens", config.num_tokens()},
          {"classes", config.classes},
          {"random_weights", config.random_weights},
          {"layers", layers}};
}

int inspect_model(const Args& args, const fs::path& folder) {
  const auto config = model::read_config(folder);
  const model::TensorFiles files(folder);
  model::check_tensors(config, files);
  if (args.json()) {
    std::printf("%s\n", to_json(config).dump(2).c_str());
    return exit_done;
  }
  std::printf("%s", describe(config).c_str());
  if (args.flag("verbose")) {
    Table table({"tensor", "element", "shape", "size"});
    for (const auto& [name, entry] : files.entries()) {
      std::string shape;
      for (auto dim : entry.dims) shape += (shape.empty() ? "" : " x ") + std::to_string(dim);
      table.row({name, std::string(base::name_of(entry.element)), shape,
                 base::format_bytes(static_cast<double>(entry.bytes))});
    }
    std::printf("\n%s", table.text().c_str());
  }
  return exit_done;
}

/// What `evaluate` and the testbed stored: gains and costs in one place.
std::string measured_text(const fs::path& folder) {
  const auto measured = plan::read_measured(folder);
  std::string text;
  if (measured.contains("accuracy")) {
    const auto& rows = measured["accuracy"]["rows"];
    const auto of_teacher = std::find_if(rows.begin(), rows.end(),
                                         [](const auto& row) { return row["what"] == "teacher"; });
    Table table({"accuracy of", "share right", "against teacher"});
    for (const auto& row : rows)
      table.row({row["what"].get<std::string>(), percent(row["accuracy"].get<double>()),
                 of_teacher == rows.end()
                     ? "–"
                     : format("%+.2f points", 100 * (row["accuracy"].get<double>() -
                                                     (*of_teacher)["accuracy"].get<double>()))});
    text += table.text() + "\n";
  }
  if (!measured.contains("testbed")) return text.empty() ? "nothing is measured yet\n" : text;
  const auto& testbed = measured["testbed"];
  Table memory({"process", "peak memory", "predicted", "limit"}),
      latency({"latency", "median", "MAD", "predicted", "on the wire"});
  for (const auto& system : testbed["systems"]) {
    const std::string what = system["what"].get<std::string>();
    for (const auto& [process, row] : system["memory"].items()) {
      const double limit = row["limit_bytes"].get<double>(),
                   predicted = row["predicted_bytes"].get<double>();
      memory.row({what + ": " + process, base::format_bytes(row["peak_bytes"].get<double>()),
                  predicted > 0 ? base::format_bytes(predicted) : "–",
                  limit <= 0           ? "–"
                  : what == "original" ? base::format_bytes(limit) + " (lifted)"
                                       : base::format_bytes(limit)});
    }
    const double predicted = system["predicted_latency_s"].get<double>();
    latency.row({what, base::format_seconds(system["median_s"].get<double>()),
                 base::format_seconds(system["mad_s"].get<double>()),
                 predicted > 0 ? base::format_seconds(predicted) : "–",
                 base::format_bytes(system["bytes_on_wire"].get<double>())});
  }
  text += memory.text() + "\n" + latency.text();
  if (testbed["ratio"].get<double>() > 0)
    text += format("the system is %.2f times as fast as the original on the fastest device (%s)\n",
                   testbed["ratio"].get<double>(), testbed["network"].get<std::string>().c_str());
  return text;
}

int inspect_bundle(const Args& args, const fs::path& folder) {
  const plan::Bundle bundle(folder);
  const auto plan = bundle.plan(args.has("plan") ? args.text("plan") : "");
  if (args.flag("measured")) {
    std::printf("%s", args.json() ? (plan::read_measured(folder).dump(2) + "\n").c_str()
                                  : measured_text(folder).c_str());
    return exit_done;
  }
  if (args.json()) {
    nlohmann::json json{{"identity", bundle.identity()},
                        {"plan", plan.name},
                        {"teacher", to_json(plan.teacher)},
                        {"parts", nlohmann::json::object()}};
    for (const auto& part : plan.parts) json["parts"][part.device] = to_json(part.config);
    json["measured"] = plan::read_measured(folder);
    std::printf("%s\n", json.dump(2).c_str());
    return exit_done;
  }
  std::printf("bundle %.12s, teacher %s", bundle.identity().c_str(),
              describe(plan.teacher).c_str());
  for (const auto& part : plan.parts)
    std::printf("\n%s: %s", part.device.c_str(), describe(part.config).c_str());
  std::printf("\nwho keeps what (█ all, ▓▒░ some, · none)\n%s\n%s",
              drawing(bundle, plan, static_cast<int>(args.integer("columns"))).c_str(),
              describe(plan).c_str());
  std::printf("\n%s", measured_text(folder).c_str());
  return exit_done;
}

int inspect(const Args& args) {
  const fs::path folder = args.at(0);
  return fs::exists(folder / "manifest.json") ? inspect_bundle(args, folder)
                                              : inspect_model(args, folder);
}

}  // namespace

Command inspect_command() {
  return {"inspect",
          "what is in a model or a bundle: parameters, FLOPs, bytes, widths, who keeps what",
          {{"PATH", "model or bundle folder"}},
          {"plan", "measured", "columns", "format", "verbose"},
          "cleave inspect bundle/",
          inspect};
}

}  // namespace cleave::tools
