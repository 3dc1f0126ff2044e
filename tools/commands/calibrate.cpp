#include "calibrate/calibrate.hpp"

#include <cmath>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "calibrate/accelerator.hpp"
#include "tools/commands/commands.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

std::string ablation(const calibrate::CalibrateSummary& summary) {
  Table table({"stage", "before", "after", "brings", "time"});
  const auto& measure = summary.measure;
  for (const auto& stage : summary.stages)
    table.row({stage.name, to_text(measure, stage.before), to_text(measure, stage.after),
               compared(measure, stage.before, stage.after),
               stage.seconds > 0 ? base::format_seconds(stage.seconds) : "–"});
  return table.text();
}

/// Null where nobody can tell: without a validation split, or before the end.
nlohmann::json rejected_json(const calibrate::CalibrateSummary& summary) {
  if (!summary.finished || std::isnan(summary.start_quality)) return nullptr;
  return summary.rejected;
}

/// What became of the fused answer.
std::string outcome(const calibrate::CalibrateSummary& summary) {
  if (std::isnan(summary.start_quality))
    return "whether it is better than it began is unknown: there is no validation split";
  const auto& measure = summary.measure;
  return "fused before the first step " + to_text(measure, summary.start_quality) +
         ", at the end " + to_text(measure, summary.fused_quality);
}

void print_intent(const Args& args, const calibrate::CalibrateRecipe& recipe) {
  const int alone = recipe.alone.schedule.epochs, boost = recipe.boost.schedule.epochs,
            joint = recipe.joint.schedule.epochs, head = recipe.head.schedule.epochs;
  if (args.json())
    std::printf(
        "%s\n",
        nlohmann::json{
            {"bundle", args.at(0)},
            {"epochs", {{"alone", alone}, {"boost", boost}, {"joint", joint}, {"head", head}}},
            {"seed", recipe.seed},
            {"written", false}}
            .dump(2)
            .c_str());
  else
    std::printf("would calibrate %s: %d + %d + %d + %d epochs (alone, boosting, joint, head)\n",
                args.at(0).c_str(), alone, boost, joint, head);
}

int calibrate(const Args& args) {
  auto recipe = calibrate::read_calibrate_recipe(args.text("recipe"));
  if (args.has("data")) recipe.data.path = args.text("data");
  recipe.data.lossy = args.flag("lossy");
  if (args.given("seed")) recipe.seed = static_cast<std::uint64_t>(args.integer("seed"));
  recipe.threads = threads_of(args, recipe.threads);
  const at::Device compute_device = calibrate::device_of(args.text("accelerator"));
  if (args.flag("dry-run")) {
    print_intent(args, recipe);
    return exit_done;
  }
  const auto group = calibrate::Group::from_environment();
  if (group.leads()) say_notes(args.text("teacher"));
  calibrate::CalibrateSummary summary;
  {
    ProgressBar bar(group.leads());
    summary = calibrate::calibrate(args.at(0), args.text("teacher"), recipe, bar.callback(), group,
                                   compute_device, args.flag("force"));
  }
  const bool negative = summary.below_target || summary.rejected;
  const int code = !summary.finished ? exit_failed : negative ? exit_negative : exit_done;
  if (!group.leads()) return code;
  warn_of_shortened(summary.shortened, recipe.data.length);
  warn_of_number_format(recipe.compute, summary.compute);
  const auto& measure = summary.measure;
  const char* unit = measure.more_is_better ? "points" : "%";
  if (args.json()) {
    nlohmann::json json{
        {"finished", summary.finished},        {"measure", measure.name},
        {"teacher", summary.teacher_quality},  {"start", summary.start_quality},
        {"fused", summary.fused_quality},      {"rejected", rejected_json(summary)},
        {"shortened", summary.shortened},      {"compute", model::name_of(summary.compute)},
        {"remarks", to_json(summary.remarks)}, {"stages", nlohmann::json::array()}};
    for (const auto& stage : summary.stages)
      json["stages"].push_back({{"name", stage.name},
                                {"before", stage.before},
                                {"after", stage.after},
                                {"seconds", stage.seconds}});
    std::printf("%s\n", json.dump(2, ' ', false, replace_invalid).c_str());
  } else {
    std::printf("%s", ablation(summary).c_str());
    if (summary.finished && std::isfinite(summary.fused_quality))
      std::printf("\nvalidation: teacher %s, fused %s (%s %s)\n",
                  to_text(measure, summary.teacher_quality).c_str(),
                  to_text(measure, summary.fused_quality).c_str(),
                  compared(measure, summary.teacher_quality, summary.fused_quality).c_str(), unit);
    if (summary.finished) std::printf("%s\n", outcome(summary).c_str());
    if (!summary.message.empty()) std::printf("%s\n", summary.message.c_str());
    if (summary.below_target)
      std::printf("below target: the recipe allows %.2f %s\n", recipe.target_loss_points, unit);
  }
  return code;
}

}  // namespace

Command calibrate_command() {
  return {"calibrate",
          "restore a bundle's accuracy by distillation; the same call resumes",
          {{"BUNDLE", "bundle folder"}},
          {"recipe", "teacher", "data", "lossy", "seed", "threads", "accelerator", "force",
           "dry-run", "format", "verbose"},
          "cleave calibrate bundle/ --teacher teacher/ --recipe recipes/fashion-mnist/quick.toml",
          calibrate};
}

}  // namespace cleave::tools
