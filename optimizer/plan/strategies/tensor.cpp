#include <stdexcept>
#include <string>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/collectives.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {
namespace {

/// The ranks' ranges of `units` follow each other, equal up to one unit, none empty.
template <class RangeOf>
void check_ranges(const Plan& plan, std::int64_t units, const std::string& field,
                  const std::string& what, const RangeOf& range_of) {
  if (units == 0) return;
  const std::size_t parts = plan.parts.size();
  if (units < static_cast<std::int64_t>(parts))
    refuse("parts", std::to_string(parts) + " devices",
           "at most " + std::to_string(units) + ", one for each of the teacher's " + what);
  const auto ranges = equal_ranges(units, parts);
  for (std::size_t p = 0; p < parts; ++p) {
    const model::Range saw = range_of(*plan.parts[p].share());
    if (!(saw == ranges[p]))
      refuse("parts[" + std::to_string(p) + "].share." + field,
             std::to_string(saw.begin) + ":" + std::to_string(saw.end),
             std::to_string(ranges[p].begin) + ":" + std::to_string(ranges[p].end) +
                 ", an equal share of " + std::to_string(units));
  }
}

}  // namespace

void check_tensor(const Plan& plan) {
  if (!plan.teacher.answers())
    refuse("teacher", "no head", "one: the strategy 'tensor' answers as the teacher does");
  for (std::size_t p = 0; p < plan.parts.size(); ++p)
    if (!plan.parts[p].share())
      refuse("parts[" + std::to_string(p) + "]", "a sub-model",
             "a share: the strategy 'tensor' divides the teacher");
  for (std::size_t l = 0; l < plan.teacher.layers.size(); ++l) {
    const std::string layer = "layers[" + std::to_string(l) + "].";
    const model::LayerShape& shape = plan.teacher.layers[l];
    check_ranges(plan, shape.heads / plan.teacher.group, layer + "heads",
                 "heads of keys and values", [l](const Share& s) { return s.layers[l].heads; });
    check_ranges(plan, shape.mlp_width, layer + "columns", "MLP columns",
                 [l](const Share& s) { return s.layers[l].columns; });
  }
  check_ranges(plan, plan.teacher.vocabulary, "vocabulary", "tokens",
               [](const Share& s) { return s.vocabulary; });
}

/// Equal up to one unit, whatever the devices are.
std::vector<Share> propose_tensor(const model::ModelConfig& teacher,
                                  const std::vector<Capacity>& devices) {
  std::vector<Share> shares(devices.size());
  for (const LayerShare& layer : whole_share(teacher).layers) {
    const auto heads = equal_ranges(layer.heads.size(), devices.size());
    const auto columns = equal_ranges(layer.columns.size(), devices.size());
    for (std::size_t p = 0; p < devices.size(); ++p)
      shares[p].layers.push_back({heads[p], columns[p]});
  }
  const auto vocabulary = equal_ranges(teacher.vocabulary, devices.size());
  for (std::size_t p = 0; p < devices.size(); ++p) shares[p].vocabulary = vocabulary[p];
  return shares;
}

/// Megatron-LM (Shoeybi and others 2019): each device computes its heads and columns on the whole
/// stream, and two all-reduces a layer add up what they bring. A language model's answer comes from
/// all of them, each with its tokens; any other from the first.
std::vector<Program> compile_tensor(const Plan& plan, const RequestShape& shape,
                                    base::Element element) {
  const auto ranks = static_cast<std::int32_t>(plan.parts.size());
  const bool by_vocabulary = plan.teacher.reads_every_token();
  ProgramBuilder aggregator(ranks, element);
  const InputSource input(aggregator, ranks, plan.teacher, shape, ranks);
  std::vector<ValueId> answers;
  std::vector<Program> programs;
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    ProgramBuilder agent(rank, element);
    const ValueId given = input.receive(agent);
    Collectives collectives(agent, rank, ranks, plan.all_reduce);
    ForwardBuilder forward(agent, plan.teacher, teacher_part, given,
                           *plan.parts[static_cast<std::size_t>(rank)].share(),
                           [&](ValueId partial) { return collectives.all_reduce(partial); });
    if (rank == 0 || by_vocabulary) {
      const ValueId answer = forward.head(model::features(forward, plan.teacher));
      agent.send(answer, ranks, 0);
      answers.push_back(
          aggregator.receive("y_" + std::to_string(rank), agent.info(answer), rank, 0, false));
    } else {
      model::states(forward, plan.teacher);
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
