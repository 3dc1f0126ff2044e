#include "optimizer/plan/plan.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "decompose/importance.hpp"
#include "model/config/hugging_face.hpp"
#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/names.hpp"
#include "optimizer/plan/program.hpp"
#include "optimizer/plan/transfer.hpp"
#include "optimizer/plan/weights.hpp"
#include "optimizer/pricer.hpp"
#include "optimizer/search.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/output.hpp"
#include "tools/commands/show.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

/// What is planned for a text: a request of --tokens, or a step behind them.
void read_tokens(const Args& args, const model::ModelConfig& teacher, plan::RequestShape& shape) {
  if (!teacher.is_text()) return;
  shape.tokens = args.integer("tokens");
  if (!args.given("tokens")) shape.tokens = std::min(shape.tokens, teacher.usual_length());
  shape.generate = args.integer("generate");
  if (shape.generate > 0 && !teacher.causal)
    throw UsageError("[--generate] saw a model that does not generate");
  if (shape.tokens + shape.generate > teacher.context)
    throw UsageError("[--tokens] saw " + std::to_string(shape.tokens + shape.generate) +
                     " tokens in all, needs at most " + std::to_string(teacher.context) + ", " +
                     teacher.context_name());
}

/// Of strategies that exchange them.
plan::Segments read_segments(const Args& args) {
  const std::string strategy = args.text("strategy");
  const bool known = strategy != "auto" && plan::find_strategy(strategy).has_segments;
  for (const char* option : {"compression", "clusters"})
    if (args.given(option) && !known)
      throw UsageError(std::string("[--") + option + "] saw strategy '" + strategy +
                       "', needs one that exchanges segments (prism)");
  const double hundredths = 100 * args.number("compression");
  if (std::abs(hundredths - std::round(hundredths)) > 1e-6)
    throw UsageError("[--compression] saw " + args.text("compression") +
                     ", needs a number of two decimals");
  plan::Segments segments;
  segments.compression = {std::llround(hundredths)};
  if (args.flag("clusters")) segments.content = plan::Segments::Content::clusters;
  return segments;
}

optimizer::PlanOptions options_of(const Args& args, const model::ModelConfig& teacher) {
  optimizer::PlanOptions options;
  options.objective = optimizer::objective_named(args.text("objective"));
  options.strategy = args.text("strategy");
  options.segments = read_segments(args);
  options.limits.latency_s = args.seconds("latency-limit");
  options.limits.max_part_share = args.number("max-part-share");
  options.limits.min_width_share = args.number("min-width-share");
  options.limits.min_importance = args.number("min-importance");
  options.accuracy_weight = args.number("accuracy-weight");
  options.width_step = args.integer("width-step");
  options.partition = args.flag("partition");
  options.shape.batch = args.integer("batch");
  read_tokens(args, teacher, options.shape);
  options.seed = static_cast<std::uint64_t>(args.integer("seed"));
  return options;
}

/// Nothing is searched: the shares of another model's plan, and what they bring here.
optimizer::PlanSummary take_shares(const Args& args, const model::ModelConfig& teacher,
                                   const plan::Fleet& fleet) {
  for (const char* option : {"strategy", "objective"})
    if (args.given(option))
      throw UsageError(std::string("[--") + option + "] saw --shares-of too, needs one of them");
  optimizer::PlanSummary summary;
  summary.plan = plan::transferred(plan::read_plan(args.text("shares-of")), teacher,
                                   args.integer("width-step"));
  optimizer::predict(summary.plan, fleet);
  const auto short_of = optimizer::shortfalls(summary.plan, fleet, options_of(args, teacher));
  summary.termination =
      short_of.empty() ? optimizer::Termination::found : optimizer::Termination::infeasible;
  if (!short_of.empty()) summary.message = short_of.front().text;
  summary.evaluations = 1;
  return summary;
}

