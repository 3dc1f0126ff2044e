#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "optimizer/plan/builder.hpp"

namespace cleave::plan {

/// What the aggregator, rank P, answers with: what ranks computed of the model's answer, put
/// together; or where the shape asks for tokens, those that are chosen from what each rank says of
/// its logits (see Best).
class Answer {
 public:
  /// `aggregator`: the program of rank P, `rank`, behind its input.
  Answer(ProgramBuilder& aggregator, std::int32_t rank, const RequestShape& shape)
      : aggregator_(aggregator), rank_(rank), k_(shape.best) {
    if (k_ > 0) sampling_ = aggregator.sampling(shape.batch);
  }

  /// In the program of every rank that may bring logits, in this request or in a later one of the
  /// text: what it needs of `ids`. −1 where no token is asked for.
  ValueId keep(ProgramBuilder& agent, ValueId ids) const {
    return k_ > 0 ? agent.keep_ids(ids) : -1;
  }
  /// The agent `from` has a piece of the model's answer, of `vocabulary` where that is logits.
  void bring(ProgramBuilder& agent, std::int32_t from, ValueId piece, ValueId kept,
             model::Range vocabulary) {
    if (k_ > 0) {
      aggregator_.send(sampling_, from, sampling_tag);
      const ValueId sampling =
          agent.receive("sampling", aggregator_.info(sampling_), rank_, sampling_tag, false);
      piece = agent.best(piece, sampling, kept, vocabulary, k_);
    }
    agent.send(piece, rank_, tag);
    pieces_.push_back(
        aggregator_.receive("y_" + std::to_string(from), agent.info(piece), from, tag, false));
  }
  /// The aggregator computes all of it itself.
  void bring_own(ValueId whole, ValueId kept) {
    if (k_ > 0)
      whole =
          aggregator_.best(whole, sampling_, kept, {0, aggregator_.info(whole).dims.back()}, k_);
    pieces_.push_back(whole);
  }
  /// Pieces follow each other along the axis.
  void output(std::int32_t axis) {
    aggregator_.output(k_ > 0 ? aggregator_.sample(std::move(pieces_), sampling_)
                              : aggregator_.concat(std::move(pieces_), axis));
  }
  /// Along the last one.
  void output() {
    const auto axes = aggregator_.info(pieces_.front()).dims.size();
    output(static_cast<std::int32_t>(axes) - 1);
  }

 private:
  static constexpr std::uint32_t tag = 0;           // the only value that an agent brings
  static constexpr std::uint32_t sampling_tag = 1;  // behind the request's input
  ProgramBuilder& aggregator_;
  std::int32_t rank_;
  std::int64_t k_;
  ValueId sampling_ = -1;
  std::vector<ValueId> pieces_;
};

}  // namespace cleave::plan
