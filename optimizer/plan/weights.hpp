#pragma once

#include <string>
#include <vector>

#include "model/config/holding.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::plan {

class Bundle;

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

/// Shapes between which a strategy may choose how it divides a text: a step, and all that fits.
/// What holds of their programs together holds of every request's.
std::vector<RequestShape> shapes_of(const Plan& plan);

/// What a device keeps of the teacher for all of the plans that it has a share in, of whatever
/// shape their requests are: of each parameter from the first that one of them reads to the last.
/// Nothing where it has no share.
std::vector<model::ParameterRange> holding_of(const std::vector<Plan>& plans,
                                              const std::string& device);

/// Bytes of all weights that a device keeps for its parts of these plans, sub-models and shares.
double held_bytes(const std::vector<Plan>& plans, const std::string& device);

/// Throws std::invalid_argument where the plan is another teacher's, or what the device keeps in
/// this bundle is not all that its programs read: "[plan 'fast'] holdings/cam: saw 0:64 of
/// blocks.0.mlp.up.weight, needs 0:96; cut the bundle again". Sub-models are those of the bundle's
/// plan of the same name.
void expect_held(const Bundle& bundle, const Plan& plan, const std::string& device);

}  // namespace cleave::plan
