#include "optimizer/search.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "base/text.hpp"
#include "base/units.hpp"
#include "optimizer/decomposed/climb.hpp"
#include "optimizer/decomposed/space.hpp"
#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/weights.hpp"
#include "optimizer/pricer.hpp"
#include "optimizer/shares.hpp"

namespace cleave::optimizer {
namespace {

constexpr std::array<std::string_view, 3> objective_names = {"latency", "accuracy", "memory"};

using Clock = std::chrono::steady_clock;
using Team = std::vector<std::size_t>;

[[noreturn]] void refuse(const std::string& field, const std::string& saw,
                         const std::string& needs) {
  throw std::invalid_argument("[plan] " + field + ": saw " + saw + ", needs " + needs);
}

std::string text(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

void expect_at_least(const std::string& field, double value, double least) {
  if (!(value >= least) || !std::isfinite(value))
    refuse(field, text(value), "a number from " + text(least));
}

std::vector<std::string_view> sharing_strategies() {
  std::vector<std::string_view> names;
  for (const plan::Strategy& strategy : plan::strategies())
    if (strategy.parts == plan::PartKind::share) names.push_back(strategy.name);
  return names;
}

/// A whole plan with its prediction and what it is worth.
struct Considered {
  plan::Plan plan;
  Price price;
  std::vector<Shortfall> shortfalls;
  bool feasible() const { return shortfalls.empty(); }
};

bool better(const Considered& a, const Considered& b) {
  if (a.feasible() != b.feasible()) return a.feasible();
  return optimizer::better(a.price, b.price);
}

/// For reading: what each part has of the teacher's parameters and multiply-adds.
void fill_in_portions(plan::Plan& plan) {
  const double parameters = static_cast<double>(model::count_parameters(plan.teacher));
  double whole = 0;
  for (const plan::Kernel& kernel :
       plan::kernels_of_model(plan.teacher, plan::planned_load(plan.shape), true))
    whole += kernel.flops();
  const auto programs = plan::compile(plan, plan.shape);
  const std::int64_t past = plan::planned_load(plan.shape).past;
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    double held = 0;
    for (const model::ParameterRange& weights : plan::holding_of({plan}, plan.parts[p].device))
      held += static_cast<double>(model::count_of(weights, plan.teacher));
    plan.parts[p].parameter_share = held / parameters;
    plan.parts[p].compute_share = plan::flops_of(programs[p], plan, past) / whole;
  }
}

Team without(Team team, std::size_t member) {
  team.erase(team.begin() + static_cast<std::ptrdiff_t>(member));
  return team;
}

/// How the best shares of a team are found.
using Optimiser = std::function<Outcome(Pricer&)>;

class Planner {
 public:
  Planner(const model::ModelConfig& teacher, const plan::Fleet& fleet, const PlanOptions& options,
          const ImportanceProfile& importance)
      : options_(options), space_(teacher, fleet, options, importance) {}

  const Space& space() const { return space_; }

  void consider_local() {
    for (std::size_t device = 0; device < fleet().devices.size(); ++device) {
      if (!fleet().devices[device].agent) continue;
      Considered local;
      local.plan = local_plan(device);
      finish(local);
      const std::string what = local.plan.strategy + " on " + fleet().devices[device].name;
      add(std::move(local), what);
    }
  }

  /// Adds the best plan of a team; returns its number.
  std::size_t consider_team(const Team& team, const Optimiser& optimise) {
    Pricer pricer(space_, options_, team);
    const Outcome outcome = optimise(pricer);
    evaluations_ += pricer.evaluations();
    Considered decomposed;
    decomposed.plan = pricer.plan(outcome.shares);
    finish(decomposed);
    const std::string what =
        decomposed.plan.strategy + " on " + base::joined(plan::devices_of(decomposed.plan));
    return add(std::move(decomposed), what);
  }
  bool is_better(std::size_t a, std::size_t b) const {
    return better(considered_[a].candidate, considered_[b].candidate);
  }

