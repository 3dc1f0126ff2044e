#include <algorithm>
#include <stdexcept>
#include <string>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/answer.hpp"
#include "optimizer/plan/strategies/collectives.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/strategies.hpp"
#include "optimizer/plan/strategies/wire.hpp"

namespace cleave::plan {
namespace {

/// The layers of which a share has something.
model::Range layers_of(const Share& share) {
  const auto has = [](const LayerShare& layer) {
    return layer.heads.size() > 0 || layer.columns.size() > 0;
  };
  const auto first = std::find_if(share.layers.begin(), share.layers.end(), has);
  const auto last = std::find_if(share.layers.rbegin(), share.layers.rend(), has).base();
  return {first - share.layers.begin(), std::max(first, last) - share.layers.begin()};
}

/// Parts of the batch that follow each other through the stages: as many as there are stages.
std::vector<model::Range> micro_batches(std::int64_t batch, std::size_t stages) {
  return equal_ranges(batch, std::min(static_cast<std::size_t>(batch), stages));
}

/// Throws std::invalid_argument.
void expect_a_layer_each(const model::ModelConfig& teacher, std::size_t devices) {
  if (teacher.num_layers() < static_cast<std::int64_t>(devices))
    refuse("parts", std::to_string(devices) + " devices",
           "at most " + std::to_string(teacher.num_layers()) +
               ", one for each of the teacher's layers");
}

/// So many layers each, one after the other.
std::vector<Share> shares_of(const model::ModelConfig& teacher,
                             const std::vector<std::int64_t>& counts) {
  const Share all = whole_share(teacher);
  std::vector<Share> shares;
  std::size_t begin = 0;
  for (const std::int64_t count : counts) {
    Share share;
    share.layers.resize(all.layers.size());
    share.vocabulary = all.vocabulary;
    for (const std::size_t end = begin + static_cast<std::size_t>(count); begin < end; ++begin)
      share.layers[begin] = all.layers[begin];
    shares.push_back(std::move(share));
  }
  return shares;
}

}  // namespace

void check_pipeline(const Plan& plan) {
  if (!plan.teacher.answers())
    refuse("teacher", "no head", "one: the strategy 'pipeline' answers as the teacher does");
  const Share all = whole_share(plan.teacher);
  std::int64_t next = 0;
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const std::string where = "parts[" + std::to_string(p) + "]";
    if (!plan.parts[p].share())
      refuse(where, "a sub-model", "a share: the strategy 'pipeline' divides the teacher");
    expect_no_rows(*plan.parts[p].share(), where, "pipeline");
    const model::Range layers = layers_of(*plan.parts[p].share());
    if (layers.size() == 0) refuse(where + ".share.layers", "none", "at least one");
    if (layers.begin != next)
      refuse(where + ".share.layers", "layers from " + std::to_string(layers.begin) + " on",
             "those from " + std::to_string(next) + " on, where the device before it ends");
    for (std::int64_t l = layers.begin; l < layers.end; ++l) {
      const auto i = static_cast<std::size_t>(l);
      if (!(plan.parts[p].share()->layers[i] == all.layers[i]))
        refuse(where + ".share.layers[" + std::to_string(l) + "]", "some of its heads or columns",
               "all of them");
    }
    next = layers.end;
  }
  if (next != plan.teacher.num_layers())
    refuse("parts", "layers up to " + std::to_string(next) + " in all",
           "the teacher's " + std::to_string(plan.teacher.num_layers()));
}

