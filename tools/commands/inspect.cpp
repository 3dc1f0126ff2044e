#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "base/reader.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "decompose/slice.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"
#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/names.hpp"
#include "optimizer/plan/weights.hpp"
#include "optimizer/plan/work.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/drawing.hpp"
#include "tools/commands/measured.hpp"
#include "tools/commands/show.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;

/// keep.json, none of whose units lies outside the teacher.
decompose::KeepList keep_of(const plan::Plan& plan, const fs::path& path) {
  auto keep = decompose::read_keep(path);
  try {
    decompose::kept_config(plan.teacher, keep);
  } catch (const std::invalid_argument& wrong) {
    // "[keep] channels: …" is of no file yet.
    const std::string what = wrong.what();
    throw std::runtime_error("[" + path.string() + "]" + what.substr(what.find(']') + 1));
  }
  return keep;
}

/// Who keeps what: a row a part for channels, then for heads and MLP columns of each teacher layer.
std::string drawing_of_parts(const plan::Bundle& bundle, const plan::Plan& plan, int columns) {
  std::string text;
  std::size_t name_width = 7;
  for (const auto& part : plan.parts) name_width = std::max(name_width, part.device.size());
  const int cells = std::max(8, columns - static_cast<int>(name_width) - 14);
  for (const auto& part : plan.parts) {
    const fs::path keep_path = bundle.part_path(plan, part.device) / "keep.json";
    const std::string name = part.device + std::string(name_width - part.device.size(), ' ');
    if (!fs::exists(keep_path)) {
      text += "  " + name + "  (part is not here)\n";
      continue;
    }
    const auto keep = keep_of(plan, keep_path);
    text += "  " + name + "  channels " + strip(keep.channels, plan.teacher.width, cells) + "\n";
    const auto by_layer = [&](const std::string& what, const auto& kept,
                              std::int64_t model::LayerShape::*units, std::int64_t group,
                              int most) {
      text += "  " + std::string(name_width, ' ') + "  " + what;
      for (std::int64_t layer = 0; layer < plan.teacher.num_layers(); ++layer) {
        const auto found = std::find(keep.layers.begin(), keep.layers.end(), layer);
        const auto index = static_cast<std::size_t>(found - keep.layers.begin());
        text += (layer == 0 ? "" : " ") +
                strip(found == keep.layers.end() ? std::vector<std::int64_t>{} : kept[index],
                      plan.teacher.layers[static_cast<std::size_t>(layer)].*units / group, most);
      }
      text += "\n";
    };
    by_layer("heads    ", keep.heads, &model::LayerShape::heads, plan.teacher.group, 16);
    by_layer("MLP      ", keep.mlp, &model::LayerShape::mlp_width, 1, 8);
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
          {"tokens", config.is_text() ? config.context : config.num_tokens()},
          {"classes", config.classes},
          {"random_weights", config.random_weights},
          {"layers", layers}};
}

int inspect_model(const Args& args, const fs::path& folder) {
  say_notes(folder);
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
      table.row({name, entry.element_name(), shape,
                 base::format_bytes(static_cast<double>(entry.bytes))});
    }
    std::printf("\n%s", table.text().c_str());
  }
  return exit_done;
}

/// measured.json; without a section where there is none yet.
base::Reader measured_of(const fs::path& folder) {
  const fs::path path = folder / "measured.json";
  if (!fs::exists(path)) return base::Reader::json_text(R"({"format": 1})", path.string());
  const auto measured = base::Reader::json_file(path);
  measured.expect_format(1);
  return measured;
}

/// What each device keeps for all plans together, of what numbers; empty where plan and parts say
/// it all.
std::string held_table(const plan::Bundle& bundle) {
  if (bundle.manifest().plans().size() < 2) return "";
  std::map<std::string, std::map<std::string, double>> bytes;  // by device and folder
  for (const auto& [path, file] : bundle.manifest().files) {
    const fs::path inside(path);
    if (inside.filename() != "model.safetensors" || *inside.begin() == "fusion") continue;
    const fs::path folder = inside.parent_path();
    bytes[folder.filename().string()][folder.parent_path().string()] +=
        static_cast<double>(file.bytes);
  }
  Table table({"device", "keeps", "weights", "size"});
  for (const auto& [device, folders] : bytes)
    for (const auto& [folder, size] : folders)
      table.row({device, folder, std::string(plan::weight_format_f32), base::format_bytes(size)});
  return "\n" + table.text();
}

