#include "optimizer/plan/strategies/shared_pass.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>

#include "optimizer/plan/strategies/answer.hpp"
#include "optimizer/plan/strategies/collectives.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {
namespace {

std::vector<Share> shares_of(const Plan& plan) {
  std::vector<Share> shares;
  for (const PlanPart& part : plan.parts) shares.push_back(*part.share());
  return shares;
}

/// Those that have rows.
std::vector<Share> with_rows(const Plan& plan) {
  std::vector<Share> shares;
  for (const PlanPart& part : plan.parts)
    if (part.share()->rows > 0) shares.push_back(*part.share());
  return shares;
}

std::vector<std::int64_t> row_weights(const std::vector<Share>& shares) {
  std::vector<std::int64_t> weights;
  for (const Share& share : shares) weights.push_back(share.rows);
  return weights;
}

/// Each has at least one.
std::vector<model::Range> rows_of(const std::vector<Share>& shares, std::int64_t rows) {
  return ranges_by_weight(rows, divided(rows, row_weights(shares)));
}

/// What all have whole, divided by their rows; the rest as it is.
std::vector<Share> steps_of(const model::ModelConfig& config, const std::vector<Share>& shares) {
  const Share all = whole_share(config);
  const auto is_whole = [&](const auto& units_of) {
    return std::all_of(shares.begin(), shares.end(),
                       [&](const Share& share) { return units_of(share) == units_of(all); });
  };
  const std::vector<Share> by_rows = shares_by_weight(config, row_weights(shares));
  std::vector<Share> steps = shares;
  const auto divide = [&](const auto& units_of) {
    if (!is_whole(units_of)) return;
    for (std::size_t p = 0; p < steps.size(); ++p) units_of(steps[p]) = units_of(by_rows[p]);
  };
  for (std::size_t l = 0; l < all.layers.size(); ++l) {
    divide([l](auto& share) -> auto& { return share.layers[l].heads; });
    divide([l](auto& share) -> auto& { return share.layers[l].columns; });
  }
  divide([](auto& share) -> auto& { return share.vocabulary; });
  return steps;
}

/// Heads whose keys and values a rank keeps of its sequence, by layer.
std::vector<model::Range> kept_by(const model::ModelConfig& config, const std::vector<Share>& steps,
                                  std::size_t rank) {
  std::vector<model::Range> kept;
  if (config.causal && !steps.empty())
    for (const LayerShare& layer : steps[rank].layers) kept.push_back(layer.heads);
  return kept;
}

/// What the task reads of the states, where it does not read them all: the first tokens.
model::Range rows_read(const model::ModelConfig& config, std::int64_t rows) {
  return {0, config.task == model::Task::classification ? config.summary_tokens : rows};
}

bool all_have_vocabulary(const model::ModelConfig& config, const std::vector<Share>& shares) {
  return std::all_of(shares.begin(), shares.end(), [&](const Share& share) {
    return share.vocabulary.size() == config.vocabulary;
  });
}

/// The ranks' ranges follow each other up to the last of `units`, or each is all of them.
template <class RangeOf>
void expect_ranges(const Plan& plan, bool divided, std::int64_t units, const std::string& field,
                   const RangeOf& range_of) {
  const auto text = [](const model::Range& range) {
    return std::to_string(range.begin) + ":" + std::to_string(range.end);
  };
  std::int64_t next = 0;
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const std::string where = "parts[" + std::to_string(p) + "].share." + field;
    const model::Range saw = range_of(*plan.parts[p].share());
    if (!divided) {
      if (!(saw == model::Range{0, units}))
        refuse(where, text(saw), text({0, units}) + ", all of them on each device");
      continue;
    }
    if (saw.begin != next && saw.size() > 0)
      refuse(where, text(saw), "a range from " + std::to_string(next) + " on");
    if (saw.size() > 0) next = saw.end;
  }
  if (divided && next != units)
    refuse("parts", "shares whose " + field + " end at " + std::to_string(next),
           std::to_string(units) + " in all");
}

}  // namespace

std::vector<Share> equal_shares(const model::ModelConfig& teacher, std::size_t devices) {
  return shares_by_weight(teacher, std::vector<std::int64_t>(devices, 1));
}

