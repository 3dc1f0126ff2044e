#include "optimizer/plan/plan.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>

#include <nlohmann/json.hpp>

#include "base/text.hpp"
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

/// Of those of the asked strategies that exchange them.
plan::Segments read_segments(const Args& args) {
  const auto strategies = args.list("strategy");
  const bool any = std::any_of(strategies.begin(), strategies.end(), [](const auto& strategy) {
    return strategy != "auto" && plan::find_strategy(strategy).has_segments;
  });
  for (const char* option : {"compression", "clusters"})
    if (args.given(option) && !any)
      throw UsageError(std::string("[--") + option + "] saw strategy '" + args.text("strategy") +
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

/// --shares, or nothing. Throws UsageError.
std::vector<double> shares_of(const Args& args) {
  std::vector<double> shares;
  if (!args.has("shares")) return shares;
  for (const std::string& word : args.list("shares")) {
    std::size_t used = 0;
    try {
      shares.push_back(std::stod(word, &used));
    } catch (const std::exception&) {
      used = word.size() + 1;
    }
    if (used != word.size())
      throw UsageError("[--shares] saw '" + word + "', needs numbers with commas between: 3,1,1");
  }
  return shares;
}

optimizer::PlanOptions options_of(const Args& args, const std::string& strategy,
                                  const model::ModelConfig& teacher) {
  optimizer::PlanOptions options;
  options.objective = optimizer::objective_named(args.text("objective"));
  options.strategy = strategy;
  options.shares = shares_of(args);
  options.segments = read_segments(args);
  options.limits.latency_s = args.seconds("latency-limit");
  options.limits.max_part_share = args.number("max-part-share");
  options.limits.min_width_share = args.number("min-width-share");
  options.limits.min_importance = args.number("min-importance");
  options.accuracy_weight = args.number("accuracy-weight");
  options.width_step = args.integer("width-step");
  options.wire = plan::wire_named(args.text("wire"));
  options.partition = args.flag("partition");
  options.shape.batch = args.integer("batch");
  read_tokens(args, teacher, options.shape);
  options.seed = static_cast<std::uint64_t>(args.integer("seed"));
  return options;
}

/// Nothing is searched: the shares of another model's plan, and what they bring here.
optimizer::PlanSummary take_shares(const Args& args, const model::ModelConfig& teacher,
                                   const plan::Fleet& fleet) {
  for (const char* option : {"strategy", "objective", "wire"})
    if (args.given(option))
      throw UsageError(std::string("[--") + option + "] saw --shares-of too, needs one of them");
  optimizer::PlanSummary summary;
  summary.plan = plan::transferred(plan::read_plan(args.text("shares-of")), teacher,
                                   args.integer("width-step"));
  optimizer::predict(summary.plan, fleet);
  const auto short_of =
      optimizer::shortfalls(summary.plan, fleet, options_of(args, args.text("strategy"), teacher));
  summary.termination =
      short_of.empty() ? optimizer::Termination::found : optimizer::Termination::infeasible;
  if (!short_of.empty()) summary.message = short_of.front().text;
  summary.evaluations = 1;
  return summary;
}

optimizer::PlanSummary search(const Args& args, const std::string& strategy,
                              const std::string& folder, const model::ModelConfig& teacher,
                              const plan::Fleet& fleet) {
  // Random weights say nothing about which unit is worth more.
  optimizer::ImportanceProfile importance;
  if (!teacher.random_weights)
    importance = decompose::summarise(decompose::weight_importance(folder));

  return optimizer::search(teacher, fleet, options_of(args, strategy, teacher), importance);
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

/// What became of one strategy.
struct Planned {
  std::string strategy;
  optimizer::PlanSummary summary;
  std::string refusal;  // why there is no plan, not even an infeasible one
  bool feasible() const {
    return refusal.empty() && summary.termination == optimizer::Termination::found;
  }
  /// Why it cannot be taken.
  const std::string& reason() const { return refusal.empty() ? summary.message : refusal; }
};

/// Each strategy for itself: one that cannot run the model says why.
std::vector<Planned> plan_each(const Args& args, const std::string& folder,
                               const model::ModelConfig& teacher, const plan::Fleet& fleet) {
  std::vector<Planned> all;
  const auto strategies = args.list("strategy");
  for (const std::string& strategy : strategies) {
    Planned planned;
    planned.strategy = strategy;
    if (args.has("shares-of")) {
      planned.summary = take_shares(args, teacher, fleet);
    } else {
      optimizer::check(options_of(args, strategy, teacher));  // no strategy's refusal
      try {
        planned.summary = search(args, strategy, folder, teacher, fleet);
      } catch (const std::invalid_argument& none) {
        planned.refusal = none.what();
      }
    }
    planned.summary.plan.name = strategies.size() == 1 ? args.text("name") : strategy;
    all.push_back(std::move(planned));
  }
  return all;
}

void check(const Args& args, const plan::Fleet& fleet) {
  if (args.has("into") && args.has("out"))
    throw UsageError("[--into] saw --out too, needs one of them");
  if (!plan::is_name(args.text("name")))
    throw UsageError("[--name] saw " + plan::shown(args.text("name")) + ", needs " +
                     std::string(plan::name_needs));
  if (args.text("objective") == "memory" && args.number("min-importance") <= 0)
    throw UsageError("[--objective] saw memory, needs --min-importance above 0 with it");
  const auto strategies = args.list("strategy");
  if (strategies.size() > 1) {
    if (args.given("name"))
      throw UsageError("[--name] saw several strategies, after which their plans are named");
    if (std::set(strategies.begin(), strategies.end()).size() < strategies.size())
      throw UsageError("[--strategy] saw one twice, needs each once");
    if (std::find(strategies.begin(), strategies.end(), "auto") != strategies.end())
      throw UsageError("[--strategy] saw 'auto' among several, needs it alone");
  }
  if (!args.has("shares")) return;
  if (args.has("shares-of")) throw UsageError("[--shares] saw --shares-of too, needs one of them");
  from_options([&] {
    optimizer::check_shares(shares_of(args), fleet);
    return 0;
  });
  std::vector<std::string> dividing;
  for (const plan::Strategy& strategy : plan::strategies())
    if (strategy.divide != nullptr || strategy.divisions != nullptr)
      dividing.emplace_back(strategy.name);
  const bool any = std::any_of(strategies.begin(), strategies.end(), [&](const auto& strategy) {
    return std::find(dividing.begin(), dividing.end(), strategy) != dividing.end();
  });
  if (!any)
    throw UsageError("[--shares] saw strategy " + args.text("strategy") +
                     ", which leaves no shares to choose; needs one of " + base::joined(dividing));
}

/// A plan for each of several strategies goes into a folder.
std::string path_of(const Args& args, const Planned& planned) {
  if (args.list("strategy").size() == 1) return args.text("out");
  return (std::filesystem::path(args.text("out")) / (planned.strategy + ".json")).string();
}

void expect_outputs(const Args& args) {
  const auto strategies = args.list("strategy");
  if (!args.has("out")) return;
  const bool is_folder = std::filesystem::is_directory(args.text("out"));
  if (strategies.size() == 1) return expect_output(args, "out", OutputKind::plan);
  if (!is_folder && std::filesystem::exists(args.text("out")))
    throw UsageError("[--out] saw " + args.text("out") +
                     ", a file; needs a folder, where each strategy's plan gets a file");
  for (const std::string& strategy : strategies) {
    Planned planned;
    planned.strategy = strategy;
    expect_output(path_of(args, planned), "out", OutputKind::plan);
  }
}

void write(const Args& args, const Planned& planned, const std::string& folder) {
  if (args.has("into")) return write_into(args.text("into"), planned.summary.plan, folder);
  const std::filesystem::path path = path_of(args, planned);
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
  plan::write_plan(planned.summary.plan, path);
}

nlohmann::json to_json(const Planned& planned) {
  auto json = plan::to_json(planned.summary.plan);
  json["feasible"] = planned.feasible();
  json["message"] = planned.summary.message;
  json["search"] = {{"evaluations", planned.summary.evaluations},
                    {"seconds", planned.summary.seconds}};
  return json;
}

void print_json(const std::vector<Planned>& all) {
  nlohmann::json json = {{"plans", nlohmann::json::array()}, {"refused", nlohmann::json::array()}};
  for (const Planned& planned : all) {
    if (planned.refusal.empty())
      json["plans"].push_back(to_json(planned));
    else
      json["refused"].push_back({{"strategy", planned.strategy}, {"why", planned.refusal}});
  }
  const bool one = all.size() == 1 && all.front().refusal.empty();
  std::printf("%s\n", (one ? to_json(all.front()) : json).dump(2).c_str());
}

/// Of one.
void print_text(const Planned& planned, const std::string& where, bool written) {
  const auto& [strategy, summary, refusal] = planned;
  if (!planned.feasible())
    std::printf("no plan meets every limit; %s\nthe nearest one:\n\n", summary.message.c_str());
  std::printf("%s", describe(summary.plan).c_str());
  std::printf("\n%d plans priced in %s\n", summary.evaluations,
              base::format_seconds(summary.seconds).c_str());
  if (!where.empty())
    std::printf("%s %s\n",
                written              ? "wrote"
                : planned.feasible() ? "would write"
                                     : "did not write",
                where.c_str());
}

/// Of several, side by side.
void print_text(const Args& args, const std::vector<Planned>& all, bool written) {
  Table table({"plan", "devices", "latency (predicted)", "sent", "largest memory", "bottleneck"});
  std::vector<std::string> paths;
  for (const Planned& planned : all) {
    const plan::Plan& plan = planned.summary.plan;
    if (!planned.feasible()) {
      table.row({planned.strategy, "none", "–", "–", "–", "–"});
      continue;
    }
    double sent_bytes = 0, memory_bytes = 0;
    for (const auto& device : plan.prediction.devices) {
      sent_bytes += device.sent_bytes;
      memory_bytes = std::max(memory_bytes, device.runtime_bytes + device.model_bytes);
    }
    table.row({planned.strategy, base::joined(plan::devices_of(plan)),
               base::format_seconds(plan.prediction.latency_s), base::format_bytes(sent_bytes),
               base::format_bytes(memory_bytes), plan.prediction.bottleneck});
    if (args.has("out")) paths.push_back(path_of(args, planned));
  }
  std::printf("%s", table.text().c_str());
  for (const Planned& planned : all)
    if (!planned.feasible())
      std::printf("no plan with %s: %s\n", planned.strategy.c_str(), planned.reason().c_str());
  if (args.has("into"))
    std::printf("%s %s\n", written ? "wrote into" : "would write into", args.text("into").c_str());
  if (paths.empty()) return;
  std::printf("%s %s", written ? "wrote" : "would write", base::joined(paths).c_str());
  std::printf("; one bundle of all of them:\n  cleave decompose %s --plan %s --out BUNDLE\n",
              args.at(0).c_str(), base::joined(paths, ",").c_str());
}

int plan(const Args& args) {
  const std::string folder = args.at(0);
  const auto fleet = plan::read_fleet(args.text("fleet"));
  check(args, fleet);
  expect_outputs(args);
  say_notes(folder);
  const auto teacher = model::read_config(folder);
  const auto all = plan_each(args, folder, teacher, fleet);
  const bool any = std::any_of(all.begin(), all.end(),
                               [](const Planned& planned) { return planned.feasible(); });
  const std::string where = args.has("out") ? args.text("out") : args.text_or("into");
  const bool writes = any && !where.empty() && !args.flag("dry-run");
  for (const Planned& planned : all)
    if (writes && planned.feasible()) write(args, planned, folder);

  if (args.json())
    print_json(all);
  else if (all.size() == 1 && all.front().refusal.empty())
    print_text(all.front(), where, writes);
  else
    print_text(args, all, writes);
  return any ? exit_done : exit_negative;
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
           "wire",
           "shares",
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
