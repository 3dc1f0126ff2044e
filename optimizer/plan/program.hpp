#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/element.hpp"
#include "optimizer/plan/instruction.hpp"
#include "optimizer/plan/plan.hpp"
#include "optimizer/plan/work.hpp"

namespace cleave::plan {

/// A named value: written once, by the one instruction that names it as result.
struct ValueInfo {
  std::string name;
  base::Element element = base::Element::f32;
  std::vector<std::int64_t> dims;
  double bytes() const;
};

/// What one device does for one request of one shape. A pure function of (plan, shape, rank),
/// integers only, so that the digest agrees on every machine.
struct Program {
  std::string plan;  // its name: sub-models and fusion head are those of this plan
  std::int32_t rank = 0;
  std::vector<ValueInfo> values;
  std::vector<Instruction> instructions;
  std::string digest;  // SHA-256 of all ranks' values and instructions, 64 hex digits
};

/// The first instruction of one operation, or null.
template <class Operation>
const Operation* find_first(const Program& program) {
  for (const Instruction& instruction : program.instructions)
    if (const auto* found = std::get_if<Operation>(&instruction)) return found;
  return nullptr;
}

/// The other ranks that a program sends to or receives from.
std::set<std::int32_t> peers_of(const Program& program);

/// What a device brings where shares are proposed: its speed beside the others', and the weights
/// that it has room for (0: no limit).
struct Capacity {
  double speed = 1;
  double weight_bytes = 0;
};

/// What the parts of a strategy's plans are.
enum class PartKind {
  teacher,    // all of it, on one device
  sub_model,  // cut from the teacher
  share,      // of the teacher
};

/// Of what each device has some; of the rest each has all.
struct Division {
  bool heads = false, columns = false, vocabulary = false;
  bool rows = false;  // of the stream
};

/// How much of each axis devices have, by weight; whole numbers, at least one of them above 0.
struct Weights {
  std::vector<std::int64_t> heads, columns, vocabulary, rows;
};

/// One strategy: how shares become programs. Nothing but its source and the table knows its name.
struct Strategy {
  std::string_view name;
  std::string_view summary;
  PartKind parts;
  std::vector<Program> (*compile)(const Plan& plan, const RequestShape& shape,
                                  base::Element element);
  /// What its shares must be, beyond check(plan). Throws std::invalid_argument.
  void (*check)(const Plan& plan);
  /// Shares for devices in this order, where they follow from speed and memory alone. Throws
  /// std::invalid_argument where the model has none for so many.
  std::vector<Share> (*propose)(const model::ModelConfig& teacher,
                                const std::vector<Capacity>& devices) = nullptr;
  /// Shares by hand, as whole weights above 0 want them; null where nothing is left to choose, or
  /// `divisions` say it all. Throws std::invalid_argument as `propose` does.
  std::vector<Share> (*divide)(const model::ModelConfig& teacher,
                               const std::vector<std::int64_t>& weights) = nullptr;
  /// What may be divided, where whoever plans finds the best shares. A strategy whose parts are
  /// shares has one of the two.
  std::vector<Division> (*divisions)() = nullptr;
  /// Devices with all heads may exchange keys and values in place of rows (Plan::gathered).
  bool gathers_keys = false;
  /// Devices may attend to rows in place of keys and values (Plan::reordered).
  bool reorders = false;
  /// Its plans say what devices' rows are for the others (Plan::segments).
  bool has_segments = false;
};
const std::vector<Strategy>& strategies();
/// Keys of the model depend on nothing but what they are computed from, and none is kept.
bool reorders(const model::ModelConfig& config);
/// The first of the table with such parts.
const Strategy& strategy_of(PartKind parts);
/// Throws std::invalid_argument that lists the known names.
const Strategy& find_strategy(const std::string& name);

/// Programs of all ranks: 0…P−1 the parts' devices, P the aggregator; where the shape generates, of
/// one step. Throws std::invalid_argument.
/// `element`: of what is computed, f32 or f64 (the reference of tests).
std::vector<Program> compile(const Plan& plan, const RequestShape& shape,
                             base::Element element = base::Element::f32);

/// The same unchecked and without a digest: for prices of many plans.
std::vector<Program> drafts(const Plan& plan, const RequestShape& shape,
                            base::Element element = base::Element::f32);

/// Whether the model says what the next token of a text is.
bool generates(const model::ModelConfig& config);

/// What a plan of this shape prices: the request, or one step behind half of what is generated.
Load planned_load(const RequestShape& shape);

/// One line an instruction, for people.
std::string to_text(const Program& program);
/// Of instructions from one to another, that too: "layers 0-5"; without any layer the first one's
/// operation.
std::string stretch_name(const Program& program, std::size_t first, std::size_t last);
/// "h3 = norm(x, layer 0, attention)".
std::string to_text(const Instruction& instruction, const Program& program);

}  // namespace cleave::plan