  /// Exact shares for all devices; then without the device whose loss makes the plan best, as long
  /// as that makes it better. Throws std::invalid_argument where the strategy has none for any
  /// number.
  void consider_shares(const plan::Strategy& strategy) {
    if (!options_.shares.empty()) return consider_shares_by_hand(strategy);
    Team team;
    for (std::size_t device = 0; device < fleet().devices.size(); ++device)
      if (fleet().devices[device].agent) team.push_back(device);
    std::stable_sort(team.begin(), team.end(),
                     [&](std::size_t a, std::size_t b) { return speed(a) > speed(b); });
    // One device alone is `local`, which was not asked for.
    const std::size_t smallest_team = std::min<std::size_t>(2, team.size());
    std::string why;
    std::optional<std::size_t> best;
    while (true) {
      std::optional<std::size_t> added;
      try {
        added = consider_shares(strategy, team);
      } catch (const std::invalid_argument& none) {
        if (why.empty()) why = none.what();
      }
      const bool worse = best && added && !is_better(*added, *best);
      if (added && !worse) best = added;
      if (worse || team.size() <= smallest_team) break;
      team = without_the_least(strategy, team);
    }
    if (considered_.empty()) throw std::invalid_argument(why);
  }

  /// Devices that can hold the smallest part; the others become candidates with the reason.
  Team able_devices() {
    Team able;
    for (std::size_t device = 0; device < fleet().devices.size(); ++device) {
      if (!fleet().devices[device].agent) continue;
      Considered alone;
      Pricer pricer(space_, options_, {device});
      alone.plan = pricer.plan({space_.smallest()});
      finish(alone);
      const auto own = [&](const Shortfall& shortfall) {
        return shortfall.process == fleet().devices[device].name;
      };
      const auto reason = std::find_if(alone.shortfalls.begin(), alone.shortfalls.end(), own);
      if (reason == alone.shortfalls.end())
        able.push_back(device);
      else
        add(std::move(alone), "smallest part on " + fleet().devices[device].name);
    }
    return able;
  }

  bool any_feasible() const {
    return std::any_of(considered_.begin(), considered_.end(),
                       [](const Named& c) { return c.candidate.feasible(); });
  }
  const Considered& best() const {
    return std::min_element(
               considered_.begin(), considered_.end(),
               [](const Named& a, const Named& b) { return better(a.candidate, b.candidate); })
        ->candidate;
  }

  PlanSummary take() const {
    const Considered& chosen = best();
    PlanSummary summary;
    summary.plan = chosen.plan;
    summary.evaluations = evaluations_;
    if (!chosen.feasible()) {
      summary.termination = Termination::infeasible;
      summary.message = chosen.shortfalls.front().text;
    }
    for (const Named& loser : considered_)
      if (&loser.candidate != &chosen)
        summary.plan.candidates.push_back({loser.what, loser.candidate.plan.prediction.latency_s,
                                           reason(loser.candidate, chosen)});
    plan::check(summary.plan);
    return summary;
  }

 private:
  struct Named {
    std::string what;
    Considered candidate;
  };

  const plan::Fleet& fleet() const { return space_.fleet(); }

  plan::Plan local_plan(std::size_t device) const {
    plan::Plan plan;
    plan.strategy = plan::strategy_of(plan::PartKind::teacher).name;
    plan.teacher = space_.teacher();
    plan.shape = options_.shape;
    plan.aggregator = fleet().devices[fleet().aggregator()].name;
    plan.seed = options_.seed;
    plan.parts = {space_.part(device, space_.largest())};
    plan.prediction.kept_importance = 1;
    predict(plan, fleet());
    return plan;
  }

  /// How often a second the device computes the teacher.
  double speed(std::size_t device) const {
    return 1 / fleet().devices[device].seconds(plan::kernels_of_model(
                   space_.teacher(), plan::planned_load(options_.shape), false));
  }

