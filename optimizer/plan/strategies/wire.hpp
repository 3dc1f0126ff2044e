#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "optimizer/plan/builder.hpp"

namespace cleave::plan {

/// How values travel between agents: `packed` in the plan's wire format, whatever they are computed
/// in. A packed value can be sent to several ranks, and handed on as it came.
class Wire {
 public:
  Wire(ProgramBuilder& program, base::Element format) : program_(program), format_(format) {}

  ValueId packed(ValueId x) { return casts() ? program_.cast(x, format_) : x; }
  /// The same bits on every rank that has the packed value, whoever computed it.
  ValueId unpacked(ValueId packed) {
    return casts() ? program_.cast(packed, program_.element()) : packed;
  }
  /// A packed value of the dims of `like` that `peer` sends; it is called `name`.
  ValueId receive(std::string name, ValueInfo like, std::int32_t peer, std::uint32_t tag) {
    like.element = casts() ? format_ : program_.element();
    return program_.receive(std::move(name), like, peer, tag, false);
  }

 private:
  /// f32 is whatever is computed: the reference in fp64 stays exact.
  bool casts() const { return format_ != base::Element::f32; }

  ProgramBuilder& program_;
  base::Element format_;
};

}  // namespace cleave::plan
