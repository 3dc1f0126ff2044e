#pragma once

#include <cstdint>

#include "optimizer/plan/builder.hpp"

namespace cleave::plan {

/// The request's input, which rank P sends to the first `receivers` ranks, or those from `first`
/// on, as any value goes.
class InputSource {
 public:
  /// `aggregator`: the program of rank P, `rank`.
  InputSource(ProgramBuilder& aggregator, std::int32_t rank, const model::ModelConfig& config,
              const RequestShape& shape, std::int32_t receivers, std::int32_t first = 0)
      : rank_(rank) {
    const ValueId input = aggregator.input(config, shape);
    info_ = aggregator.info(input);
    for (std::int32_t to = first; to < first + receivers; ++to) aggregator.send(input, to, tag);
  }

  /// In the program of one of them.
  ValueId receive(ProgramBuilder& agent) const {
    return agent.receive(info_.name, info_, rank_, tag, false);
  }

 private:
  static constexpr std::uint32_t tag = 0;  // the only value that rank P sends
  std::int32_t rank_;
  ValueInfo info_;
};

}  // namespace cleave::plan