std::vector<Share> shares_by_weight(const model::ModelConfig& teacher,
                                    const std::vector<std::int64_t>& weights) {
  std::vector<Share> shares(weights.size());
  for (const LayerShare& layer : whole_share(teacher).layers) {
    const auto heads = ranges_by_weight(layer.heads.size(), weights);
    const auto columns = ranges_by_weight(layer.columns.size(), weights);
    for (std::size_t p = 0; p < shares.size(); ++p)
      shares[p].layers.push_back({heads[p], columns[p]});
  }
  const auto vocabulary = ranges_by_weight(teacher.vocabulary, weights);
  for (std::size_t p = 0; p < shares.size(); ++p) shares[p].vocabulary = vocabulary[p];
  return shares;
}

std::vector<Share> shares_by_weight(const model::ModelConfig& teacher, const Division& division,
                                    const Weights& weights) {
  const std::vector<Share> heads = shares_by_weight(teacher, weights.heads),
                           columns = shares_by_weight(teacher, weights.columns),
                           vocabulary = shares_by_weight(teacher, weights.vocabulary);
  std::vector<Share> shares(weights.rows.size(), whole_share(teacher));
  for (std::size_t p = 0; p < shares.size(); ++p) {
    for (std::size_t l = 0; l < teacher.layers.size(); ++l) {
      if (division.heads) shares[p].layers[l].heads = heads[p].layers[l].heads;
      if (division.columns) shares[p].layers[l].columns = columns[p].layers[l].columns;
    }
    if (division.vocabulary) shares[p].vocabulary = vocabulary[p].vocabulary;
    if (division.rows) shares[p].rows = weights.rows[p];
  }
  return shares;
}

std::vector<Program> compile_shared(const model::ModelConfig& teacher, const SharedPass& pass,
                                    std::int32_t ranks, const RequestShape& shape,
                                    base::Element element) {
  const auto computing = static_cast<std::int32_t>(pass.shares.size());
  const std::int64_t rows = rows_in(teacher, shape);
  const bool all_tokens = all_have_vocabulary(teacher, pass.shares);
  const bool by_token = teacher.reads_every_token() && !all_tokens;
  const bool every_token = teacher.task == model::Task::masked_lm || shape.every_token;
  const bool by_row = !pass.rows.empty() && every_token && all_tokens;
  ProgramBuilder aggregator(ranks, element);
  const InputSource input(aggregator, ranks, teacher, shape, computing);
  Answer answer(aggregator, ranks, shape);
  std::vector<Program> programs;
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    ProgramBuilder agent(rank, element);
    if (rank >= computing) {
      programs.push_back(agent.take());
      continue;
    }
    const auto r = static_cast<std::size_t>(rank);
    Collectives collectives(agent, rank, computing, pass.all_reduce, pass.wire);
    const ValueId given = input.receive(agent), ids = answer.keep(agent, given);
    ForwardBuilder forward(
        agent, teacher, given, collectives, pass.shares,
        {pass.rows, pass.overlap, pass.gathered, pass.reordered, kept_by(teacher, pass.steps, r)});
    ValueId states = model::states(forward, teacher);
    if (!pass.rows.empty() && by_token)
      states = forward.all_rows(states);
    else if (!pass.rows.empty() && !by_row)
      states = collectives.gather(states, pass.rows, rows_read(teacher, rows));
    const bool answers_here = by_token ? pass.shares[r].vocabulary.size() > 0 : by_row || rank == 0;
    if (answers_here)
      answer.bring(agent, rank, forward.head(forward.read_out(states, shape)), ids,
                   pass.shares[r].vocabulary);
    programs.push_back(agent.take());
  }
  if (by_row)
    answer.output(1);
  else
    answer.output();
  programs.push_back(aggregator.take());
  return programs;
}

std::vector<std::int64_t> weights_by_speed(const std::vector<Capacity>& devices) {
  constexpr double grain = 1000;
  double fastest = 0;
  for (const Capacity& device : devices) fastest = std::max(fastest, device.speed);
  std::vector<std::int64_t> speeds;
  for (const Capacity& device : devices)
    speeds.push_back(std::max<std::int64_t>(1, std::llround(grain * device.speed / fastest)));
  return speeds;
}

