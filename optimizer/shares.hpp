#pragma once

#include <cstddef>
#include <vector>

#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/program.hpp"
#include "optimizer/task_graph.hpp"

namespace cleave::optimizer {

/// Finds the shares of one model with which a team answers first: priced by the simulator, within
/// the room that each device has for weights. Where the strategy proposes them, only how they
/// exchange is chosen; else shares by speed, then moved from device to device as long as that
/// helps, in ever smaller pieces down to one head, column or row.
class ShareSearch {
 public:
  /// `wanted`: teacher, shape, aggregator and seed of the plans. Throws std::invalid_argument where
  /// the strategy has no shares of the model for so many devices.
  ShareSearch(plan::Plan wanted, const plan::Strategy& strategy, const plan::Fleet& fleet,
              std::vector<std::size_t> team, std::vector<plan::Capacity> capacities);

  /// The best of shares that follow from speed alone; quick, to tell teams apart.
  const plan::Plan& start();
  /// The best that is found; the next call begins there.
  const plan::Plan& improve();
  /// Shares by hand: of each axis that is divided by the same weights, whole numbers above 0.
  const plan::Plan& by_weight(const std::vector<std::int64_t>& weights);
  /// Devices have other rooms for weights than was thought: improve() then finds others.
  void set_rooms(const std::vector<double>& bytes);
  double room(std::size_t member) const { return capacities_[member].weight_bytes; }

  // Of the best so far.
  double latency_s() const { return best().price.latency_s; }
  /// Weights that devices have no room for, relative, all together.
  double violation() const { return best().price.violation; }
  double weight_bytes(std::size_t member) const;
  int evaluations() const { return evaluations_; }

 private:
  struct Worth {
    double violation = 0, latency_s = 0;
    bool better_than(const Worth& other) const;
  };
  struct Found {
    plan::Plan plan;
    plan::Division division;
    plan::Weights weights;
    Worth price;
  };

  /// Of each division by these weights.
  const plan::Plan& divided(const std::vector<std::int64_t>& weights);
  const Found& best() const;
  Worth price(const plan::Plan& plan);
  /// Of these shares, the best ways to exchange.
  Found best_exchange(Found shares);
  Found with(const Found& base, const plan::Weights& weights);
  Found of(const std::vector<plan::Share>& shares) const;
  /// Of what the division divides by these weights.
  Found by(const plan::Division& division, const std::vector<std::int64_t>& weights);
  /// One round of moves of `pieces` to a whole; whether one of them helped.
  bool move(Found& found, std::int64_t pieces);
  Found climbed(Found found);

  plan::Plan wanted_;
  const plan::Strategy& strategy_;
  const plan::Fleet& fleet_;
  std::vector<std::size_t> team_;
  std::vector<plan::Capacity> capacities_;
  std::vector<Found> found_;  // the best by division
  int evaluations_ = 0;
  Player player_;
};

}  // namespace cleave::optimizer
