#pragma once

#include <cstdint>
#include <vector>

#include "optimizer/plan/builder.hpp"
#include "optimizer/plan/strategies/wire.hpp"

namespace cleave::plan {

/// `whole` units in `shares` consecutive ranges that are equal up to one unit, the larger ones
/// first.
std::vector<model::Range> equal_ranges(std::int64_t whole, std::size_t shares);

/// The collectives of ranks 0…P−1, lowered to what one of them sends, receives and adds. Every rank
/// asks for the same ones in the same order: tags are counted. What is sent is in the plan's wire
/// format; what every rank ends with is what the others read of it, also where it was computed.
class Collectives {
 public:
  Collectives(ProgramBuilder& program, std::int32_t rank, std::int32_t ranks, const Plan& plan,
              AllReduce all_reduce)
      : program_(program),
        wire_(program, plan.wire),
        rank_(rank),
        ranks_(ranks),
        all_reduce_(all_reduce) {}

  /// Everybody's partial sum [B, n, D] -> the sum, on everybody, the same bits on all.
  /// A ring goes over rows, n of them in P pieces: P−1 times each rank hands on a piece that it
  /// adds to, then P−1 times one that is whole: 2(P−1)/P·n rows in all. A star sends all to rank 0
  /// and gets it back: n rows, and (P−1)·n of rank 0.
  ValueId all_reduce(ValueId partial);
  /// Everybody's rows [B, n_p, D], which are `ranges` of all rows -> all of them, on everybody:
  /// each sends its own to every other one, (P−1)·n_p rows.
  ValueId all_gather(ValueId own, const std::vector<model::Range>& ranges);
  /// The same -> those of them that are `wanted`, on rank 0; on the others nothing, −1.
  ValueId gather(ValueId own, const std::vector<model::Range>& ranges, model::Range wanted);

 private:
  ValueId ring(ValueId partial);
  ValueId star(ValueId partial);
  /// Still packed.
  ValueId receive(const ValueInfo& like, std::int32_t peer, std::uint32_t tag);
  /// So many rows of what else is like `like`, still packed.
  ValueId receive_rows(ValueId like, model::Range rows, std::int32_t peer, std::uint32_t tag);

  ProgramBuilder& program_;
  Wire wire_;
  std::int32_t rank_, ranks_;
  AllReduce all_reduce_;
  std::uint32_t tag_ = 0;
};

}  // namespace cleave::plan
