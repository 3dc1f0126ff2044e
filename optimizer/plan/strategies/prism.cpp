#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/strategies/answer.hpp"
#include "optimizer/plan/strategies/input_source.hpp"
#include "optimizer/plan/strategies/shared_pass.hpp"
#include "optimizer/plan/strategies/strategies.hpp"
#include "optimizer/plan/strategies/wire.hpp"

// PRISM (2025): each device has all weights and computes some rows of the sequence, as with
// Voltage; but the others get S rows instead of its own, the means of S segments, each of which
// weighs as many rows as it stands for: (P-1)·S·D numbers a block from each device. In a causal
// model only later devices get them. A text that is generated belongs to the last device, which has
// seen all of the prompt, and goes on alone. Beyond the paper: segments by content (clusters), and
// mean positions where positions are rotary.

namespace cleave::plan {
namespace {

/// What one device gives the others and gets from them, layer by layer.
class Exchange {
 public:
  Exchange(ProgramBuilder& program, const Plan& plan, std::int32_t rank,
           const std::vector<model::Range>& ranges, std::int64_t batch, ValueId lengths)
      : program_(program),
        plan_(plan),
        rank_(rank),
        ranges_(ranges),
        batch_(batch),
        lengths_(lengths),
        wire_(program, plan.wire) {}

  /// What keys and values of a layer are computed from: the others' segments, and its own rows
  /// between those of earlier and of later devices.
  ForwardBuilder::KeyRows operator()(int layer, ValueId own) {
    give(layer, own);
    ForwardBuilder::KeyRows rows;
    std::vector<ValueId> pieces, marks;
    std::int64_t count = 0;
    for (std::int32_t rank = 0; rank < devices(); ++rank) {
      if (rank != rank_ && !gives(rank, rank_)) continue;
      const std::int64_t segments = segments_of(layer, rank);
      ValueInfo like = program_.info(own);
      like.dims.at(1) = segments;
      if (rank == rank_) rows.own = {count, count + range_of(rank).size()};
      pieces.push_back(rank == rank_ ? own
                                     : wire_.unpacked(wire_.receive(name_of("z", layer, rank), like,
                                                                    rank, tag_of(layer))));
      if (rank == rank_) {
        marks.push_back(marks_of(rank, range_of(rank).size()));
      } else if (clusters(layer, rank)) {
        like.dims.at(2) = 2;
        marks.push_back(
            program_.receive(name_of("g", layer, rank), like, rank, tag_of(layer) + 1, false));
      } else {
        marks.push_back(marks_of(rank, segments));
      }
      count += program_.info(pieces.back()).dims.at(1);
    }
    rows.x = program_.concat(std::move(pieces), 1);
    rows.marks = all_marks(std::move(marks));
    return rows;
  }

  /// Not used by the exchange.
  std::uint32_t last_tag() const { return tag_of(static_cast<int>(plan_.teacher.layers.size())); }

 private:
  std::int32_t devices() const { return static_cast<std::int32_t>(ranges_.size()); }
  const model::Range& range_of(std::int32_t rank) const {
    return ranges_[static_cast<std::size_t>(rank)];
  }
  std::int64_t segments_of(int layer, std::int32_t rank) const {
    return plan_.segments->of(static_cast<std::size_t>(layer), range_of(rank).size());
  }
  /// Nobody can tell what a cluster stands for but who made it.
  bool clusters(int layer, std::int32_t rank) const {
    return plan_.segments->content == Segments::Content::clusters &&
           segments_of(layer, rank) < range_of(rank).size();
  }
  /// Tokens of a causal model do not see later ones.
  bool gives(std::int32_t from, std::int32_t to) const {
    return from != to && (!plan_.teacher.causal || from < to);
  }
  static std::uint32_t tag_of(int layer) { return 2 * static_cast<std::uint32_t>(layer); }

  void give(int layer, ValueId own) {
    if (plan_.teacher.causal && rank_ + 1 == devices()) return;
    const model::Range& range = range_of(rank_);
    const std::int64_t segments = segments_of(layer, rank_);
    ValueId marks = -1;
    if (clusters(layer, rank_))
      std::tie(own, marks) = program_.cluster(own, lengths_, range, segments);
    else
      own = program_.segment_means(own, lengths_, range, segments);
    own = wire_.packed(own);
    for (std::int32_t step = 1; step < devices(); ++step) {
      const std::int32_t to = (rank_ + step) % devices();
      if (!gives(rank_, to)) continue;
      program_.send(own, to, tag_of(layer));
      if (marks >= 0) program_.send(marks, to, tag_of(layer) + 1);
    }
  }

  static std::string name_of(const char* letter, int layer, std::int32_t rank) {
    return letter + std::to_string(layer) + "_" + std::to_string(rank);
  }
  /// The same in every layer with as many segments.
  ValueId marks_of(std::int32_t rank, std::int64_t segments) {
    const auto [at, added] = marks_.emplace(std::pair(rank, segments), -1);
    if (added) at->second = program_.marks(batch_, lengths_, range_of(rank), segments);
    return at->second;
  }
  ValueId all_marks(std::vector<ValueId> pieces) {
    const auto [at, added] = all_marks_.emplace(pieces, -1);
    if (added) at->second = program_.concat(std::move(pieces), 1);
    return at->second;
  }