  void consider_shares_by_hand(const plan::Strategy& strategy) {
    constexpr double grain = 1e6;
    if (strategy.divide == nullptr && strategy.divisions == nullptr)
      refuse("shares", "some",
             "none: the strategy '" + std::string(strategy.name) + "' leaves no shares to choose");
    const double all = std::accumulate(options_.shares.begin(), options_.shares.end(), 0.0);
    Team team;
    std::vector<std::int64_t> weights;
    std::size_t agent = 0;
    for (std::size_t device = 0; device < fleet().devices.size(); ++device) {
      if (!fleet().devices[device].agent) continue;
      const double share = options_.shares[agent++] / all;
      if (share <= 0) continue;
      team.push_back(device);
      weights.push_back(std::max<std::int64_t>(1, std::llround(grain * share)));
    }
    ShareSearch search = share_search(strategy, team);
    Considered candidate;
    candidate.plan = search.by_weight(weights);
    evaluations_ += search.evaluations();
    add_exact(std::move(candidate));
  }

  /// The fastest first; but where devices see each other's rows as segments the last one sees all
  /// of a causal model's text, and continues it alone.
  Team in_order(const plan::Strategy& strategy, Team team) const {
    if (strategy.has_segments && space_.teacher().causal) std::reverse(team.begin(), team.end());
    return team;
  }

  ShareSearch share_search(const plan::Strategy& strategy, const Team& team) const {
    plan::Plan wanted;
    wanted.teacher = space_.teacher();
    wanted.shape = options_.shape;
    wanted.aggregator = fleet().devices[fleet().aggregator()].name;
    wanted.seed = options_.seed;
    wanted.wire = options_.wire;
    if (strategy.has_segments) wanted.segments = options_.segments;
    std::vector<plan::Capacity> capacities;
    for (const std::size_t device : team) {
      const plan::Device& given = fleet().devices[device];
      capacities.push_back(
          {speed(device),
           std::max(1.0, given.memory_bytes - given.profile.runtime_bytes - plan::serving_bytes)});
    }
    return ShareSearch(std::move(wanted), strategy, fleet(), team, std::move(capacities));
  }

  /// Adds the best shares of a team; returns their number.
  std::size_t consider_shares(const plan::Strategy& strategy, const Team& team) {
    ShareSearch search = share_search(strategy, in_order(strategy, team));
    // Room is for weights and for computing: what computing takes is known of whole plans.
    constexpr int repairs = 6;
    Considered candidate;
    candidate.plan = search.start();
    for (int round = 0;; ++round) {
      predict(candidate.plan, fleet());
      bool fits = true;
      std::vector<double> rooms;
      for (std::size_t p = 0; p < team.size(); ++p) {
        const plan::DevicePrediction& device = candidate.plan.prediction.devices[p];
        const double over = device.runtime_bytes + device.model_bytes - device.limit_bytes;
        fits = fits && over <= 0;
        if (round == 0 && strategy.divisions != nullptr)
          rooms.push_back(search.weight_bytes(p) - over);
        else
          rooms.push_back(search.room(p) - std::max(0.0, over));
      }
      search.set_rooms(rooms);
      if (round > 0 && (fits || round > repairs)) break;
      candidate.plan = search.improve();
    }
    evaluations_ += search.evaluations();
    return add_exact(std::move(candidate));
  }

  std::size_t add_exact(Considered candidate) {
    candidate.plan.prediction.kept_importance = 1;
    predict(candidate.plan, fleet());
    fill_in_portions(candidate.plan);
    finish(candidate);
    const std::string what =
        candidate.plan.strategy + " on " + base::joined(plan::devices_of(candidate.plan));
    return add(std::move(candidate), what);
  }

