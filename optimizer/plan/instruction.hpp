#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

namespace cleave::plan {

/// Index into Program::values; −1: none.
using ValueId = std::int32_t;

// The operations that programs are made of: one struct each. `fields` lists once what an operation
// reads, writes and says; its text, the digest of programs and who uses which value follow from it.
// What it costs stands in cost.cpp.

/// What the request gives: pixels, uint8 [B, c, h, w], or token ids, int32 [B, N].
struct Input {
  static constexpr std::string_view name = "input";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId result = -1;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
  }
};

/// A part of the plan on pixels or ids: features [B, T, D_p], or logits where the head goes with
/// it (local).
struct SubModel {
  static constexpr std::string_view name = "sub_model";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = false;
  ValueId result = -1, given = -1;
  std::int32_t part = -1;
  bool with_head = false;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.operand(i.given);
    fields.number("part ", i.part);
    fields.flag("with head", i.with_head);
  }
};

/// Hands a value to a rank. The tag is unique in the request between two ranks.
struct Send {
  static constexpr std::string_view name = "send";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId value = -1;
  std::int32_t peer = -1;
  std::uint32_t tag = 0;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.operand(i.value);
    fields.to(i.peer);
    fields.number("tag ", i.tag);
  }
};

/// What a rank sends under a tag.
struct Receive {
  static constexpr std::string_view name = "receive";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId result = -1;
  std::int32_t peer = -1;
  std::uint32_t tag = 0;
  bool may_be_absent = false;  // "absent" at its deadline; else the request fails
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    fields.number("<- ", i.peer);
    fields.number("tag ", i.tag);
    fields.flag("may be absent", i.may_be_absent);
  }
};

/// The fusion head on the features of all parts, of which some may be absent.
struct Fuse {
  static constexpr std::string_view name = "fuse";
  static constexpr bool computes = true;
  static constexpr bool accepts_absent = true;
  ValueId result = -1;
  std::vector<ValueId> features;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.result(i.result);
    for (auto& feature : i.features) fields.operand(feature);
  }
};

/// The program's answer.
struct Output {
  static constexpr std::string_view name = "output";
  static constexpr bool computes = false;
  static constexpr bool accepts_absent = false;
  ValueId value = -1;
  template <class Self, class Fields>
  static void fields(Self& i, Fields& fields) {
    fields.operand(i.value);
  }
};

using Instruction = std::variant<Input, SubModel, Send, Receive, Fuse, Output>;

/// Fields that are looked through for those of one kind.
struct AnyField {
  void result(ValueId) {}
  void operand(ValueId) {}
  void to(std::int32_t) {}
  template <class Number>
  void number(std::string_view, Number) {}
  void flag(std::string_view, bool) {}
};

/// Calls `visit(value)` for each value that the instruction reads, in order.
template <class Visit>
void for_operands(const Instruction& instruction, const Visit& visit) {
  struct Operands : AnyField {
    explicit Operands(const Visit& visit_) : visit(visit_) {}
    void operand(ValueId value) { visit(value); }
    const Visit& visit;
  } fields(visit);
  std::visit([&fields](const auto& i) { i.fields(i, fields); }, instruction);
}

/// What it writes, or −1.
inline ValueId result_of(const Instruction& instruction) {
  struct Result : AnyField {
    void result(ValueId value) { found = value; }
    ValueId found = -1;
  } fields;
  std::visit([&fields](const auto& i) { i.fields(i, fields); }, instruction);
  return fields.found;
}

inline std::string_view name_of(const Instruction& instruction) {
  return std::visit([](const auto& i) { return i.name; }, instruction);
}

/// Whether an engine runs it; the others are the executor's.
inline bool computes(const Instruction& instruction) {
  return std::visit([](const auto& i) { return i.computes; }, instruction);
}

/// Whether it does without operands that are absent; for the others a value must be there.
inline bool accepts_absent(const Instruction& instruction) {
  return std::visit([](const auto& i) { return i.accepts_absent; }, instruction);
}

}  // namespace cleave::plan
