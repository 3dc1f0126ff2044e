#include "optimizer/plan/strategies/heads_and_columns.hpp"

#include <string>
#include <utility>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/collectives.hpp"
#include "optimizer/plan/strategies/input_source.hpp"

namespace cleave::plan {

std::vector<Share> equal_shares(const model::ModelConfig& teacher, std::size_t devices) {
  std::vector<Share> shares(devices);
  for (const LayerShare& layer : whole_share(teacher).layers) {
    const auto heads = equal_ranges(layer.heads.size(), devices);
    const auto columns = equal_ranges(layer.columns.size(), devices);
    for (std::size_t p = 0; p < devices; ++p) shares[p].layers.push_back({heads[p], columns[p]});
  }
  const auto vocabulary = equal_ranges(teacher.vocabulary, devices);
  for (std::size_t p = 0; p < devices; ++p) shares[p].vocabulary = vocabulary[p];
  return shares;
}

std::vector<Program> by_heads_and_columns(const Plan& plan, const std::vector<Share>& shares,
                                          AllReduce all_reduce, const RequestShape& shape,
                                          base::Element element) {
  const model::ModelConfig& teacher = plan.teacher;
  const auto ranks = static_cast<std::int32_t>(plan.parts.size());
  const auto computing = static_cast<std::int32_t>(shares.size());
  const bool by_vocabulary = teacher.reads_every_token();
  ProgramBuilder aggregator(ranks, element);
  const InputSource input(aggregator, ranks, teacher, shape, computing);
  std::vector<ValueId> answers;
  std::vector<Program> programs;
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    ProgramBuilder agent(rank, element);
    if (rank >= computing) {
      programs.push_back(agent.take());
      continue;
    }
    const ValueId given = input.receive(agent);
    Collectives collectives(agent, rank, computing, plan, all_reduce);
    ForwardBuilder forward(agent, teacher, teacher_part, given,
                           shares[static_cast<std::size_t>(rank)],
                           [&](ValueId partial) { return collectives.all_reduce(partial); });
    if (rank == 0 || by_vocabulary) {
      const ValueId answer = forward.head(model::features(forward, teacher));
      agent.send(answer, ranks, 0);
      answers.push_back(
          aggregator.receive("y_" + std::to_string(rank), agent.info(answer), rank, 0, false));
    } else {
      model::states(forward, teacher);
    }
    programs.push_back(agent.take());
  }
  const auto last_axis =
      static_cast<std::int32_t>(aggregator.info(answers.front()).dims.size()) - 1;
  aggregator.output(aggregator.concat(std::move(answers), last_axis));
  programs.push_back(aggregator.take());
  return programs;
}

}  // namespace cleave::plan