  /// The team without the device whose loss leaves the best start; of those that leave none, or the
  /// same, the slowest.
  Team without_the_least(const plan::Strategy& strategy, const Team& team) {
    std::size_t least = team.size() - 1;
    std::optional<std::pair<double, double>> best;
    for (std::size_t member = team.size(); member-- > 0;) {
      try {
        ShareSearch rest = share_search(strategy, in_order(strategy, without(team, member)));
        rest.start();
        evaluations_ += rest.evaluations();
        const std::pair worth(rest.violation(), rest.latency_s());
        if (best && !(worth < *best)) continue;
        best = worth;
        least = member;
      } catch (const std::invalid_argument&) {
        continue;  // too many still
      }
    }
    return without(team, least);
  }

  void finish(Considered& candidate) const {
    candidate.shortfalls = shortfalls(candidate.plan, fleet(), options_);
    candidate.price =
        judge(candidate.plan.prediction.latency_s, candidate.plan.prediction.kept_importance,
              options_, space_.teacher_s());
    candidate.price.violation = 0;
    for (const Shortfall& shortfall : candidate.shortfalls)
      candidate.price.violation += shortfall.relative;
  }

  std::size_t add(Considered candidate, std::string what) {
    considered_.push_back({std::move(what), std::move(candidate)});
    return considered_.size() - 1;
  }

  std::string reason(const Considered& loser, const Considered& chosen) const {
    if (!loser.feasible()) return loser.shortfalls.front().text;
    const double kept = loser.plan.prediction.kept_importance,
                 chosen_kept = chosen.plan.prediction.kept_importance;
    const auto points = std::lround(100 * (kept - chosen_kept));
    const std::string times = base::format_seconds(loser.price.latency_s) + " against " +
                              base::format_seconds(chosen.price.latency_s);
    const std::string keeps = points == 0 ? "the same importance kept"
                              : points > 0
                                  ? std::to_string(points) + " points more importance kept"
                                  : std::to_string(-points) + " points less importance kept";
    return times + ", " + keeps + ": worth less";
  }

