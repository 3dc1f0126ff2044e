#include "optimizer/decomposed/climb.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "optimizer/decomposed/relax.hpp"

namespace cleave::optimizer {
namespace {

/// A change of some members' shares, in steps.
struct Move {
  std::size_t member = 0;
  Share by{};
  std::size_t other = 0;
  Share other_by{};
};

/// Layers and heads are few and weigh much; channels and columns are many.
bool is_fine(Axis axis) { return axis == axis::width || axis == axis::mlp; }

/// Every combination of one step down, none or up on each axis, `stride` steps on the fine ones;
/// not the one that changes nothing.
std::vector<Share> directions(std::int32_t stride) {
  std::vector<Share> all;
  constexpr int num_combinations = 81;
  for (int code = 0; code < num_combinations; ++code) {
    Share direction{};
    int rest = code;
    for (const Axis axis : all_axes) {
      direction[axis] = (rest % 3 - 1) * (is_fine(axis) ? stride : 1);
      rest /= 3;
    }
    if (direction != Share{}) all.push_back(direction);
  }
  return all;
}

class TeamSearch {
 public:
  TeamSearch(const Space& space, const PlanOptions& options, Pricer& pricer, const Budget& budget)
      : space_(space),
        options_(options),
        pricer_(pricer),
        budget_(budget),
        first_evaluation_(pricer.evaluations()),
        random_(options.seed),
        caps_(pricer.team().size(), space.largest()),
        best_{pricer.team(), std::vector<Share>(pricer.team().size(), space.smallest()), {}} {
    best_.price = pricer_.price(best_.shares);
    for (std::size_t p = 0; p < size(); ++p)
      offset_s_.push_back(pricer_.finish_s(p) - space_.seconds(team(p), space_.smallest()));
    fuse_s_ = best_.price.latency_s - finish_of_all(best_.shares);
  }

  Outcome run() {
    const RelaxSummary relaxed = relax(space_, relaxation());
    const std::vector<Share> rounded = round_shares(space_, relaxed, options_.partition);
    if (options_.partition)
      for (std::size_t p = 0; p < size(); ++p) {
        caps_[p][axis::width] = rounded[p][axis::width];
        caps_[p][axis::heads] = rounded[p][axis::heads];
      }
    consider(rounded);
    sweep(relaxed.finish_s, rounded);
    climb_and_kick();
    even_out();
    return best_;
  }

 private:
  std::size_t size() const { return pricer_.team().size(); }
  std::size_t team(std::size_t member) const { return pricer_.team()[member]; }
  bool exhausted() {
    const int used = pricer_.evaluations() - first_evaluation_;
    if (used >= budget_.evaluations) return true;
    if (used % 64 == 0) late_ = late_ || std::chrono::steady_clock::now() >= budget_.until;
    return late_;
  }

  /// Prices and keeps what is better than the best.
  bool consider(const std::vector<Share>& shares) {
    const Price price = pricer_.price(shares);
    if (!better(price, best_.price)) return false;
    best_.shares = shares;
    best_.price = price;
    return true;
  }

  RelaxProblem relaxation() const {
    const bool for_accuracy = options_.objective == Objective::accuracy;
    RelaxProblem problem;
    problem.team = pricer_.team();
    problem.offset_s = offset_s_;
    for (std::size_t p = 0; p < size(); ++p) problem.room_bytes.push_back(pricer_.room_bytes(p));
    problem.time_weight = for_accuracy ? 1e-4 : 1;
    problem.loss_weight = for_accuracy ? 1 : options_.accuracy_weight;
    problem.max_finish_s = std::max(options_.limits.latency_s - fuse_s_, 0.0);
    problem.max_part_share = options_.limits.max_part_share;
    problem.partition = options_.partition;
    return problem;
  }

  // --- what one member can do by a given time ---

  bool fits(std::size_t member, const Share& share, double until_s) const {
    return offset_s_[member] + space_.seconds(team(member), share) <= until_s * (1 + 1e-12) &&
           pricer_.violation_of(member, share) <= 0;
  }

  bool within(const Share& share, const Share& cap) const {
    for (const Axis axis : all_axes)
      if (share[axis] < space_.smallest()[axis] || share[axis] > cap[axis]) return false;
    return true;
  }

  Share moved(Share share, const Share& by) const {
    for (const Axis axis : all_axes)
      share[axis] =
          std::clamp(share[axis] + by[axis], space_.smallest()[axis], space_.largest()[axis]);
    return share;
  }

