#pragma once

#include <chrono>
#include <vector>

#include "optimizer/pricer.hpp"

namespace cleave::optimizer {

/// Shares of one team and what they are worth.
struct Outcome {
  std::vector<std::size_t> team;
  std::vector<Share> shares;
  Price price;
};

/// How long a search may go on.
struct Budget {
  int evaluations = 0;
  std::chrono::steady_clock::time_point until;
};

/// The best shares of a team: continuous relaxation, rounding, a sweep over finish times at each of
/// which every member takes what it can finish by then, and a local search with restarts from the
/// best so far. Same seed, same result, unless time runs out.
Outcome optimise_team(const Space& space, const PlanOptions& options, Pricer& pricer,
                      const Budget& budget);

}  // namespace cleave::optimizer
