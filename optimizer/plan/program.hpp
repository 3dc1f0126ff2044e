#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/element.hpp"
#include "optimizer/plan/plan.hpp"
#include "optimizer/plan/work.hpp"

namespace cleave::plan {

/// The vocabulary of programs (design: strategies are programs). The two strategies here use input,
/// sub_model, send, receive, fuse and output; others come with the strategies that need them.
enum class Op : std::uint8_t { input, sub_model, send, receive, fuse, output };

using ValueId = std::int32_t;

/// A named value: written once, by the one instruction that names it as result.
struct ValueInfo {
  std::string name;
  base::Element element = base::Element::f32;
  std::vector<std::int64_t> dims;
  double bytes() const;
};

struct Instruction {
  Op op = Op::input;
  ValueId result = -1;  // −1: none (send, output)
  std::vector<ValueId> operands;
  std::int32_t peer = -1;      // send, receive: rank
  std::uint32_t tag = 0;       // send, receive: unique in the request between two ranks
  std::int32_t part = -1;      // sub_model: which part of the plan
  bool may_be_absent = false;  // receive: yields "absent" at its deadline
  bool with_head = false;      // sub_model: logits instead of features (local)
};

/// What one device does for one request of one shape. A pure function of (plan, shape, rank),
/// integers only, so that the digest agrees on every machine.
struct Program {
  std::int32_t rank = 0;
  std::vector<ValueInfo> values;
  std::vector<Instruction> instructions;
  std::string digest;  // SHA-256 of the canonical text of all ranks' instructions, 64 hex digits
};

/// One strategy: how shares become programs. Nothing else in the project knows its name.
struct Strategy {
  std::string_view name;
  std::string_view summary;
  std::vector<Program> (*compile)(const Plan& plan, const RequestShape& shape);
  /// What its shares must be, beyond check(plan). Throws std::invalid_argument.
  void (*check)(const Plan& plan);
};
const std::vector<Strategy>& strategies();
/// Throws std::invalid_argument that lists the known names.
const Strategy& find_strategy(const std::string& name);

/// Programs of all ranks: 0…P−1 the parts' devices, P the aggregator; where the shape generates, of
/// one step. Throws std::invalid_argument.
std::vector<Program> compile(const Plan& plan, const RequestShape& shape);

/// What a plan of this shape prices: the request, or one step behind half of what is generated.
Load planned_load(const RequestShape& shape);

/// "f = sub_model(x)": one line an instruction, for people and for the digest.
std::string to_text(const Program& program);
std::string_view name_of(Op op);

/// Compute of one instruction (send and receive have none).
std::vector<Kernel> kernels_of(const Instruction& instruction, const Program& program,
                               const Plan& plan);
/// Bytes on the rank beside its weights while it runs the program: values and activations, and
/// where texts are generated the cache.
double running_bytes(const Program& program, const Plan& plan);
/// The peak beside the weights: running_bytes, or what loading the weights takes for a moment where
/// that is more.
double working_bytes(const Program& program, const Plan& plan);
/// What reading a bundle and serving it takes beside the model (measured).
constexpr double serving_bytes = 1.5e6;
/// What the rank holds while it waits: weights (the part's, or the fusion head's) and
/// serving_bytes.
double resident_bytes(const Program& program, const Plan& plan);

}  // namespace cleave::plan
