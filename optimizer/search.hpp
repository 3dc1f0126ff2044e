#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "optimizer/decomposed/importance_profile.hpp"
#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/plan.hpp"

namespace cleave::optimizer {

struct Limits {
  double latency_s = 0;       // 0: none
  double max_part_share = 0;  // share of the teacher's parameters that any part may have; 0: none
  double min_importance = 0;  // kept importance (proxy)
  /// Share of the residual channels that every part keeps at least. What every layer reads and
  /// writes, and normalises, is repaired worse than heads and columns: 1 cuts only those, as
  /// DynaBERT does (Hou and others 2020).
  double min_width_share = 0;
};

/// What is best.
enum class Objective {
  latency,   // the least
  accuracy,  // the most importance kept, under limits.latency_s
  memory,    // the least: the largest share of its room for the model that any device fills, under
             // limits.latency_s and at least limits.min_importance
};
std::string_view name_of(Objective objective);
/// Throws std::invalid_argument that lists the known names.
Objective objective_named(std::string_view name);

struct PlanOptions {
  Objective objective = Objective::latency;
  Limits limits;
  plan::RequestShape shape;
  /// "auto" considers the whole model on one device and sub-models on several, and takes the best;
  /// a name of the table of strategies (plan::strategies) forces that one.
  std::string strategy = "auto";
  /// Of a forced strategy of shares: what each agent of the fleet takes beside the others, in the
  /// fleet's order; 0 leaves it out. Empty: the strategy proposes.
  std::vector<double> shares;
  /// Of strategies that exchange segments (plan::Strategy::has_segments).
  plan::Segments segments;
  /// Weight δ of the accuracy proxy in the objective max_n[T + φ/b] + T_agg + δ·(1 − kept
  /// importance), relative to the teacher's latency on the fastest device: at 1, losing all
  /// importance costs as much time as the teacher takes there.
  double accuracy_weight = 1;
  /// Of a strategy whose agents share the teacher: Plan::wire.
  base::Element wire = base::Element::f32;
  /// Σ D_p ≤ D and Σ H_p ≤ H.
  bool partition = false;
  /// Width steps: D_p in multiples of this (SIMD-friendly), MLP widths likewise.
  std::int64_t width_step = 8;
  /// Evaluations of the simulator in the local search.
  int max_evaluations = 4000;
  double max_time_s = 0.8;
  std::uint64_t seed = 1;
};

/// Throws std::invalid_argument where shares by hand are not one number from 0 on for each agent of
/// the fleet, some of them above 0.
void check_shares(const std::vector<double>& shares, const plan::Fleet& fleet);

/// Throws std::invalid_argument on options out of range, or that do not go together.
void check(const PlanOptions& options);

enum class Termination { found, infeasible };

struct PlanSummary {
  Termination termination = Termination::found;
  /// The plan found, or the nearest one; its candidates say what else was considered and why it
  /// lost.
  plan::Plan plan;
  /// Infeasible: "memory on 'cam': needs 212 MB, gives 180 MB (32 MB short)".
  std::string message;
  int evaluations = 0;
  double seconds = 0;
};

/// Picks strategy, aggregator and shares: continuous relaxation with Ceres, exact integer rounding,
/// local search priced by the simulator. Throws std::invalid_argument on options out of range.
PlanSummary search(const model::ModelConfig& teacher, const plan::Fleet& fleet,
                   const PlanOptions& options, const ImportanceProfile& importance = {});

/// The true optimum over a small enumerable space (widths x depth x …), for tests.
PlanSummary search_exhaustively(const model::ModelConfig& teacher, const plan::Fleet& fleet,
                                const PlanOptions& options,
                                const ImportanceProfile& importance = {});

}  // namespace cleave::optimizer
