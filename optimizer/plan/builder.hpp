#pragma once

#include <string>
#include <utility>
#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

/// Writes one rank's program: each call appends an instruction and gives the value it writes.
class ProgramBuilder {
 public:
  explicit ProgramBuilder(std::int32_t rank) { program_.rank = rank; }

  /// What the request gives: pixels, uint8 [B, c, h, w], or token ids, int32 [B, N].
  ValueId input(const model::ModelConfig& config, const RequestShape& shape);
  /// Part `part` on it: features [B, T, D_p], or with the head what the model answers. Of a causal
  /// model both are the last token's.
  ValueId sub_model(std::int32_t part, const model::ModelConfig& config, ValueId given,
                    bool with_head);
  void send(ValueId value, std::int32_t peer, std::uint32_t tag);
  /// What `peer` sends under `tag`: shape and element of `like`.
  ValueId receive(const ValueInfo& like, std::int32_t peer, std::uint32_t tag, bool may_be_absent);
  /// Features of the parts, absent ones too -> what the teacher's head answers.
  ValueId fuse(const model::ModelConfig& teacher, std::vector<ValueId> features);
  void output(ValueId value);

  const ValueInfo& info(ValueId value) const {
    return program_.values[static_cast<std::size_t>(value)];
  }
  Program take() { return std::move(program_); }

 private:
  ValueId value(std::string name, base::Element element, std::vector<std::int64_t> dims);
  Program program_;
};

}  // namespace cleave::plan
