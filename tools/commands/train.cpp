#include "calibrate/train.hpp"

#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "calibrate/accelerator.hpp"
#include "tools/commands/commands.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

int train(const Args& args) {
  auto recipe = calibrate::read_train_recipe(args.at(0), args.text_or("start"));
  if (!recipe.start.empty()) say_notes(recipe.start);
  if (args.has("data")) recipe.data.path = args.text("data");
  recipe.data.lossy = args.flag("lossy");
  if (args.given("seed")) recipe.seed = static_cast<std::uint64_t>(args.integer("seed"));
  recipe.threads = threads_of(args, recipe.threads);
  const at::Device compute_device = calibrate::device_of(args.text("accelerator"));
  const std::string out = args.text("out");
  if (args.flag("dry-run")) {
    if (args.json())
      std::printf("%s\n", nlohmann::json{{"out", out},
                                         {"epochs", recipe.schedule.epochs},
                                         {"seed", recipe.seed},
                                         {"written", false}}
                              .dump(2)
                              .c_str());
    else
      std::printf("would train %d epochs and write %s\n", recipe.schedule.epochs, out.c_str());
    return exit_done;
  }
  const auto group = calibrate::Group::from_environment();
  calibrate::TrainSummary summary;
  {
    ProgressBar bar(group.leads());
    summary =
        calibrate::train(recipe, out, bar.callback(), group, compute_device, args.flag("force"));
  }
  if (!group.leads()) return summary.finished ? exit_done : exit_failed;
  warn_of_shortened(summary.shortened, recipe.data.length);
  warn_of_number_format(recipe.compute, summary.compute);
  if (args.json()) {
    nlohmann::json json{{"finished", summary.finished},
                        {"measure", summary.measure.name},
                        {"test", summary.test},
                        {"shortened", summary.shortened},
                        {"compute", model::name_of(summary.compute)},
                        {"remarks", to_json(summary.remarks)},
                        {"epochs", nlohmann::json::array()}};
    for (const auto& epoch : summary.epochs)
      json["epochs"].push_back({{"epoch", epoch.epoch},
                                {"loss", epoch.loss},
                                {"validation", epoch.validation},
                                {"seconds", epoch.seconds}});
    std::printf("%s\n", json.dump(2, ' ', false, replace_invalid).c_str());
  } else {
    Table table({"epoch", "loss", "validation", "time"});
    for (const auto& epoch : summary.epochs)
      table.row({std::to_string(epoch.epoch), format("%.4f", epoch.loss),
                 to_text(summary.measure, epoch.validation), base::format_seconds(epoch.seconds)});
    std::printf("%s", table.text().c_str());
    if (summary.finished)
      std::printf("\n%s: test %s %s\n", out.c_str(), std::string(summary.measure.name).c_str(),
                  to_text(summary.measure, summary.test).c_str());
    if (!summary.message.empty()) std::printf("%s\n", summary.message.c_str());
  }
  return summary.finished ? exit_done : exit_failed;
}

}  // namespace

Command train_command() {
  return {"train",
          "train a model, new or on from a checkpoint, as a recipe says; the same call resumes",
          {{"RECIPE", "recipe (TOML)"}},
          {"out", "data", "lossy", "start", "seed", "threads", "accelerator", "force", "dry-run",
           "format", "verbose"},
          "cleave train recipes/fashion-mnist/teacher.toml --out teacher/",
          train};
}

}  // namespace cleave::tools