int inspect_bundle(const Args& args, const fs::path& folder) {
  const plan::Bundle bundle(folder);
  bundle.verify("");
  const auto plan = bundle.plan(args.text_or("plan"));
  const auto measured = measured_of(folder);
  if (args.flag("measured")) {
    const std::string text = args.json() ? measured_json(measured, bundle.identity()).dump(2) + "\n"
                                         : measured_text(measured, bundle.identity());
    std::printf("%s", text.c_str());
    return exit_done;
  }
  if (args.json()) {
    nlohmann::json json{{"identity", bundle.identity()},
                        {"plan", plan.name},
                        {"plans", bundle.manifest().plans()},
                        {"weights", plan::name_of(plan::weights_state(bundle, plan))},
                        {"teacher", to_json(plan.teacher)},
                        {"parts", nlohmann::json::object()}};
    const auto rows = plan::is_shared(plan) ? planned_rows(plan) : std::vector<model::Range>();
    for (const auto& part : plan.parts) {
      json["parts"][part.device] = to_json(part.share() ? plan.teacher : part.sub_model().config);
      if (!part.share()) {
        const fs::path path = bundle.part_path(plan, part.device) / "keep.json";
        if (!fs::exists(path)) continue;
        const auto keep = keep_of(plan, path);
        json["parts"][part.device]["keeps"] = {{"layers", keep.layers},
                                               {"channels", keep.channels},
                                               {"heads", keep.heads},
                                               {"mlp", keep.mlp}};
        continue;
      }
      const std::size_t rank = *plan::rank_of(plan, part.device);
      auto share = plan::to_json(plan).at("parts").at(rank).at("share");
      if (rank < rows.size()) share["row_range"] = {rows[rank].begin, rows[rank].end};
      json["parts"][part.device]["share"] = std::move(share);
      nlohmann::json held = nlohmann::json::array();
      for (const auto& some : plan::holding_of({plan}, part.device))
        held.push_back({{"name", some.name},
                        {"axis", some.axis},
                        {"begin", some.range.begin},
                        {"end", some.range.end}});
      json["parts"][part.device]["holding"] = std::move(held);
    }
    json["measured"] = measured_json(measured, bundle.identity());
    std::printf("%s\n", json.dump(2).c_str());
    return exit_done;
  }
  std::printf("bundle %.12s, weights: %s, teacher %s", bundle.identity().c_str(),
              std::string(plan::name_of(plan::weights_state(bundle, plan))).c_str(),
              describe(plan.teacher).c_str());
  auto others = bundle.manifest().plans();
  others.erase(std::remove(others.begin(), others.end(), plan.name), others.end());
  if (!others.empty())
    std::printf("plan %s; --plan shows another: %s\n", plan.name.c_str(),
                base::joined(others).c_str());
  constexpr const char* legend = "(█ all, ▓▒░ some, · none)";
  const int columns = static_cast<int>(args.integer("columns"));
  if (plan::is_shared(plan)) {
    std::printf("\nwho does what %s\n%s", legend, drawing(plan, columns).c_str());
  } else {
    for (const auto& part : plan.parts)
      std::printf("\n%s: %s", part.device.c_str(), describe(part.sub_model().config).c_str());
    std::printf("\nwho keeps what %s\n%s", legend, drawing_of_parts(bundle, plan, columns).c_str());
  }
  std::printf("%s", held_table(bundle).c_str());
  std::printf("\n%s", describe(plan).c_str());
  std::printf("\n%s", measured_text(measured, bundle.identity()).c_str());
  return exit_done;
}

int inspect(const Args& args) {
  const fs::path folder = args.at(0);
  return plan::is_bundle(folder) ? inspect_bundle(args, folder) : inspect_model(args, folder);
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