  /// Climbs from `start` to the share of the highest quality that the member can finish by
  /// `until_s` within its own limits.
  Share fill(std::size_t member, Share start, double until_s) const {
    if (!within(start, caps_[member]) || !fits(member, start, until_s)) start = space_.smallest();
    if (!fits(member, start, until_s)) return start;
    widen(member, start, until_s);
    for (const std::int32_t stride : {16, 4, 1})
      while (step_up(member, start, until_s, stride)) {
      }
    return start;
  }

  /// As many columns as the member can take beside the rest of its share: all its limits grow with
  /// them.
  void widen(std::size_t member, Share& share, double until_s) const {
    std::int32_t beyond = caps_[member][axis::mlp] + 1;
    while (share[axis::mlp] + 1 < beyond) {
      Share next = share;
      next[axis::mlp] += (beyond - share[axis::mlp]) / 2;
      if (fits(member, next, until_s))
        share = next;
      else
        beyond = next[axis::mlp];
    }
  }

  /// Tries other layers, channels and heads near by, each with the fewest columns that would make
  /// the part better, and takes the best.
  bool step_up(std::size_t member, Share& share, double until_s, std::int32_t stride) const {
    constexpr std::int32_t reach = 2;
    Share best = share;
    for (std::int32_t layers = -reach; layers <= reach; ++layers)
      for (std::int32_t channels = -reach; channels <= reach; ++channels)
        for (std::int32_t more_heads = -reach; more_heads <= reach; ++more_heads) {
          Share next = share;
          next[axis::depth] += layers;
          next[axis::width] += channels * stride;
          next[axis::heads] += more_heads;
          next[axis::mlp] = space_.smallest()[axis::mlp];
          if (!within(next, caps_[member])) continue;
          next[axis::mlp] = space_.columns_above(next, space_.quality(best) + 1e-12);
          if (!within(next, caps_[member]) || !fits(member, next, until_s)) continue;
          widen(member, next, until_s);
          best = next;
        }
    const bool found = best != share;
    share = best;
    return found;
  }

  // --- the sweep over finish times ---

  void fill_all(double until_s, std::vector<Share>& shares) const {
    for (std::size_t p = 0; p < size(); ++p) shares[p] = fill(p, shares[p], until_s);
  }

  double finish_of_all(const std::vector<Share>& shares) const {
    double finish_s = 0;
    for (std::size_t p = 0; p < size(); ++p)
      finish_s = std::max(finish_s, offset_s_[p] + space_.seconds(team(p), shares[p]));
    return finish_s;
  }

  /// Finish times from the smallest shares' to the largest's, then finer around the best.
  void sweep(double relaxed_finish_s, const std::vector<Share>& rounded) {
    constexpr int num_coarse = 64, num_fine = 32;
    const double earliest_s = finish_of_all(std::vector<Share>(size(), space_.smallest()));
    double latest_s = finish_of_all(std::vector<Share>(size(), space_.largest()));
    if (options_.limits.latency_s > 0)
      latest_s = std::clamp(options_.limits.latency_s - fuse_s_, earliest_s, latest_s);
    const double ratio = std::pow(latest_s / earliest_s, 1.0 / num_coarse);
    double best_s = sweep(earliest_s, ratio, num_coarse);
    std::vector<Share> shares = rounded;
    fill_all(relaxed_finish_s, shares);
    if (consider(shares)) best_s = relaxed_finish_s;
    sweep(best_s / ratio, std::pow(ratio, 2.0 / num_fine), num_fine);
  }

  /// `count` levels up from `from_s`; returns the last that was better than everything before.
  double sweep(double from_s, double ratio, int count) {
    double best_s = from_s;
    std::vector<Share> shares(size(), space_.smallest());
    for (int level = 0; level <= count && !exhausted(); ++level) {
      const double until_s = from_s * std::pow(ratio, level);
      fill_all(until_s, shares);
      if (consider(shares)) best_s = until_s;
    }
    return best_s;
  }

  // --- the local search ---

  /// One member alone in any direction, or one member down and another up along one axis each.
  std::vector<Move> moves() const {
    std::vector<Move> all;
    for (std::size_t p = 0; p < size(); ++p)
      for (const auto& some : directions_)
        for (const Share& direction : some) all.push_back({p, direction, p, {}});
    for (std::size_t p = 0; p < size(); ++p)
      for (std::size_t q = 0; q < size(); ++q)
        if (p != q) add_transfers(p, q, all);
    return all;
  }