std::vector<Share> propose_rows(const model::ModelConfig& teacher,
                                const std::vector<Capacity>& devices) {
  return divide_rows(teacher, weights_by_speed(devices));
}

std::vector<Share> divide_rows(const model::ModelConfig& teacher,
                               const std::vector<std::int64_t>& weights) {
  std::vector<Share> shares(weights.size(), whole_share(teacher));
  for (std::size_t p = 0; p < weights.size(); ++p) shares[p].rows = weights[p];
  return shares;
}

std::int64_t rows_in(const model::ModelConfig& config, const RequestShape& shape) {
  return config.is_text() ? shape.tokens : config.num_tokens();
}

std::vector<model::Range> rows_of(const Plan& plan, std::int64_t rows) {
  return rows_of(with_rows(plan), rows);
}

std::vector<Program> compile_whole_stream(const Plan& plan, const RequestShape& shape,
                                          base::Element element) {
  SharedPass pass;
  pass.shares = shares_of(plan);
  pass.all_reduce = plan.all_reduce;
  pass.wire = plan.wire;
  return compile_shared(plan.teacher, pass, static_cast<std::int32_t>(plan.parts.size()), shape,
                        element);
}

std::vector<Program> compile_by_rows(const Plan& plan, const RequestShape& shape,
                                     base::Element element) {
  const model::ModelConfig& config = plan.teacher;
  SharedPass pass;
  pass.shares = with_rows(plan);
  pass.steps = steps_of(config, pass.shares);
  pass.all_reduce = plan.all_reduce;
  pass.wire = plan.wire;
  const std::int64_t rows = rows_in(config, shape);
  // Who computes the queries of some rows keeps the keys and values of the heads of its steps.
  const bool elsewhere = shape.continues && !(pass.steps == pass.shares);
  if (elsewhere || pass.shares.size() == 1 ||
      rows < static_cast<std::int64_t>(pass.shares.size())) {
    pass.shares = pass.steps;
  } else {
    pass.rows = rows_of(pass.shares, rows);
    pass.overlap = plan.overlap;
    pass.gathered = plan.gathered;
    pass.reordered = plan.reordered;
  }
  return compile_shared(config, pass, static_cast<std::int32_t>(plan.parts.size()), shape, element);
}

void expect_shares(const Plan& plan) {
  const std::string strategy = "the strategy '" + plan.strategy + "' ";
  if (!plan.teacher.answers())
    refuse("teacher", "no head", "one: " + strategy + "answers as the teacher does");
  for (std::size_t p = 0; p < plan.parts.size(); ++p)
    if (!plan.parts[p].share())
      refuse("parts[" + std::to_string(p) + "]", "a sub-model",
             "a share: " + strategy + "divides the teacher");
}

void expect_division(const Plan& plan, const Division& division) {
  for (std::size_t l = 0; l < plan.teacher.layers.size(); ++l) {
    const std::string layer = "layers[" + std::to_string(l) + "].";
    const model::LayerShape& shape = plan.teacher.layers[l];
    expect_ranges(plan, division.heads, shape.heads / plan.teacher.group, layer + "heads",
                  [l](const Share& s) { return s.layers[l].heads; });
    expect_ranges(plan, division.columns, shape.mlp_width, layer + "columns",
                  [l](const Share& s) { return s.layers[l].columns; });
  }
  expect_ranges(plan, division.vocabulary, plan.teacher.vocabulary, "vocabulary",
                [](const Share& s) { return s.vocabulary; });
  // Who has no rows has nothing to do, where nothing else is divided.
  const bool may_be_idle = !division.heads && !division.columns;
  const auto rows = [&](std::size_t p) { return plan.parts[p].share()->rows; };
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const std::string field = "parts[" + std::to_string(p) + "].share.rows";
    if (rows(p) > 0 && !division.rows)
      refuse(field, std::to_string(rows(p)),
             "none: the strategy '" + plan.strategy + "' divides none here");
    if (rows(p) == 0 && division.rows && !(may_be_idle && p > 0)) refuse(field, "0", "at least 1");
    if (rows(p) > 0 && p > 0 && rows(p - 1) == 0)
      refuse(field, std::to_string(rows(p)) + " behind a device without rows",
             "those without to be the last");
  }
}

}  // namespace cleave::plan