optimizer::PlanSummary search(const Args& args, const std::string& folder,
                              const model::ModelConfig& teacher, const plan::Fleet& fleet) {
  // Random weights say nothing about which unit is worth more.
  optimizer::ImportanceProfile importance;
  if (!teacher.random_weights)
    importance = decompose::summarise(decompose::weight_importance(folder));

  return optimizer::search(teacher, fleet, options_of(args, teacher), importance);
}

/// Throws std::invalid_argument where a device does not hold what the plan needs.
void write_into(const std::string& folder, plan::Plan plan, const std::string& teacher) {
  const plan::Bundle bundle(folder);
  plan::expect_teacher(bundle, teacher);
  plan.teacher = bundle.plan().teacher;
  plan.teacher_digest = bundle.manifest().teacher_digest;
  const auto known = bundle.manifest().plans();
  if (std::find(known.begin(), known.end(), plan.name) != known.end() &&
      plan::is_shared(bundle.plan(plan.name)) != plan::is_shared(plan))
    throw std::invalid_argument("[--name] saw '" + plan.name +
                                "', a plan of the bundle of another kind; needs another name");
  for (const plan::PlanPart& part : plan.parts) plan::expect_held(bundle, plan, part.device);
  plan::add_plan(folder, plan);
}

int plan(const Args& args) {
  if (args.has("into") && args.has("out"))
    throw UsageError("[--into] saw --out too, needs one of them");
  if (!plan::is_name(args.text("name")))
    throw UsageError("[--name] saw " + plan::shown(args.text("name")) + ", needs " +
                     std::string(plan::name_needs));
  if (args.text("objective") == "memory" && args.number("min-importance") <= 0)
    throw UsageError("[--objective] saw memory, needs --min-importance above 0 with it");
  expect_output(args, "out", OutputKind::plan);
  const std::string folder = args.at(0);
  say_notes(folder);
  const auto teacher = model::read_config(folder);
  const auto fleet = plan::read_fleet(args.text("fleet"));
  auto summary = args.has("shares-of") ? take_shares(args, teacher, fleet)
                                       : search(args, folder, teacher, fleet);
  summary.plan.name = args.text("name");
  const bool feasible = summary.termination == optimizer::Termination::found;
  const std::string where = args.has("out") ? args.text("out") : args.text_or("into");
  const bool write = feasible && !where.empty() && !args.flag("dry-run");
  if (write && args.has("into"))
    write_into(args.text("into"), summary.plan, folder);
  else if (write)
    plan::write_plan(summary.plan, where);

  if (args.json()) {
    auto json = plan::to_json(summary.plan);
    json["feasible"] = feasible;
    json["message"] = summary.message;
    json["search"] = {{"evaluations", summary.evaluations}, {"seconds", summary.seconds}};
    std::printf("%s\n", json.dump(2).c_str());
  } else {
    if (!feasible)
      std::printf("no plan meets every limit; %s\nthe nearest one:\n\n", summary.message.c_str());
    std::printf("%s", describe(summary.plan).c_str());
    std::printf("\n%d plans priced in %s\n", summary.evaluations,
                base::format_seconds(summary.seconds).c_str());
    if (!where.empty())
      std::printf("%s %s\n",
                  write      ? "wrote"
                  : feasible ? "would write"
                             : "did not write",
                  where.c_str());
  }
  return feasible ? exit_done : exit_negative;
}

}  // namespace

Command plan_command() {
  return {"plan",
          "choose a strategy and each device's share, and predict what it brings",
          {{"MODEL", "model folder"}},
          {"fleet",
           "out",
           "into",
           "name",
           "objective",
           "strategy",
           "compression",
           "clusters",
           "latency-limit",
           "max-part-share",
           "min-width-share",
           "min-importance",
           "accuracy-weight",
           "shares-of",
           "width-step",
           "partition",
           "batch",
           "tokens",
           "generate",
           "seed",
           "dry-run",
           "format",
           "verbose"},
          "cleave plan teacher/ --fleet fleet.toml --out plan.json",
          plan};
}

}  // namespace cleave::tools
