#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/collectives.hpp"
#include "optimizer/plan/strategies/heads_and_columns.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

// Voltage (Hu and Li 2024), the "full-tensor exchange" of later papers: each device has all weights
// and computes some rows of the sequence; before each attention the rows that keys and values are
// computed from are gathered, (P-1)/P·N·D numbers from each device. A step of a generated text has
// one row, and is divided by heads and columns.

namespace cleave::plan {
namespace {

/// Devices with rows; the others have nothing to do.
std::size_t computing(const Plan& plan) {
  return static_cast<std::size_t>(
      std::count_if(plan.parts.begin(), plan.parts.end(),
                    [](const PlanPart& part) { return part.share()->rows > 0; }));
}

/// Rows of the sequence as the shares want them, for each device that computes.
std::vector<model::Range> rows_of(const Plan& plan, std::int64_t rows) {
  std::vector<std::int64_t> weights;
  for (std::size_t p = 0; p < computing(plan); ++p) weights.push_back(plan.parts[p].share()->rows);
  std::vector<model::Range> ranges;
  std::int64_t begin = 0;
  for (const std::int64_t count : divided(rows, weights)) {
    ranges.push_back({begin, begin + count});
    begin += count;
  }
  return ranges;
}

/// Devices that compute a step: the first ones, as many as every layer has heads and columns for.
std::size_t stepping(const Plan& plan) {
  auto most = static_cast<std::int64_t>(computing(plan));
  for (const model::LayerShape& layer : plan.teacher.layers) {
    if (layer.heads > 0) most = std::min(most, layer.heads / plan.teacher.group);
    if (layer.mlp_width > 0) most = std::min(most, layer.mlp_width);
  }
  return static_cast<std::size_t>(most);
}

/// Heads whose keys and values a device keeps for the steps, by layer.
std::vector<model::Range> kept_by(const model::ModelConfig& config, const std::vector<Share>& steps,
                                  std::size_t rank) {
  std::vector<model::Range> kept(config.layers.size());
  if (config.causal && rank < steps.size())
    for (std::size_t l = 0; l < kept.size(); ++l) kept[l] = steps[rank].layers[l].heads;
  return kept;
}

/// What the task reads of the states, where it does not read them all: the first tokens.
model::Range rows_read(const model::ModelConfig& config, std::int64_t rows) {
  return {0, config.task == model::Task::classification ? config.summary_tokens : rows};
}

}  // namespace

void check_voltage(const Plan& plan) {
  if (!plan.teacher.answers())
    refuse("teacher", "no head", "one: the strategy 'voltage' answers as the teacher does");
  const Share all = whole_share(plan.teacher);
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const std::string where = "parts[" + std::to_string(p) + "]";
    const Share* share = plan.parts[p].share();
    if (!share) refuse(where, "a sub-model", "a share: the strategy 'voltage' divides the teacher");
    if (!(share->layers == all.layers) || !(share->vocabulary == all.vocabulary))
      refuse(where + ".share", "some of the weights",
             "all of them: the strategy 'voltage' divides rows");
    if (p == 0 && share->rows == 0)
      refuse(where + ".share.rows", "0", "at least 1: the first device answers");
    if (share->rows > 0 && p > 0 && plan.parts[p - 1].share()->rows == 0)
      refuse(where + ".share.rows", std::to_string(share->rows) + " behind a device without rows",
             "those without to be the last");
  }
}

/// By speed.
std::vector<Share> propose_voltage(const model::ModelConfig& teacher,
                                   const std::vector<Capacity>& devices) {
  constexpr double grain = 1000;
  double fastest = 0;
  for (const Capacity& device : devices) fastest = std::max(fastest, device.speed);
  std::vector<Share> shares(devices.size(), whole_share(teacher));
  for (std::size_t p = 0; p < devices.size(); ++p)
    shares[p].rows = std::max<std::int64_t>(1, std::llround(grain * devices[p].speed / fastest));
  return shares;
}

std::vector<Share> divide_voltage(const model::ModelConfig& teacher,
                                  const std::vector<std::int64_t>& weights) {
  std::vector<Share> shares(weights.size(), whole_share(teacher));
  for (std::size_t p = 0; p < weights.size(); ++p) shares[p].rows = weights[p];
  return shares;
}

std::vector<Program> compile_voltage(const Plan& plan, const RequestShape& shape,
                                     base::Element element) {
  const model::ModelConfig& config = plan.teacher;
  const auto ranks = static_cast<std::int32_t>(plan.parts.size());
  const std::int64_t rows = config.is_text() ? shape.tokens : config.num_tokens();
  const auto devices = static_cast<std::int32_t>(computing(plan));
  const std::vector<Share> steps = equal_shares(config, stepping(plan));
  if (rows < devices)
    return by_heads_and_columns(config, steps, AllReduce::star, ranks, shape, element);

  const std::vector<model::Range> ranges = rows_of(plan, rows);
  ProgramBuilder aggregator(ranks, element);
  const InputSource input(aggregator, ranks, config, shape, devices);
  std::vector<ValueId> answers;
  std::vector<Program> programs;
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    ProgramBuilder agent(rank, element);
    if (rank >= devices) {
      programs.push_back(agent.take());
      continue;
    }
    const auto r = static_cast<std::size_t>(rank);
    const ValueId given = input.receive(agent);
    Collectives collectives(agent, rank, devices, plan.all_reduce);
    ForwardBuilder forward(agent, config, teacher_part, given, whole_share(config));
    forward.of_rows(
        ranges[r], [&](ValueId own) { return collectives.all_gather(own, ranges); },
        kept_by(config, steps, r));
    ValueId states = model::states(forward, config);
    // A masked language model answers where its rows are, any other where they meet.
    const bool answers_by_row = config.task == model::Task::masked_lm;
    if (!answers_by_row) states = collectives.gather(states, ranges, rows_read(config, rows));
    if (rank == 0 || answers_by_row) {
      const ValueId answer = forward.head(forward.read_out(states));
      agent.send(answer, ranks, 0);
      answers.push_back(
          aggregator.receive("y_" + std::to_string(rank), agent.info(answer), rank, 0, false));
    }
    programs.push_back(agent.take());
  }
  aggregator.output(aggregator.concat(std::move(answers), 1));
  programs.push_back(aggregator.take());
  return programs;
}

}  // namespace cleave::plan
