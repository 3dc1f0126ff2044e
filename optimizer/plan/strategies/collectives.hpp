#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "optimizer/plan/builder.hpp"
#include "optimizer/plan/strategies/wire.hpp"

namespace cleave::plan {

/// `whole` units in `shares` consecutive ranges that are equal up to one unit, the larger ones
/// first.
std::vector<model::Range> equal_ranges(std::int64_t whole, std::size_t shares);
/// `whole` units in consecutive ranges by weight (largest remainder; of equal ones the first), none
/// where a weight is 0.
std::vector<model::Range> ranges_by_weight(std::int64_t whole,
                                           const std::vector<std::int64_t>& weights);
/// How many each gets: by weight as above, but nobody with a weight gets none, as long as there is
/// one for each.
std::vector<std::int64_t> divided(std::int64_t units, const std::vector<std::int64_t>& weights);

/// What ranks add up together: each that adds has a partial sum of this shape, [B, n, D].
struct Sum {
  ValueInfo like;
  std::vector<bool> adds;  // by rank; at least one does
};

/// The collectives of ranks 0…P−1, lowered to what one of them sends, receives and adds. Every rank
/// asks for the same ones in the same order: tags are counted. Rows are divided in consecutive
/// ranges by rank, of which some may be empty; where a rank has none, its value is −1. What is sent
/// is in the wire format; what a rank sends whole it goes on with as the others read it.
class Collectives {
 public:
  Collectives(ProgramBuilder& program, std::int32_t rank, std::int32_t ranks, AllReduce all_reduce,
              base::Element wire)
      : program_(program),
        wire_(program, wire),
        rank_(rank),
        ranks_(ranks),
        all_reduce_(all_reduce) {}

  std::size_t rank() const { return static_cast<std::size_t>(rank_); }
  std::size_t ranks() const { return static_cast<std::size_t>(ranks_); }

  /// Partial sums (−1 on a rank that adds nothing) -> the sum, on everybody, the same bits on all.
  /// See AllReduce; of fewer rows than ranks it is always a star, and a ring needs everybody to
  /// add.
  ValueId all_reduce(ValueId partial, const Sum& sum);
  /// A rank's partial sum of some rows; it is asked for each piece once, its own last.
  using PartialOf = std::function<ValueId(std::size_t piece)>;
  /// Partial sums of all rows -> whole sums of the rank's own rows: each sends what it has of the
  /// others' rows straight to them, the rank before it first. Sums are added up in the order of
  /// ranks.
  ValueId reduce_scatter(const PartialOf& partial_of, const Sum& sum,
                         const std::vector<model::Range>& rows);
  /// Own rows -> everybody's, by rank, on those that read them (none said: all do); on the others
  /// nothing but their own. Each sends its own to every reader, the rank behind it first, (P−1)·n_p
  /// rows. They are there in the order own, the rank before, the one before that, ….
  std::vector<ValueId> all_gather(ValueId own, ValueInfo like,
                                  const std::vector<model::Range>& rows,
                                  const std::vector<bool>& reads = {});
  /// The same from neighbour to neighbour, where every rank reads, or adds, and has rows: one
  /// transfer at a time from each and to each, so that each piece is there as early as it can be.
  /// Pieces come in the same order; a sum is begun by the rank behind the one whose rows it is.
  std::vector<ValueId> all_gather_around(ValueId own, const std::vector<model::Range>& rows);
  ValueId reduce_scatter_around(const PartialOf& partial_of, const Sum& sum,
                                const std::vector<model::Range>& rows);
  /// Own rows -> those of all that are `wanted`, on rank 0; on the others nothing, −1.
  ValueId gather(ValueId own, const std::vector<model::Range>& rows, model::Range wanted);

 private:
  ValueId ring(ValueId partial);
  std::int32_t wrapped(std::int32_t rank) const { return (rank % ranks_ + ranks_) % ranks_; }
  /// So many rows of what else is like `like`, still packed.
  ValueId receive_rows(ValueInfo like, model::Range rows, std::int32_t peer, std::uint32_t tag);

  ProgramBuilder& program_;
  Wire wire_;
  std::int32_t rank_, ranks_;
  AllReduce all_reduce_;
  std::uint32_t tag_ = 0;
};

}  // namespace cleave::plan
