#pragma once

#include <string>
#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

/// Some of one parameter: elements [begin, end) along an axis, or all of it.
struct WeightRange {
  std::int32_t part = teacher_part;
  std::string parameter;  // canonical name (model/config/config.hpp)
  std::int64_t axis = 0;
  model::Range range;
  bool operator==(const WeightRange& other) const {
    return part == other.part && parameter == other.parameter && axis == other.axis &&
           range == other.range;
  }
};

/// The weights that an instruction reads; of a fusion head none, which is no model's.
std::vector<WeightRange> weights_of(const Instruction& instruction, const Plan& plan);

/// The union of what the programs of one device read, by part and name: where two of them read
/// ranges of one parameter, from the first of them to the last.
std::vector<WeightRange> weights_of(const std::vector<const Program*>& programs, const Plan& plan);

/// Numbers in them.
std::int64_t count_of(const WeightRange& weights, const Plan& plan);

}  // namespace cleave::plan