  static void add_transfers(std::size_t from, std::size_t to, std::vector<Move>& all) {
    for (const std::int32_t stride : {1, 4})
      for (const Axis down : all_axes)
        for (const Axis up : all_axes) {
          Move move{from, {}, to, {}};
          move.by[down] = is_fine(down) ? -stride : -1;
          move.other_by[up] = is_fine(up) ? stride : 1;
          if (stride == 1 || is_fine(down) || is_fine(up)) all.push_back(move);
        }
  }

  /// Takes any improving move, in a random order, until there is none.
  void climb(Outcome& outcome, std::vector<Move>& all) {
    bool found = true;
    while (found && !exhausted()) {
      found = false;
      std::shuffle(all.begin(), all.end(), random_);
      for (const Move& move : all) {
        if (exhausted()) break;
        std::vector<Share> next = outcome.shares;
        next[move.member] = moved(next[move.member], move.by);
        if (move.other != move.member) next[move.other] = moved(next[move.other], move.other_by);
        if (next == outcome.shares) continue;
        const Price price = pricer_.price(next);
        if (!better(price, outcome.price)) continue;
        outcome.shares = std::move(next);
        outcome.price = price;
        found = true;
      }
    }
  }

  void climb_and_kick() {
    std::vector<Move> all = moves();
    Outcome current = best_;
    while (!exhausted()) {
      climb(current, all);
      if (better(current.price, best_.price)) best_ = current;
      current = kicked(all);
    }
  }

  /// The best so far after a few random moves.
  Outcome kicked(const std::vector<Move>& all) {
    Outcome outcome = best_;
    std::uniform_int_distribution<std::size_t> any(0, all.size() - 1);
    for (int i = 0; i < 3; ++i) {
      const Move& move = all[any(random_)];
      outcome.shares[move.member] = moved(outcome.shares[move.member], move.by);
    }
    outcome.price = pricer_.price(outcome.shares);
    return outcome;
  }

  /// Devices that are alike get the same share where that costs next to nothing: whole steps would
  /// else make a difference that nobody understands.
  void even_out() {
    for (std::size_t p = 0; p < size(); ++p) {
      std::vector<std::size_t> group;
      for (std::size_t q = 0; q < size(); ++q)
        if (alike(team(p), team(q))) group.push_back(q);
      if (group.size() > 1 && group.front() == p) even_out(group);
    }
  }

  void even_out(const std::vector<std::size_t>& group) {
    constexpr double tolerance = 1.002;
    Outcome even;
    for (const std::size_t model : group) {
      std::vector<Share> shares = best_.shares;
      for (const std::size_t member : group) shares[member] = best_.shares[model];
      const Price price = pricer_.price(shares);
      if (even.shares.empty() || better(price, even.price)) even = {pricer_.team(), shares, price};
    }
    const bool as_feasible = even.price.violation <= best_.price.violation + 1e-9;
    if (as_feasible && even.price.objective_s <= best_.price.objective_s * tolerance) best_ = even;
  }

  bool alike(std::size_t a, std::size_t b) const {
    const plan::Device &first = space_.fleet().devices[a], &second = space_.fleet().devices[b];
    return space_.seconds(a, space_.largest()) == space_.seconds(b, space_.largest()) &&
           space_.seconds(a, space_.smallest()) == space_.seconds(b, space_.smallest()) &&
           first.memory_bytes == second.memory_bytes && first.disk_bytes == second.disk_bytes &&
           first.profile.runtime_bytes == second.profile.runtime_bytes;
  }

  const Space& space_;
  const PlanOptions& options_;
  Pricer& pricer_;
  Budget budget_;
  int first_evaluation_;
  bool late_ = false;
  std::mt19937_64 random_;
  std::vector<Share> caps_;       // by member; below the largest in a partition
  std::vector<double> offset_s_;  // by member: way out and back
  double fuse_s_ = 0;             // from the last features to the answer
  std::vector<std::vector<Share>> directions_ = {directions(16), directions(4), directions(1)};
  Outcome best_;
};

}  // namespace

Outcome optimise_team(const Space& space, const PlanOptions& options, Pricer& pricer,
                      const Budget& budget) {
  return TeamSearch(space, options, pricer, budget).run();
}

}  // namespace cleave::optimizer
