#pragma once

#include <string>
#include <vector>

#include "model/config/holding.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::plan {

/// Some of one parameter of a part, or of the teacher.
struct WeightRange {
  std::int32_t part = teacher_part;
  model::ParameterRange held;
};

/// The model whose weights `part` are: a sub-model of the plan, or the teacher.
const model::ModelConfig& config_of(std::int32_t part, const Plan& plan);

/// The weights that an instruction reads; of a fusion head none, which is no model's.
std::vector<WeightRange> weights_of(const Instruction& instruction, const Plan& plan);

/// The union of what the programs of one device read, by part and name: where two of them read
/// ranges of one parameter, from the first of them to the last.
std::vector<WeightRange> weights_of(const std::vector<const Program*>& programs, const Plan& plan);

/// What a device keeps of the teacher for its rank in the plan: of whatever shape its requests are.
/// Nothing where the plan has no shares.
std::vector<model::ParameterRange> holding_of(const Plan& plan, std::size_t rank);

}  // namespace cleave::plan
