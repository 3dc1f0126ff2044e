#include "calibrate/evaluate.hpp"

#include <cstdio>
#include <filesystem>
#include <memory>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "calibrate/accelerator.hpp"
#include "infer/engine.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tools/commands/answers.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/output.hpp"
#include "tools/commands/statistics.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

const calibrate::QualityRow* find_row(const calibrate::EvaluateSummary& summary,
                                      const std::string& what) {
  for (const auto& row : summary.rows)
    if (row.what == what) return &row;
  return nullptr;
}

/// Runs what the devices of the bundle's plan would, all in this process, on the CPU; nothing where
/// they do not share the teacher. Throws UsageError where an accelerator is asked for.
calibrate::RunTogether together(const std::string& folder, const std::string& accelerator) {
  const plan::Bundle bundle(folder);
  const plan::Plan plan = bundle.plan();
  if (!plan::is_shared(plan)) return {};
  if (accelerator != "none")
    throw UsageError("[--accelerator] saw " + accelerator + ", needs none: strategy " +
                     plan.strategy + " is evaluated by the programs of its devices, on the CPU");
  infer::EngineOptions options;
  options.warm_up = false;
  const std::shared_ptr<infer::Engine> engine = infer::local_engine(bundle, plan, options);
  return [plan, engine](const at::Tensor& given) {
    const at::Tensor inputs = given.contiguous();
    net::Value value;
    value.element = plan.teacher.is_text() ? base::Element::i32 : base::Element::u8;
    value.dims = inputs.sizes().vec();
    value.data = net::Buffer::copy_of(inputs.data_ptr(), inputs.nbytes());
    const bool every_token = plan.teacher.task == model::Task::causal_lm;
    const net::Value answer = every_token ? infer::run_every_token(*engine, plan, value)
                                          : infer::run_locally(*engine, plan, value);
    const std::vector<float> numbers = floats_of(answer);
    return at::tensor(numbers).view(answer.dims);
  };
}

int evaluate(const Args& args) {
  expect_output(args, "csv", OutputKind::table);
  const int threads = threads_of(args, all_threads());
  infer::set_threads(threads);
  model::DatasetSource source;
  source.path = args.text("data");
  source.format = args.text("data-format");
  source.split = args.text("split");
  source.limit = args.integer("limit");
  // What the bundle says of itself is about the whole test split.
  const bool whole = source.split == "test" && source.limit == 0;
  source.length = args.integer("length");
  source.lossy = args.flag("lossy");
  source.exif_rotation = args.flag("exif-rotation");
  source.stride = args.integer("stride");
  const bool bundle = plan::is_bundle(args.at(0));
  if (!bundle && args.has("teacher"))
    throw UsageError("[--teacher] saw " + args.at(0) +
                     ", a model folder; needs a bundle that was cut from the teacher");
  if (!bundle) say_notes(args.at(0));
  const calibrate::RunTogether run_together =
      bundle ? together(args.at(0), args.text("accelerator")) : calibrate::RunTogether();
  const at::Device compute_device = calibrate::device_of(args.text("accelerator"));
  calibrate::EvaluateSummary summary;
  {
    ProgressBar bar;
    summary = bundle ? calibrate::evaluate(args.at(0), args.text_or("teacher"), source,
                                           whole && !args.flag("dry-run"), bar.callback(),
                                           compute_device, threads, run_together)
                     : calibrate::evaluate_model(args.at(0), source, compute_device, threads);
  }
  const auto& measure = summary.measure;
  const double target = args.number("target");
  if (measure.more_is_better && target > 1)
    throw UsageError("[--target] saw " + format("%g", target) + ", needs 0..1, as the " +
                     std::string(measure.name) + " is");
  const auto* teacher = find_row(summary, "teacher");
  const auto* fused = find_row(summary, bundle ? "fused" : "model");
  if (fused == nullptr) fused = find_row(summary, "together");
  Table table({"what", std::string(measure.name),
               measure.more_is_better ? "against teacher" : "% above teacher"});
  nlohmann::json json{{"measure", measure.name},        {"size", summary.size},
                      {"shortened", summary.shortened}, {"split", summary.split},
                      {"data", summary.data.string()},  {"remarks", to_json(summary.remarks)},
                      {"rows", nlohmann::json::array()}};
  for (const auto& row : summary.rows) {
    table.row({row.what, to_text(measure, row.value),
               teacher == nullptr ? "–" : compared(measure, teacher->value, row.value)});
    json["rows"].push_back({{"what", row.what}, {"present", row.present}, {"value", row.value}});
  }
  if (bundle && !whole) std::fprintf(stderr, "not kept in the bundle: not the whole test split\n");
  say(summary.remarks);
  warn_of_shortened(summary.shortened, source.length);
  write_csv(args, table);
  if (args.json())
    std::printf("%s\n", json.dump(2, ' ', false, replace_invalid).c_str());
  else
    std::printf("%s\n%lld rows of the %s split (%s)\n", table.text().c_str(),
                static_cast<long long>(summary.size), summary.split.c_str(), summary.data.c_str());
  if (target <= 0 || fused == nullptr) return exit_done;
  const bool reached = measure.more_is_better ? fused->value >= target : fused->value <= target;
  return reached ? exit_done : exit_negative;
}

}  // namespace

Command evaluate_command() {
  return {"evaluate",
          "quality of a model, or of the teacher, each part, the fused whole and every subset",
          {{"BUNDLE", "bundle or model folder"}},
          {"data", "data-format", "split", "limit", "length", "stride", "lossy", "exif-rotation",
           "teacher", "target", "threads", "accelerator", "csv", "dry-run", "format", "verbose"},
          "cleave evaluate bundle/ --teacher teacher/ --data /usr/share/datasets/fashion-mnist",
          evaluate};
}

}  // namespace cleave::tools
