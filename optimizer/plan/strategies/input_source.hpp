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
    given_ = aggregator.input(config, shape);
    info_ = aggregator.info(given_);
    for (std::int32_t to = first; to < first + receivers; ++to) aggregator.send(given_, to, tag);
  }

  /// In the program of rank P.
  ValueId given() const { return given_; }

  /// In the program of one of them.
  ValueId receive(ProgramBuilder& agent) const {
    return agent.receive(info_.name, info_, rank_, tag, false);
  }

 private:
  static constexpr std::uint32_t tag = 0;
  std::int32_t rank_;
  ValueInfo info_;
  ValueId given_ = -1;
};

}  // namespace cleave::plan
