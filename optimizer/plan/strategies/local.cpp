#include <stdexcept>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/answer.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {

void check_local(const Plan& plan) {
  if (plan.parts.size() != 1)
    throw std::invalid_argument("[check] plan.parts: saw " + std::to_string(plan.parts.size()) +
                                " parts, the strategy 'local' needs 1");
  const PlanPart& part = plan.parts.front();
  if (part.share())
    throw std::invalid_argument(
        "[check] plan.parts[0]: saw a share, the strategy 'local' needs the whole teacher");
  if (part.sub_model().config.width != plan.teacher.width ||
      !(part.sub_model().config.layers == plan.teacher.layers) ||
      part.sub_model().config.classes != plan.teacher.classes)
    throw std::invalid_argument(
        "[check] plan.parts[0].config: saw a cut model, the strategy 'local' needs the whole "
        "teacher");
}

/// Agent: x = receive; the forward pass, with the head where there is one; send(y). Aggregator:
/// output(y).
std::vector<Program> compile_local(const Plan& plan, const RequestShape& shape,
                                   base::Element element) {
  constexpr std::int32_t agent_rank = 0, aggregator_rank = 1;

  ProgramBuilder agent(agent_rank, element), aggregator(aggregator_rank, element);
  const model::ModelConfig& config = plan.parts.front().sub_model().config;
  const InputSource input(aggregator, aggregator_rank, config, shape, 1);
  Answer answer(aggregator, aggregator_rank, shape);
  const ValueId given = input.receive(agent), ids = answer.keep(agent, given);
  ForwardBuilder forward(agent, config, 0, given);
  const ValueId feature = forward.read_out(model::states(forward, config), shape);
  answer.bring(agent, agent_rank, plan.teacher.answers() ? forward.head(feature) : feature, ids,
               {0, config.vocabulary});
  answer.output();
  return {agent.take(), aggregator.take()};
}

}  // namespace cleave::plan