  ProgramBuilder& program_;
  const Plan& plan_;
  std::int32_t rank_;
  const std::vector<model::Range>& ranges_;
  std::int64_t batch_;
  ValueId lengths_;
  Wire wire_;  // marks travel as they are: they count
  std::map<std::pair<std::int32_t, std::int64_t>, ValueId> marks_;  // by rank and segments
  std::map<std::vector<ValueId>, ValueId> all_marks_;
};

/// Who answers: whose rows the task reads, where it does not read all of them.
std::int32_t answering(const model::ModelConfig& config, std::int32_t devices) {
  return config.causal ? devices - 1 : 0;
}

/// Whether these rows bring something to the feature.
bool is_read(const model::ModelConfig& config, const model::Range& rows) {
  const bool all = config.causal || (config.task == model::Task::embedding &&
                                     config.pooling == model::Pooling::mean);
  return all || rows.begin < config.summary_tokens;
}

/// One device computes all of it, with all weights: what continues a text, or fewer rows than
/// devices.
std::vector<Program> alone(const Plan& plan, const RequestShape& shape, base::Element element,
                           std::int32_t rank) {
  const auto ranks = static_cast<std::int32_t>(plan.parts.size());
  ProgramBuilder aggregator(ranks, element);
  const InputSource input(aggregator, ranks, plan.teacher, shape, 1, rank);
  Answer answer(aggregator, ranks, shape);
  std::vector<Program> programs;
  for (std::int32_t r = 0; r < ranks; ++r) {
    ProgramBuilder agent(r, element);
    if (r == rank) {
      const ValueId given = input.receive(agent), ids = answer.keep(agent, given);
      ForwardBuilder forward(agent, plan.teacher, teacher_part, given);
      const ValueId states = model::states(forward, plan.teacher);
      answer.bring(agent, rank, forward.head(forward.read_out(states, shape)), ids,
                   {0, plan.teacher.vocabulary});
    }
    programs.push_back(agent.take());
  }
  answer.output();
  programs.push_back(aggregator.take());
  return programs;
}

std::string hundredths_text(std::int64_t hundredths) {
  const std::string rest = std::to_string(100 + hundredths % 100).substr(1);
  return std::to_string(hundredths / 100) + (rest == "00" ? "" : "." + rest);
}

std::int64_t devices_with_rows(const Plan& plan) {
  return std::count_if(plan.parts.begin(), plan.parts.end(),
                       [](const PlanPart& part) { return part.share()->rows > 0; });
}

}  // namespace

void check_prism(const Plan& plan) {
  expect_shares(plan);
  expect_division(plan, divisions_voltage().front());
  const std::int64_t rows = rows_in(plan.teacher, plan.shape);
  if (rows < devices_with_rows(plan)) return;
  // Of a shorter text than planned every device gives one segment at least.
  const std::vector<model::Range> ranges = rows_of(plan, rows);
  for (std::size_t p = 0; p < ranges.size(); ++p)
    for (const std::int64_t hundredths : plan.segments->compression)
      if (ranges.size() > 1 && hundredths > 200 * ranges[p].size())
        refuse("segments.compression", hundredths_text(hundredths),
               "at most " + std::to_string(2 * ranges[p].size()) + ": device '" +
                   plan.parts[p].device + "' has " + std::to_string(ranges[p].size()) +
                   " rows, and no segment is left of them");
}

std::vector<Program> compile_prism(const Plan& plan, const RequestShape& shape,
                                   base::Element element) {
  const model::ModelConfig& config = plan.teacher;
  const auto ranks = static_cast<std::int32_t>(plan.parts.size());
  const auto devices = static_cast<std::int32_t>(devices_with_rows(plan));
  const std::int64_t rows = rows_in(config, shape);
  const std::int32_t answers = answering(config, devices);
  if (devices == 1 || rows < devices || shape.continues)
    return alone(plan, shape, element, answers);

  const std::vector<model::Range> ranges = rows_of(plan, rows);
  // Who is asked for every token answers where its rows are, else where their sum is.
  const bool by_row = config.task == model::Task::masked_lm || shape.every_token;
  ProgramBuilder aggregator(ranks, element);
  const InputSource input(aggregator, ranks, config, shape, devices);
  Answer answer(aggregator, ranks, shape);
  std::vector<Program> programs;
  for (std::int32_t rank = 0; rank < ranks; ++rank) {
    ProgramBuilder agent(rank, element);
    if (rank >= devices) {
      programs.push_back(agent.take());
      continue;
    }
    const model::Range own = ranges[static_cast<std::size_t>(rank)];
    const ValueId given = input.receive(agent);
    const ValueId ids = rank == answers ? answer.keep(agent, given) : -1;
    ForwardBuilder forward(agent, config, teacher_part, given);
    Exchange exchange(agent, plan, rank, ranges, shape.batch, forward.lengths());
    std::vector<model::Range> kept(config.layers.size());
    if (config.causal && rank == answers)
      for (std::size_t l = 0; l < kept.size(); ++l)
        kept[l] = {0, config.layers[l].heads / config.group};
    forward.of_rows(own, std::ref(exchange), std::move(kept));
    const ValueId states = model::states(forward, config);
    ValueId feature = -1;
    if (by_row) {
      feature = forward.read_out(states, shape);
    } else if (rank == answers) {
      feature = forward.read_out_rows(states);
      for (std::int32_t other = 0; other < devices; ++other)
        if (other != rank && is_read(config, ranges[static_cast<std::size_t>(other)]))
          feature =
              agent.add(feature, agent.receive("f_" + std::to_string(other), agent.info(feature),
                                               other, exchange.last_tag(), false));
    } else if (is_read(config, own)) {
      agent.send(forward.read_out_rows(states), answers, exchange.last_tag());
    }
    if (feature >= 0) answer.bring(agent, rank, forward.head(feature), ids, {0, config.vocabulary});
    programs.push_back(agent.take());
  }
  answer.output(1);
  programs.push_back(aggregator.take());
  return programs;
}

}  // namespace cleave::plan
