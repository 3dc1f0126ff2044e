#include <stdexcept>

#include "optimizer/plan/builder.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {

void check_local(const Plan& plan) {
  if (plan.parts.size() != 1)
    throw std::invalid_argument("[check] plan.parts: saw " + std::to_string(plan.parts.size()) +
                                " parts, the strategy 'local' needs 1");
  const PlanPart& part = plan.parts.front();
  if (part.share)
    throw std::invalid_argument(
        "[check] plan.parts[0]: saw a share, the strategy 'local' needs the whole teacher");
  if (part.config.width != plan.teacher.width || !(part.config.layers == plan.teacher.layers) ||
      part.config.classes != plan.teacher.classes)
    throw std::invalid_argument(
        "[check] plan.parts[0].config: saw a cut model, the strategy 'local' needs the whole "
        "teacher");
}

/// Agent: y = sub_model(x), with the head where there is one; send(y). Aggregator: output(y).
std::vector<Program> compile_local(const Plan& plan, const RequestShape& shape,
                                   base::Element element) {
  constexpr std::int32_t agent_rank = 0, aggregator_rank = 1;
  constexpr std::uint32_t tag = 0;

  ProgramBuilder agent(agent_rank, element);
  const ValueId pixels = agent.input(plan.teacher, shape);
  const ValueId answer =
      agent.sub_model(0, plan.parts.front().config, pixels, plan.teacher.answers());
  agent.send(answer, aggregator_rank, tag);

  ProgramBuilder aggregator(aggregator_rank, element);
  aggregator.output(aggregator.receive(agent.info(answer), agent_rank, tag, false));
  return {agent.take(), aggregator.take()};
}

}  // namespace cleave::plan