/// Layers by speed, as many as there is room for: what one has no room for goes to those that have.
std::vector<Share> propose_pipeline(const model::ModelConfig& teacher,
                                    const std::vector<Capacity>& devices) {
  const std::int64_t layers = teacher.num_layers();
  const auto parts = static_cast<std::int64_t>(devices.size());
  expect_a_layer_each(teacher, devices.size());
  const double layer_bytes = 4.0 * static_cast<double>(model::count_parameters(teacher, true)) /
                             static_cast<double>(std::max<std::int64_t>(1, layers));
  const auto room = [&](std::size_t p) {
    return devices[p].weight_bytes <= 0
               ? layers
               : std::max<std::int64_t>(
                     1, static_cast<std::int64_t>(devices[p].weight_bytes / layer_bytes));
  };
  // One each, then always to whoever would be done first with one more.
  std::vector<std::int64_t> counts(devices.size(), 1);
  for (std::int64_t left = layers - parts; left > 0; --left) {
    std::size_t best = devices.size();
    double soonest = 0;
    for (std::size_t p = 0; p < devices.size(); ++p) {
      const double done = static_cast<double>(counts[p] + 1) / devices[p].speed;
      if (counts[p] >= room(p) || (best < devices.size() && done >= soonest)) continue;
      best = p;
      soonest = done;
    }
    // Nobody has room: the nearest plan is that of speeds alone, and its memory is what is short.
    if (best == devices.size())
      best = static_cast<std::size_t>(std::max_element(devices.begin(), devices.end(),
                                                       [](const Capacity& a, const Capacity& b) {
                                                         return a.weight_bytes < b.weight_bytes;
                                                       }) -
                                      devices.begin());
    ++counts[best];
  }
  return shares_of(teacher, counts);
}

std::vector<Share> divide_pipeline(const model::ModelConfig& teacher,
                                   const std::vector<std::int64_t>& weights) {
  expect_a_layer_each(teacher, weights.size());
  return shares_of(teacher, divided(teacher.num_layers(), weights));
}

/// Each device computes its layers and hands the stream on; the last one answers. A batch goes in
/// micro-batches (Huang and others 2019), so that all devices compute.
std::vector<Program> compile_pipeline(const Plan& plan, const RequestShape& shape,
                                      base::Element element) {
  const model::ModelConfig& config = plan.teacher;
  const auto ranks = static_cast<std::int32_t>(plan.parts.size());
  const auto batches = micro_batches(shape.batch, plan.parts.size());
  std::vector<Program> programs;
  std::vector<ValueInfo> handed_on;  // by the rank before
  ProgramBuilder aggregator(ranks, element);
  // Where texts stand is read off their ids, on every device.
  const InputSource input(aggregator, ranks, config, shape, config.is_text() ? ranks : 1);
  Answer answer(aggregator, ranks, shape);
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    ProgramBuilder agent(rank, element);
    Wire wire(agent, plan.wire);
    const bool first = rank == 0, last = rank == ranks - 1;
    const ValueId given = first || config.is_text() ? input.receive(agent) : -1;
    const ValueId ids = last ? answer.keep(agent, given) : -1;
    const Share& share = *plan.parts[static_cast<std::size_t>(rank)].share();
    ForwardBuilder forward(agent, config, teacher_part, given);
    const ValueId embedded = first ? model::embedded(forward, config) : -1;
    std::vector<ValueId> states;
    std::vector<ValueInfo> handing_on;
    for (std::size_t m = 0; m < batches.size(); ++m) {
      const auto tag = static_cast<std::uint32_t>(m);
      forward.of_texts(batches[m]);
      ValueId x =
          first
              ? agent.slice(embedded, 0, batches[m])
              : wire.unpacked(wire.receive("x_" + std::to_string(m), handed_on[m], rank - 1, tag));
      const model::Range layers = layers_of(share);
      for (std::int64_t l = layers.begin; l < layers.end; ++l)
        x = model::block(forward, config, static_cast<int>(l), x);
      if (!last) agent.send(wire.packed(x), rank + 1, tag);
      states.push_back(x);
      handing_on.push_back(agent.info(x));
    }
    if (last)
      answer.bring(agent, rank,
                   forward.head(forward.read_out(agent.concat(std::move(states), 0), shape)), ids,
                   {0, config.vocabulary});
    handed_on = std::move(handing_on);
    programs.push_back(agent.take());
  }
  answer.output();
  programs.push_back(aggregator.take());
  return programs;
}

}  // namespace cleave::plan