  const PlanOptions options_;
  Space space_;
  std::vector<Named> considered_;
  int evaluations_ = 0;
};

/// The whole team; then drops the device whose loss makes the plan best, as long as that makes it
/// better and there is time.
void consider_shrinking_teams(Planner& planner, Team team, std::size_t smallest_team,
                              const Budget& budget, const Optimiser& optimise) {
  std::size_t best = planner.consider_team(team, optimise);
  bool found = true;
  while (found && team.size() > smallest_team) {
    found = false;
    Team best_team;
    for (std::size_t member = 0; member < team.size() && Clock::now() < budget.until; ++member) {
      const std::size_t rest = planner.consider_team(without(team, member), optimise);
      if (!planner.is_better(rest, best)) continue;
      best = rest;
      best_team = without(team, member);
      found = true;
    }
    if (found) team = best_team;
  }
}

void consider_all_teams(Planner& planner, const Team& able, std::size_t smallest_team,
                        const Optimiser& optimise) {
  for (std::size_t chosen = 1; chosen < (std::size_t{1} << able.size()); ++chosen) {
    Team team;
    for (std::size_t i = 0; i < able.size(); ++i)
      if ((chosen >> i) & 1u) team.push_back(able[i]);
    if (team.size() >= smallest_team) planner.consider_team(team, optimise);
  }
}

/// Every combination of shares.
Outcome enumerate(const Space& space, Pricer& pricer) {
  constexpr double most_plans = 3e6;
  const std::size_t num_digits = pricer.team().size() * num_axes;
  double num_plans = 1;
  for (std::size_t digit = 0; digit < num_digits; ++digit) {
    const std::size_t axis = digit % num_axes;
    num_plans *= space.largest()[axis] - space.smallest()[axis] + 1;
  }
  if (num_plans > most_plans)
    throw std::invalid_argument("[search_exhaustively] plans: saw " +
                                base::format_count(num_plans) + ", needs at most " +
                                base::format_count(most_plans));
  std::vector<Share> shares(pricer.team().size(), space.smallest());
  Outcome best{pricer.team(), shares, pricer.price(shares)};
  for (bool done = false; !done;) {
    const Price price = pricer.price(shares);
    if (better(price, best.price)) best = {pricer.team(), shares, price};
    std::size_t digit = 0;
    for (; digit < num_digits; ++digit) {  // counts up by one
      auto& steps = shares[digit / num_axes][digit % num_axes];
      if (++steps <= space.largest()[digit % num_axes]) break;
      steps = space.smallest()[digit % num_axes];
    }
    done = digit == num_digits;
  }
  return best;
}

using ConsiderTeams = std::function<void(Planner&, const Team&, std::size_t smallest_team)>;

PlanSummary plan_with(const model::ModelConfig& teacher, const plan::Fleet& fleet,
                      const PlanOptions& options, const ImportanceProfile& importance,
                      const ConsiderTeams& consider) {
  const auto start = Clock::now();
  check(options);
  teacher.check();
  if (fleet.devices.empty()) refuse("fleet.devices", "none", "at least one");

  Planner planner(teacher, fleet, options, importance);
  const plan::Strategy* forced =
      options.strategy == "auto" ? nullptr : &plan::find_strategy(options.strategy);
  const auto is_forced = [forced](plan::PartKind parts) {
    return forced != nullptr && forced->parts == parts;
  };
  if (!options.shares.empty()) {
    check_shares(options.shares, fleet);
    if (!is_forced(plan::PartKind::share))
      refuse("shares", "some",
             "none: the strategy '" + options.strategy + "' leaves no shares to choose");
  }
  if (is_forced(plan::PartKind::share)) {
    planner.consider_shares(*forced);
    PlanSummary exact = planner.take();
    exact.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return exact;
  }
  if (!is_forced(plan::PartKind::sub_model)) planner.consider_local();
  if (!is_forced(plan::PartKind::teacher)) {
    // One cut model alone is no team: only where nothing else is left, or where it is asked for.
    const bool alone_counts = is_forced(plan::PartKind::sub_model) || !planner.any_feasible();
    const std::size_t smallest_team = alone_counts ? 1 : 2;
    const Team able = planner.able_devices();
    if (able.size() >= smallest_team) consider(planner, able, smallest_team);
  }
  PlanSummary summary = planner.take();
  summary.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return summary;
}

/// The fleet, where each device gives to the model `share` of what it has for it.
plan::Fleet with_less_memory(plan::Fleet fleet, double share) {
  for (plan::Device& device : fleet.devices) {
    const double room = device.memory_bytes - device.profile.runtime_bytes;
    if (room > 0) device.memory_bytes = device.profile.runtime_bytes + share * room;
  }
  return fleet;
}

using Search = std::function<PlanSummary(const plan::Fleet&, const PlanOptions&)>;

/// Bisects (the logarithm of) the share of its room that every device gives, down to the least with
/// which some plan still keeps the other limits.
PlanSummary least_memory(const plan::Fleet& fleet, PlanOptions options, const Search& search) {
  constexpr int halvings = 10;
  check(options);
  options.objective = Objective::accuracy;
  options.max_time_s /= halvings + 1;
  PlanSummary best = search(fleet, options);
  const auto losers = best.plan.candidates;  // against what the devices really give
  int evaluations = best.evaluations;
  double seconds = best.seconds, enough = 1, too_little = 1e-3;
  for (int i = 0; i < halvings && best.termination == Termination::found; ++i) {
    const double share = std::sqrt(enough * too_little);
    PlanSummary found = search(with_less_memory(fleet, share), options);
    evaluations += found.evaluations;
    seconds += found.seconds;
    if (found.termination != Termination::found) {
      too_little = share;
      continue;
    }
    enough = share;
    best = std::move(found);
  }
  best.plan.candidates = losers;
  predict(best.plan, fleet);
  best.evaluations = evaluations;
  best.seconds = seconds;
  return best;
}

}  // namespace

void check(const PlanOptions& options) {
  if (options.objective == Objective::memory && !(options.limits.min_importance > 0))
    refuse("limits.min_importance", text(options.limits.min_importance),
           "a number above 0 where memory is the objective");
  if (options.strategy != "auto") plan::find_strategy(options.strategy);
  const auto sharing = sharing_strategies();
  if (options.wire != base::Element::f32 &&
      std::find(sharing.begin(), sharing.end(), options.strategy) == sharing.end())
    refuse(
        "wire",
        std::string(base::name_of(options.wire)) + " and the strategy '" + options.strategy + "'",
        "a strategy whose devices exchange values: " + base::joined(sharing));
  expect_at_least("limits.latency_s", options.limits.latency_s, 0);
  expect_at_least("limits.max_part_share", options.limits.max_part_share, 0);
  expect_at_least("limits.min_importance", options.limits.min_importance, 0);
  expect_at_least("limits.min_width_share", options.limits.min_width_share, 0);
  if (options.limits.min_width_share > 1)
    refuse("limits.min_width_share", text(options.limits.min_width_share), "at most 1");
  expect_at_least("accuracy_weight", options.accuracy_weight, 0);
  expect_at_least("width_step", static_cast<double>(options.width_step), 1);
  expect_at_least("max_evaluations", options.max_evaluations, 1);
  expect_at_least("max_time_s", options.max_time_s, 0);
}

std::string_view name_of(Objective objective) {
  return objective_names[static_cast<std::size_t>(objective)];
}

Objective objective_named(std::string_view name) {
  const auto* found = std::find(objective_names.begin(), objective_names.end(), name);
  if (found == objective_names.end())
    refuse("objective", "'" + std::string(name) + "'", "one of latency, accuracy, memory");
  return static_cast<Objective>(found - objective_names.begin());
}

void check_shares(const std::vector<double>& shares, const plan::Fleet& fleet) {
  std::vector<std::string> agents;
  for (const plan::Device& device : fleet.devices)
    if (device.agent) agents.push_back(device.name);
  if (shares.size() != agents.size())
    refuse("shares", std::to_string(shares.size()) + " numbers",
           std::to_string(agents.size()) +
               ", one for each agent of the fleet: " + base::joined(agents));
  for (const double share : shares)
    if (!(share >= 0) || !std::isfinite(share)) refuse("shares", text(share), "numbers from 0 on");
  if (!(std::accumulate(shares.begin(), shares.end(), 0.0) > 0))
    refuse("shares", "no number above 0", "one at least");
}

PlanSummary search(const model::ModelConfig& teacher, const plan::Fleet& fleet,
                   const PlanOptions& options, const ImportanceProfile& importance) {
  if (options.objective == Objective::memory)
    return least_memory(fleet, options, [&](const plan::Fleet& less, const PlanOptions& wanted) {
      return search(teacher, less, wanted, importance);
    });
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(options.max_time_s));
  return plan_with(teacher, fleet, options, importance,
                   [&](Planner& planner, const Team& able, std::size_t smallest_team) {
                     const Budget budget{options.max_evaluations, until};
                     consider_shrinking_teams(
                         planner, able, smallest_team, budget, [&](Pricer& pricer) {
                           return optimise_team(planner.space(), options, pricer, budget);
                         });
                   });
}

PlanSummary search_exhaustively(const model::ModelConfig& teacher, const plan::Fleet& fleet,
                                const PlanOptions& options, const ImportanceProfile& importance) {
  if (options.objective == Objective::memory)
    return least_memory(fleet, options, [&](const plan::Fleet& less, const PlanOptions& wanted) {
      return search_exhaustively(teacher, less, wanted, importance);
    });
  return plan_with(teacher, fleet, options, importance,
                   [&](Planner& planner, const Team& able, std::size_t smallest_team) {
                     consider_all_teams(planner, able, smallest_team, [&](Pricer& pricer) {
                       return enumerate(planner.space(), pricer);
                     });
                   });
}

}  // namespace cleave::optimizer
