#include "calibrate/evaluate.hpp"

#include <cstdio>
#include <fstream>

#include <nlohmann/json.hpp>

#include "infer/engine.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/statistics.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

const calibrate::AccuracyRow* find_row(const calibrate::EvaluateSummary& summary,
                                       const std::string& what) {
  for (const auto& row : summary.rows)
    if (row.what == what) return &row;
  return nullptr;
}

int evaluate(const Args& args) {
  infer::set_threads(threads_of(args, all_threads()));
  model::DatasetSource source;
  source.path = args.text("data");
  source.format = args.text("data-format");
  source.split = args.text("split");
  source.limit = args.integer("limit");
  // What the bundle says of itself is about the whole test split.
  const bool whole = source.split == "test" && source.limit == 0;
  calibrate::EvaluateSummary summary;
  {
    ProgressBar bar;
    summary = calibrate::evaluate(args.at(0), args.text_or("teacher"), source,
                                  whole && !args.flag("dry-run"), bar.callback());
  }
  const auto* teacher = find_row(summary, "teacher");
  const auto* fused = find_row(summary, "fused");
  Table table({"what", "accuracy", "against teacher"});
  nlohmann::json json{{"images", summary.images}, {"rows", nlohmann::json::array()}};
  for (const auto& row : summary.rows) {
    table.row(
        {row.what, percent(row.accuracy),
         teacher == nullptr ? "–" : format("%+.2f", 100 * (row.accuracy - teacher->accuracy))});
    json["rows"].push_back(
        {{"what", row.what}, {"present", row.present}, {"accuracy", row.accuracy}});
  }
  if (!whole) std::fprintf(stderr, "not kept in the bundle: not the whole test split\n");
  write_csv(args, table);
  if (args.json())
    std::printf("%s\n", json.dump(2).c_str());
  else
    std::printf("%s\n%lld images of the %s split\n", table.text().c_str(),
                static_cast<long long>(summary.images), source.split.c_str());
  const double target = args.number("target");
  return target > 0 && fused != nullptr && fused->accuracy < target ? exit_negative : exit_done;
}

}  // namespace

Command evaluate_command() {
  return {"evaluate",
          "accuracy of the teacher, each part, the fused whole and every subset",
          {{"BUNDLE", "bundle folder"}},
          {"data", "data-format", "split", "limit", "teacher", "target", "threads", "csv",
           "dry-run", "format", "verbose"},
          "cleave evaluate bundle/ --teacher teacher/ --data /usr/share/datasets/fashion-mnist",
          evaluate};
}

}  // namespace cleave::tools
