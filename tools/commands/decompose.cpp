#include "decompose/decompose.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "infer/engine.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/dataset.hpp"
#include "optimizer/plan/fleet.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/show.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// At most `limit` rows to learn from.
model::Dataset read_rows(const Args& args, const std::string& folder,
                         const model::ModelConfig& teacher, std::int64_t limit) {
  model::DatasetSource source;
  source.path = args.text("data");
  source.format = args.text("data-format");
  source.split = "train";
  source.limit = limit;
  source.length = args.integer("length");
  source.lossy = args.flag("lossy");
  source.exif_rotation = args.flag("exif-rotation");
  std::optional<model::Tokenizer> tokenizer;
  if (teacher.is_text()) tokenizer = model::read_tokenizer(folder, teacher.vocabulary);
  source.tokenizer = tokenizer ? &*tokenizer : nullptr;
  return model::read_dataset(source, teacher);
}

/// What the units are worth: gradients and activations where there is data, weight norms else.
decompose::Importance importance_of(const Args& args, const std::string& folder,
                                    base::Remarks& remarks) {
  const std::string how = args.text("importance");
  if (how == "weights" || (how == "auto" && !args.has("data")))
    return decompose::weight_importance(folder);
  const auto teacher = model::load(folder);
  const auto data = read_rows(args, folder, teacher.config, args.integer("rows"));
  say(remarks = data.remarks);
  ProgressBar bar;
  return decompose::measure_importance(teacher, data, {}, bar.callback());
}

/// Rows to fit on. Where nothing else was asked for, windows of a running text are fewer: what is
/// kept of them in memory grows with their tokens.
std::int64_t fit_rows_of(const Args& args, const model::ModelConfig& teacher) {
  constexpr std::int64_t most_tokens = 1 << 17;
  const std::int64_t rows = args.integer("fit-rows"), length = args.integer("length");
  if (args.given("fit-rows") || !teacher.reads_every_token()) return rows;
  return std::clamp<std::int64_t>(most_tokens / (length > 0 ? length : teacher.context), 1, rows);
}

bool is_fitted(const Args& args) {
  const std::string how = args.text("fit");
  const bool fits = how != "none" && (how != "auto" || args.has("data"));
  if (fits && !args.has("data"))
    throw UsageError("[decompose] --fit " + how + ": needs --data to fit to");
  if ((!fits || how == "heads") && args.text("stream") == "components")
    throw UsageError("[decompose] --stream components: needs --data, and a fit of the parts to it");
  return fits;
}

/// For hosts.toml. An address is optional in a fleet; who has none is left out. Throws
/// std::runtime_error where the fleet is not that of the plan.
std::map<std::string, std::string> addresses_of(const std::string& path,
                                                const std::vector<plan::Plan>& plans) {
  const plan::Fleet fleet = plan::read_fleet(path);
  for (const auto& plan : plans)
    for (const auto& part : plan.parts)
      if (!fleet.find(part.device))
        throw std::runtime_error("[" + path + "] device: saw none named '" + part.device +
                                 "', which plan " + plan.name + " needs");
  std::map<std::string, std::string> hosts;
  for (const auto& device : fleet.devices)
    if (!device.address.empty()) hosts[device.name] = device.address;
  return hosts;
}

