#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "optimizer/decomposed/space.hpp"
#include "optimizer/task_graph.hpp"

namespace cleave::optimizer {

/// What shares of a team are worth.
struct Price {
  double latency_s = 0;
  /// Kept importance, 0..1: 1 − Π (1 − quality), as if parts kept independent pieces.
  double kept = 0;
  /// By how much limits are broken, relative, all together. 0: none is.
  double violation = 0;
  /// To be minimised, among plans that break no limit. Seconds.
  double objective_s = 0;

  bool feasible() const { return violation <= 1e-9; }
};
/// Fewer broken limits first, then the objective.
bool better(const Price& a, const Price& b);

/// Kept importance of parts of these qualities.
double kept_importance(const std::vector<double>& qualities);
/// Price of a plan of this latency and kept importance; limits of latency and importance are judged
/// here.
Price judge(double latency_s, double kept, const PlanOptions& options, double teacher_s);

/// Prices shares of one team with the simulator: programs are compiled and turned into tasks once,
/// then only the durations that depend on the shares change. The latency is the one that simulate()
/// finds for the plan of these shares.
class Pricer {
 public:
  Pricer(const Space& space, const PlanOptions& options, std::vector<std::size_t> team);

  const std::vector<std::size_t>& team() const { return team_; }
  Price price(const std::vector<Share>& shares);
  int evaluations() const { return evaluations_; }
  /// Of the last price(): when the features of a member were at the aggregator.
  double finish_s(std::size_t member) const;

  /// Limits that concern one member alone.
  double violation_of(std::size_t member, const Share& share) const;
  /// Bytes of model that a member has room for.
  double room_bytes(std::size_t member) const;

  /// The plan of these shares with its whole prediction.
  plan::Plan plan(const std::vector<Share>& shares) const;

 private:
  plan::Plan bare_plan(const std::vector<Share>& shares) const;
  void set_durations(const std::vector<Share>& shares);
  double aggregator_violation(const std::vector<Share>& shares) const;
  double partition_violation(const std::vector<Share>& shares) const;
  double aggregator_bytes(std::int32_t steps) const;

  const Space& space_;
  const PlanOptions& options_;
  std::vector<std::size_t> team_;
  std::size_t aggregator_ = 0;
  std::vector<plan::Program> programs_;
  std::unique_ptr<TaskGraph> tasks_;
  std::vector<std::size_t> features_there_;  // by member: the task that takes its features in
  std::int64_t compiled_width_ = 1;
  /// Memory of the aggregator's process with the narrowest parts, and for each channel more.
  double aggregator_bytes_ = 0, aggregator_bytes_per_channel_ = 0;
  std::int64_t narrowest_sum_ = 0;
  Player player_;
  const Schedule* schedule_ = nullptr;
  int evaluations_ = 0;
};

/// One limit that a plan breaks.
struct Shortfall {
  double relative = 0;
  std::string process;  // "cam", "aggregator@hub"; empty where the whole plan is meant
  std::string text;     // "memory on 'cam': needs 212 MB, gives 180 MB (32 MB short)"
};

/// Every limit that a plan with its prediction breaks, the worst first.
std::vector<Shortfall> shortfalls(const plan::Plan& plan, const plan::Fleet& fleet,
                                  const PlanOptions& options);

/// Latency, bottleneck, devices and joules of a plan whose kept importance stands.
void predict(plan::Plan& plan, const plan::Fleet& fleet);

}  // namespace cleave::optimizer
