#include "optimizer/shares.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/strategies/shared_pass.hpp"

namespace cleave::optimizer {
namespace {

using plan::Weights;

/// What shares differ in, with how many pieces each makes a whole.
struct Axis {
  std::vector<std::int64_t> Weights::*weights;
  bool plan::Division::*divided;
  std::int64_t least;  // of each device
  std::int64_t whole;
};
using Axes = std::array<Axis, 4>;

Axes axes_of(const plan::Plan& plan) {
  constexpr std::int64_t columns_at_once = 8, tokens = 64, most_rows = 512;
  const model::ModelConfig& teacher = plan.teacher;
  std::int64_t heads = 1, columns = 1;
  for (const model::LayerShape& layer : teacher.layers) {
    heads = std::max(heads, layer.heads / teacher.group);
    columns = std::max(columns, layer.mlp_width / columns_at_once);
  }
  const std::int64_t rows = plan::rows_in(teacher, plan.shape);
  // Tokens first: where a text is read they cost room and no time.
  return {{{&Weights::vocabulary, &plan::Division::vocabulary, 0, tokens},
           {&Weights::columns, &plan::Division::columns, 0, columns},
           {&Weights::heads, &plan::Division::heads, 0, heads},
           {&Weights::rows, &plan::Division::rows, 1, std::min(rows, most_rows)}}};
}

}  // namespace

/// A hundredth too little room counts as a fifth more time: less than that is found in no other
/// way, and of two ways to make room the one that costs less time is taken.
bool ShareSearch::Worth::better_than(const Worth& other) const {
  constexpr double tiny = 1e-9, dear = 20;
  const auto cost = [](const Worth& worth) {
    return worth.latency_s * (1 + dear * worth.violation);
  };
  return cost(*this) < cost(other) * (1 - tiny);
}

ShareSearch::ShareSearch(plan::Plan wanted, const plan::Strategy& strategy,
                         const plan::Fleet& fleet, std::vector<std::size_t> team,
                         std::vector<plan::Capacity> capacities)
    : wanted_(std::move(wanted)),
      strategy_(strategy),
      fleet_(fleet),
      team_(std::move(team)),
      capacities_(std::move(capacities)) {
  wanted_.strategy = strategy.name;
  for (const std::size_t device : team_) wanted_.parts.push_back({fleet.devices[device].name, {}});
}

double ShareSearch::weight_bytes(std::size_t member) const {
  const plan::Plan& plan = best().plan;
  return plan::weight_bytes(plan::drafts(plan, plan.shape)[member], plan);
}

ShareSearch::Worth ShareSearch::price(const plan::Plan& plan) {
  ++evaluations_;
  const std::vector<plan::Program> programs = plan::drafts(plan, plan.shape);
  Worth worth;
  worth.latency_s = player_.play(TaskGraph(plan, programs, fleet_)).latency_s;
  for (std::size_t p = 0; p < team_.size(); ++p) {
    const double room = capacities_[p].weight_bytes;
    if (room <= 0) continue;
    worth.violation += std::max(0.0, plan::weight_bytes(programs[p], plan) - room) / room;
  }
  return worth;
}

ShareSearch::Found ShareSearch::best_exchange(Found shares) {
  Found best;
  const auto consider = [&](plan::AllReduce all_reduce, bool overlap, plan::Gathered gathered,
                            bool reordered = false) {
    Found found = shares;
    found.plan.all_reduce = all_reduce;
    found.plan.overlap = overlap;
    found.plan.gathered = gathered;
    found.plan.reordered = reordered;
    found.price = price(found.plan);
    if (best.plan.parts.empty() || found.price.better_than(best.price)) best = std::move(found);
  };
  for (const plan::AllReduce all_reduce : plan::all_reduces())
    consider(all_reduce, false, plan::Gathered::rows);
  consider(best.plan.all_reduce, true, plan::Gathered::rows);
  if (strategy_.reorders && shares.division.rows && plan::reorders(wanted_.teacher))
    consider(best.plan.all_reduce, best.plan.overlap, plan::Gathered::rows, true);
  if (strategy_.gathers_keys && shares.division.rows && !shares.division.heads)
    consider(best.plan.all_reduce, false, plan::Gathered::keys_and_values);
  return best;
}

ShareSearch::Found ShareSearch::with(const Found& base, const plan::Weights& weights) {
  Found found = base;
  found.weights = weights;
  const auto shares = plan::shares_by_weight(wanted_.teacher, base.division, weights);
  for (std::size_t p = 0; p < shares.size(); ++p) found.plan.parts[p].runs = shares[p];
  return found;
}

ShareSearch::Found ShareSearch::by(const plan::Division& division,
                                   const std::vector<std::int64_t>& shares) {
  Weights weights;
  for (const Axis& axis : axes_of(wanted_))
    for (const model::Range& range : plan::ranges_by_weight(axis.whole, shares))
      (weights.*axis.weights).push_back(std::max(axis.least, range.size()));
  Found found;
  found.plan = wanted_;
  found.division = division;
  return with(found, weights);
}

ShareSearch::Found ShareSearch::of(const std::vector<plan::Share>& shares) const {
  Found found;
  found.plan = wanted_;
  for (std::size_t p = 0; p < shares.size(); ++p) found.plan.parts[p].runs = shares[p];
  return found;
}

const plan::Plan& ShareSearch::start() {
  if (strategy_.divisions != nullptr) return divided(plan::weights_by_speed(capacities_));
  found_ = {best_exchange(of(strategy_.propose(wanted_.teacher, capacities_)))};
  return best().plan;
}

const plan::Plan& ShareSearch::by_weight(const std::vector<std::int64_t>& weights) {
  if (strategy_.divide == nullptr) return divided(weights);
  found_ = {best_exchange(of(strategy_.divide(wanted_.teacher, weights)))};
  return best().plan;
}

const plan::Plan& ShareSearch::divided(const std::vector<std::int64_t>& weights) {
  found_.clear();
  for (const plan::Division& division : strategy_.divisions())
    found_.push_back(best_exchange(by(division, weights)));
  return best().plan;
}

const ShareSearch::Found& ShareSearch::best() const {
  return *std::min_element(found_.begin(), found_.end(), [](const Found& a, const Found& b) {
    return a.price.better_than(b.price);
  });
}

bool ShareSearch::move(Found& found, std::int64_t pieces) {
  const Axes axes = axes_of(wanted_);
  bool helped = false;
  const auto try_moving = [&](const std::vector<const Axis*>& along, std::size_t from,
                              std::size_t to) {
    Weights weights = found.weights;
    bool moves = false;
    for (const Axis* axis : along) {
      auto& of = weights.*axis->weights;
      const std::int64_t wanted = std::max<std::int64_t>(1, axis->whole / pieces);
      const std::int64_t given = std::min(wanted, of[from] - axis->least);
      if (given <= 0) continue;
      of[from] -= given;
      of[to] += given;
      moves = true;
    }
    if (!moves) return;
    Found moved = with(found, weights);
    moved.price = price(moved.plan);
    if (!moved.price.better_than(found.price)) return;
    found = std::move(moved);
    helped = true;
  };
  std::vector<const Axis*> divided;
  for (const Axis& axis : axes)
    if (found.division.*axis.divided) divided.push_back(&axis);
  for (std::size_t from = 0; from < team_.size(); ++from)
    for (std::size_t to = 0; to < team_.size(); ++to) {
      if (from == to) continue;
      for (const Axis* axis : divided) try_moving({axis}, from, to);
      if (divided.size() > 1) try_moving(divided, from, to);
    }
  return helped;
}

ShareSearch::Found ShareSearch::climbed(Found found) {
  constexpr int most_rounds = 8;
  std::int64_t finest = 1;
  for (const Axis& axis : axes_of(wanted_)) finest = std::max(finest, axis.whole);
  for (std::int64_t pieces = 4; pieces < 2 * finest; pieces *= 2)
    for (int round = 0; round < most_rounds && move(found, pieces); ++round) {
    }
  return best_exchange(std::move(found));
}

const plan::Plan& ShareSearch::improve() {
  if (found_.empty() || strategy_.divisions == nullptr) start();
  if (strategy_.divisions != nullptr && team_.size() > 1)
    for (Found& found : found_) found = climbed(std::move(found));
  return best().plan;
}

void ShareSearch::set_rooms(const std::vector<double>& bytes) {
  for (std::size_t p = 0; p < bytes.size(); ++p)
    capacities_[p].weight_bytes = std::max(1.0, bytes[p]);
  for (Found& found : found_) found.price = price(found.plan);
}

}  // namespace cleave::optimizer