/// As a shell takes it.
std::string quoted(const std::string& word) {
  constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+,=";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

/// A recipe of the repository for such a model.
std::string recipe_for(const model::ModelConfig& teacher) {
  if (!teacher.is_text()) return "recipes/fashion-mnist/quick.toml";
  if (teacher.task == model::Task::embedding) return "recipes/stsb/calibrate.toml";
  if (teacher.task == model::Task::classification) return "recipes/sst2/calibrate.toml";
  return "recipes/shakespeare/calibrate.toml";
}

/// `calibrate` refuses models whose outputs are numbers, or several classes at once.
bool can_be_calibrated(const plan::Plan& plan) {
  return plan.teacher.problem == model::Problem::single_label;
}

/// Something was cut away that its answers miss.
bool is_cut(const std::string& out) {
  const plan::Bundle bundle(out);
  const auto state = plan::weights_state(bundle, bundle.plan());
  return state == plan::WeightsState::uncalibrated || state == plan::WeightsState::fitted;
}

/// What to type next, or empty where nothing is to be done, or can be.
std::string next_command(const Args& args, const plan::Plan& plan) {
  if (!is_cut(args.text("out")) || !can_be_calibrated(plan)) return "";
  return "cleave calibrate " + quoted(args.text("out")) + " --teacher " + quoted(args.at(0)) +
         " --data " + (args.has("data") ? quoted(args.text("data")) : "DATA") + " --recipe " +
         recipe_for(plan.teacher);
}

std::string fit_in_words(const Args& args, std::int64_t rows) {
  if (rows == 0)
    return std::string("parts were cut and not fitted") +
           (args.has("data") ? "" : ": that needs --data");
  return (args.text("fit") == "heads" ? "parts were cut, fusion heads" : "parts were") +
         (" fitted to the teacher's activations on " + std::to_string(rows)) + " rows";
}

void print_intent(const Args& args, const std::vector<plan::Plan>& plans) {
  const std::string out = args.text("out");
  if (args.json()) {
    nlohmann::json json = {{"bundle", out}, {"plans", nlohmann::json::array()}, {"written", false}};
    for (const auto& plan : plans) json["plans"].push_back(plan::to_json(plan));
    std::printf("%s\n", json.dump(2).c_str());
    return;
  }
  std::printf("would write %s:\n", out.c_str());
  for (const auto& plan : plans) std::printf("\n%s", describe(plan).c_str());
}

/// The first is the bundle's default plan; those of a folder stand in the order of their names.
std::vector<plan::Plan> read_plans(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  std::vector<plan::Plan> plans;
  for (const std::string& path : paths) {
    std::vector<fs::path> files{path};
    if (fs::is_directory(path)) {
      files.clear();
      for (const auto& entry : fs::directory_iterator(path))
        if (entry.path().extension() == ".json") files.push_back(entry.path());
      std::sort(files.begin(), files.end());
      if (files.empty())
        throw UsageError("[--plan] saw no plan in " + path + ", needs one or more");
    }
    for (const fs::path& file : files) plans.push_back(plan::read_plan(file));
  }
  return plans;
}

int decompose(const Args& args) {
  const std::string teacher = args.at(0), out = args.text("out");
  const auto plans = read_plans(args.list("plan"));
  const auto& plan = plans.front();
  std::map<std::string, std::string> hosts;
  if (args.has("fleet")) hosts = addresses_of(args.text("fleet"), plans);
  if (!args.flag("force")) decompose::expect_nothing_lost(out);
  if (args.flag("dry-run")) {
    print_intent(args, plans);
    return exit_done;
  }
  const bool fits = is_fitted(args);
  const bool shares = std::all_of(plans.begin(), plans.end(), plan::is_shared);
  if (shares && (args.has("data") || args.given("fit") || args.given("importance")))
    throw UsageError("[decompose] plan: saw strategy '" + plan.strategy +
                     "', which takes the teacher's weights as they are: --data, --fit and "
                     "--importance have nothing to choose");
  infer::set_threads(threads_of(args, all_threads()));
  catch_signals();  // from here on a stop is heard, and leaves nothing behind
  say_notes(teacher);
  base::Remarks remarks;
  if (fits && args.text("stream") == "components")
    for (const plan::Plan& each : plans)
      for (const plan::PlanPart& part : each.parts)
        if (!part.share())
          decompose::expect_rotatable(model::read_config(teacher), part.sub_model().config);
  const auto importance = shares ? decompose::Importance() : importance_of(args, teacher, remarks);
  decompose::DecomposeSummary summary;
  {
    ProgressBar bar;
    if (fits) {
      const auto config = model::read_config(teacher);
      const auto data = read_rows(args, teacher, config, fit_rows_of(args, config));
      decompose::Fitting fitting{data, {}};
      fitting.options.threads = static_cast<int>(args.integer("threads"));
      const std::string what = args.text("fit");
      if (what == "parts") fitting.options.what = decompose::FitOptions::What::parts;
      if (what == "heads") fitting.options.what = decompose::FitOptions::What::heads;
      if (args.text("stream") == "components")
        fitting.options.stream = decompose::Stream::components;
      summary = decompose::decompose(teacher, plans, importance, out, bar.callback(), {}, &fitting);
      remarks.insert(remarks.end(), summary.remarks.begin(), summary.remarks.end());
    } else {
      summary = decompose::decompose(teacher, plans, importance, out, bar.callback());
    }
  }
  if (args.has("fleet")) plan::write_hosts(hosts, std::filesystem::path(out) / "hosts.toml");
  const std::string next = next_command(args, plan);
  if (args.json()) {
    nlohmann::json files = nlohmann::json::object();
    for (const auto& [path, file] : summary.manifest.files)
      files[path] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
    std::printf("%s\n", nlohmann::json{{"bundle", out},
                                       {"identity", summary.manifest.identity()},
                                       {"files", files},
                                       {"covered", summary.covered},
                                       {"shared", summary.shared},
                                       {"fitted_rows", summary.fitted_rows},
                                       {"next", next},
                                       {"remarks", to_json(remarks)}}
                            .dump(2, ' ', false, replace_invalid)
                            .c_str());
    return exit_done;
  }
  Table table({"device", "file", "size"});
  for (const auto& [path, file] : summary.manifest.files) {
    const std::filesystem::path inside(path);
    if (inside.filename() == "model.safetensors" && *inside.begin() != "fusion")
      table.row({inside.parent_path().filename().string(), path,
                 base::format_bytes(static_cast<double>(file.bytes))});
  }
  std::printf("%s\n", table.text().c_str());
  if (!plan::is_shared(plan))
    std::printf(
        "%s of the teacher's channels and heads are held by some part, %s by more than one\n",
        percent(summary.covered, 1).c_str(), percent(summary.shared, 1).c_str());
  std::printf("wrote %s (identity %.12s)\n", out.c_str(), summary.manifest.identity().c_str());
  if (is_cut(out)) std::printf("%s\n", fit_in_words(args, summary.fitted_rows).c_str());
  if (next.empty() && is_cut(out))
    std::printf(
        "what was cut away is missed in its answers: models whose outputs are numbers, or several "
        "classes at once, are not calibrated\n");
  if (!next.empty())
    std::printf("what was cut away is missed in its answers until it is calibrated; next:\n  %s\n",
                next.c_str());
  return exit_done;
}

}  // namespace

Command decompose_command() {
  return {"decompose",
          "cut the weights as a plan says and write a bundle",
          {{"MODEL", "model folder"}},
          {"plan", "out", "data", "data-format", "length", "lossy", "exif-rotation", "rows",
           "importance", "fit", "fit-rows", "stream", "fleet", "threads", "force", "dry-run",
           "format", "verbose"},
          "cleave decompose teacher/ --plan plan.json --data /usr/share/datasets/fashion-mnist "
          "--out bundle/",
          decompose};
}

}  // namespace cleave::tools
