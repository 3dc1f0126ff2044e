#include <algorithm>
#include <string>
#include <utility>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/collectives.hpp"
#include "optimizer/plan/strategies/heads_and_columns.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/row_shares.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

// Voltage (Hu and Li 2024), the "full-tensor exchange" of later papers: each device has all weights
// and computes some rows of the sequence; before each attention the rows that keys and values are
// computed from are gathered, (P-1)/P·N·D numbers from each device. A step of a generated text has
// one row, and is divided by heads and columns.

namespace cleave::plan {
namespace {

/// Devices that compute a step: the first ones, as many as every layer has heads and columns for.
std::size_t stepping(const Plan& plan) {
  auto most = static_cast<std::int64_t>(computing_rows(plan));
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

void check_voltage(const Plan& plan) { check_row_shares(plan); }

std::vector<Program> compile_voltage(const Plan& plan, const RequestShape& shape,
                                     base::Element element) {
  const model::ModelConfig& config = plan.teacher;
  const auto ranks = static_cast<std::int32_t>(plan.parts.size());
  const std::int64_t rows = config.is_text() ? shape.tokens : config.num_tokens();
  const auto devices = static_cast<std::int32_t>(computing_rows(plan));
  const std::vector<Share> steps = equal_shares(config, stepping(plan));
  if (rows < devices)
    return by_heads_and_columns(config, steps, AllReduce::star, ranks, shape, element);

  const std::vector<model::Range> ranges = divided_rows(plan, rows);
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
        ranges[r],
        [&](int, ValueId own) -> ForwardBuilder::KeyRows {
          return {collectives.all_gather(own, ranges), ranges[r]};
        },
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
