#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "optimizer/decomposed/space.hpp"

namespace cleave::optimizer {

/// The choice of shares, with widths, heads, columns and layers as real numbers.
struct RelaxProblem {
  /// Devices of the fleet that take a part.
  std::vector<std::size_t> team;
  /// Beside its compute, until its features are at the aggregator: seconds of each member.
  std::vector<double> offset_s;
  /// Bytes of model that each member has room for.
  std::vector<double> room_bytes;
  /// time_weight · finish + loss_weight · Π (1 − quality) is minimised, in units of the teacher's
  /// latency.
  double time_weight = 1, loss_weight = 1;
  double max_finish_s = 0;    // 0: none
  double max_part_share = 0;  // 0: none
  bool partition = false;
};

struct RelaxSummary {
  /// Layers, channels, heads, columns of each member.
  std::vector<std::array<double, num_axes>> values;
  /// When the last features are there.
  double finish_s = 0;
  bool converged = false;
};

/// Continuous relaxation with Ceres: the objective as squares, and rising penalties for members
/// that finish late, break their memory or the largest share, or widths that sum to more than the
/// teacher's. Where to start the exact search from.
RelaxSummary relax(const Space& space, const RelaxProblem& problem);

/// The nearest shares in whole steps within the space. In a partition sums of channels and heads
/// are kept: largest remainders first.
std::vector<Share> round_shares(const Space& space, const RelaxSummary& relaxed, bool partition);

}  // namespace cleave::optimizer
