#include <stdexcept>
#include <string>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/answer.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {

void check_decomposed(const Plan& plan) {
  if (!plan.teacher.answers())
    throw std::invalid_argument(
        "[check] plan.teacher: saw no head, the strategy 'decomposed' needs one to fuse");
  for (std::size_t p = 0; p < plan.parts.size(); ++p)
    if (plan.parts[p].share())
      throw std::invalid_argument("[check] plan.parts[" + std::to_string(p) +
                                  "]: saw a share, the strategy 'decomposed' needs a sub-model");
}

/// Agent p: x = receive; the forward pass of its part without a head; send(f). Aggregator: fuse of
/// those that came; output.
std::vector<Program> compile_decomposed(const Plan& plan, const RequestShape& shape,
                                        base::Element element) {
  const auto num_parts = static_cast<std::int32_t>(plan.parts.size());
  ProgramBuilder aggregator(num_parts, element);
  const InputSource input(aggregator, num_parts, plan.teacher, shape, num_parts);
  std::vector<Program> programs;
  std::vector<ValueId> features;
  for (std::int32_t p = 0; p < num_parts; ++p) {
    const model::ModelConfig& config = plan.parts[static_cast<std::size_t>(p)].sub_model().config;
    const auto tag = static_cast<std::uint32_t>(p);
    ProgramBuilder agent(p, element);
    ForwardBuilder forward(agent, config, p, input.receive(agent));
    const ValueId feature = model::features(forward, config);
    agent.send(feature, num_parts, tag);
    features.push_back(
        aggregator.receive("f_" + std::to_string(p), agent.info(feature), p, tag, true));
    programs.push_back(agent.take());
  }
  Answer answer(aggregator, num_parts, shape);
  const ValueId ids = answer.keep(aggregator, input.given());
  answer.bring_own(aggregator.fuse(plan.teacher, std::move(features)), ids);
  answer.output();
  programs.push_back(aggregator.take());
  return programs;
}

}  // namespace cleave::plan
