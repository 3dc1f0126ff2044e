#include "optimizer/plan/transfer.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {
namespace {

double real(std::int64_t count) { return static_cast<double>(count); }

/// `part` of `whole`, as a share of `size` in steps; at least one step where there is any.
std::int64_t same_share(std::int64_t part, std::int64_t whole, std::int64_t size,
                        std::int64_t step) {
  if (part == 0 || whole == 0 || size == 0) return 0;
  const double steps = std::round(real(part) / real(whole) * real(size) / real(step));
  return std::min(size, std::max<std::int64_t>(1, static_cast<std::int64_t>(steps)) * step);
}

/// Which layer of a model with `from` layers lies where `layer` lies in one with `to`.
std::int64_t counterpart(std::int64_t layer, std::int64_t to, std::int64_t from) {
  return layer * from / to;
}

double flops(const model::ModelConfig& config, const Load& load) {
  double sum = 0;
  for (const Kernel& kernel : kernels_of_model(config, load, false)) sum += kernel.flops();
  return sum;
}

PlanPart transferred(const PlanPart& part, const model::ModelConfig& from,
                     const model::ModelConfig& teacher, std::int64_t step, const Load& load) {
  PlanPart result;
  result.device = part.device;
  const SubModel& old = part.sub_model();
  SubModel model{teacher, {}};
  model.config.width = same_share(old.config.width, from.width, teacher.width, step);
  model.config.layers.clear();
  for (std::int64_t layer = 0; layer < teacher.num_layers(); ++layer) {
    const std::int64_t before = counterpart(layer, teacher.num_layers(), from.num_layers());
    const auto kept = std::find(old.layers.begin(), old.layers.end(), before);
    if (kept == old.layers.end()) continue;
    const auto& mine = old.config.layers[static_cast<std::size_t>(kept - old.layers.begin())];
    const auto& whole = from.layers[static_cast<std::size_t>(before)];
    const auto& now = teacher.layers[static_cast<std::size_t>(layer)];
    model.layers.push_back(layer);
    model.config.layers.push_back(
        {same_share(mine.heads, whole.heads, now.heads, teacher.group),
         same_share(mine.mlp_width, whole.mlp_width, now.mlp_width, step)});
  }
  result.parameter_share =
      real(model::count_parameters(model.config)) / real(model::count_parameters(teacher));
  result.compute_share = flops(model.config, load) / flops(teacher, load);
  result.runs = std::move(model);
  return result;
}

}  // namespace

Plan transferred(const Plan& plan, const model::ModelConfig& teacher, std::int64_t width_step) {
  if (find_strategy(plan.strategy).parts != PartKind::sub_model)
    throw std::invalid_argument("[transfer] plan '" + plan.name + "': saw strategy " +
                                plan.strategy + ", needs " + usual_strategy());
  Plan result;
  result.name = plan.name;
  result.strategy = plan.strategy;
  result.teacher = teacher;
  result.shape = plan.shape;
  if (teacher.is_text() && result.shape.tokens == 0)
    result.shape.tokens = std::min<std::int64_t>(64, teacher.usual_length());
  result.aggregator = plan.aggregator;
  result.seed = plan.seed;
  result.prediction.kept_importance = plan.prediction.kept_importance;
  for (const PlanPart& part : plan.parts)
    result.parts.push_back(
        transferred(part, plan.teacher, teacher, width_step, planned_load(result.shape)));
  check(result);
  return result;
}

}  // namespace cleave::plan
