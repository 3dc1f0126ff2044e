#include "optimizer/plan/strategies/collectives.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

namespace cleave::plan {

namespace {

std::size_t at(std::int32_t rank) { return static_cast<std::size_t>(rank); }

}  // namespace

std::vector<model::Range> equal_ranges(std::int64_t whole, std::size_t shares) {
  return ranges_by_weight(whole, std::vector<std::int64_t>(shares, 1));
}

std::vector<model::Range> ranges_by_weight(std::int64_t whole,
                                           const std::vector<std::int64_t>& weights) {
  const std::int64_t all = std::accumulate(weights.begin(), weights.end(), std::int64_t{0});
  std::vector<std::int64_t> counts, remainders;
  for (const std::int64_t weight : weights) {
    counts.push_back(whole * weight / all);
    remainders.push_back(whole * weight % all);
  }
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainders[a] > remainders[b]; });
  std::int64_t left = whole - std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  for (std::size_t i = 0; left > 0; ++i, --left) ++counts[order[i]];
  std::vector<model::Range> ranges;
  std::int64_t begin = 0;
  for (const std::int64_t count : counts) {
    ranges.push_back({begin, begin + count});
    begin += count;
  }
  return ranges;
}

std::vector<std::int64_t> divided(std::int64_t units, const std::vector<std::int64_t>& weights) {
  std::vector<std::int64_t> counts;
  for (const model::Range& range : ranges_by_weight(units, weights)) counts.push_back(range.size());
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0 || weights[i] == 0) continue;
    --*std::max_element(counts.begin(), counts.end());
    ++counts[i];
  }
  return counts;
}

ValueId Collectives::all_reduce(ValueId partial, const Sum& sum) {
  if (ranks_ == 1) return partial;
  const std::int64_t rows = sum.like.dims.at(1);
  const bool all_add = std::find(sum.adds.begin(), sum.adds.end(), false) == sum.adds.end();
  const bool for_all = rows >= ranks_;
  if (all_reduce_ == AllReduce::ring && all_add && for_all) return ring(partial);
  std::vector<model::Range> pieces(ranks(), {rows, rows});
  pieces.front() = {0, rows};
  if (all_reduce_ != AllReduce::star && for_all) pieces = equal_ranges(rows, ranks());
  const ValueId own = reduce_scatter(
      [&](std::size_t piece) { return program_.slice(partial, 1, pieces[piece]); }, sum, pieces);
  std::vector<ValueId> whole = all_gather(own, sum.like, pieces);
  whole.erase(std::remove(whole.begin(), whole.end(), -1), whole.end());
  return program_.concat(std::move(whole), 1);
}

/// Tags of one rank to another are one each, those of many senders to one are not.
ValueId Collectives::receive_rows(ValueInfo like, model::Range rows, std::int32_t peer,
                                  std::uint32_t tag) {
  like.dims.at(1) = rows.size();
  return wire_.receive("t" + std::to_string(tag) + "_" + std::to_string(peer), std::move(like),
                       peer, tag);
}

ValueId Collectives::reduce_scatter(const PartialOf& partial_of, const Sum& sum,
                                    const std::vector<model::Range>& rows) {
  const std::uint32_t tag = tag_++;
  const bool adds = sum.adds.at(rank());
  for (std::int32_t step = 1; adds && step < ranks_; ++step) {
    const std::int32_t owner = wrapped(rank_ - step);
    if (rows[at(owner)].size() > 0) program_.send(wire_.packed(partial_of(at(owner))), owner, tag);
  }
  if (rows[rank()].size() == 0) return -1;
  const ValueId own = adds ? partial_of(rank()) : -1;
  ValueId whole = -1;
  for (std::int32_t rank = 0; rank < ranks_; ++rank) {
    if (!sum.adds[at(rank)]) continue;
    const ValueId partial =
        rank == rank_ ? own : wire_.unpacked(receive_rows(sum.like, rows[this->rank()], rank, tag));
    whole = whole < 0 ? partial : program_.add(whole, partial);
  }
  return whole;
}

std::vector<ValueId> Collectives::all_gather(ValueId own, ValueInfo like,
                                             const std::vector<model::Range>& rows,
                                             const std::vector<bool>& reads) {
  const std::uint32_t tag = tag_++;
  ValueId sent = -1;
  const auto is_reader = [&](std::int32_t rank) { return reads.empty() || reads[at(rank)]; };
  std::vector<ValueId> pieces(ranks(), -1);
  pieces[rank()] = own;
  for (std::int32_t step = 1; own >= 0 && step < ranks_; ++step)
    if (const std::int32_t reader = wrapped(rank_ + step); is_reader(reader)) {
      if (sent < 0) sent = wire_.packed(own);
      program_.send(sent, reader, tag);
    }
  if (sent >= 0) pieces[rank()] = wire_.unpacked(sent);
  for (std::int32_t rank = 0; rank < ranks_; ++rank)
    if (rank != rank_ && is_reader(rank_) && rows[at(rank)].size() > 0)
      pieces[at(rank)] = wire_.unpacked(receive_rows(like, rows[at(rank)], rank, tag));
  return pieces;
}

std::vector<ValueId> Collectives::all_gather_around(ValueId own,
                                                    const std::vector<model::Range>& rows) {
  if (ranks_ == 1) return {own};
  const ValueInfo like = program_.info(own);
  std::vector<ValueId> pieces(ranks(), -1);
  pieces[rank()] = wire_.packed(own);
  for (std::int32_t step = 0; step + 1 < ranks_; ++step, ++tag_) {
    program_.send(pieces[at(wrapped(rank_ - step))], wrapped(rank_ + 1), tag_);
    const std::size_t next = at(wrapped(rank_ - step - 1));
    pieces[next] = receive_rows(like, rows[next], wrapped(rank_ - 1), tag_);
  }
  for (ValueId& piece : pieces) piece = wire_.unpacked(piece);
  return pieces;
}

ValueId Collectives::reduce_scatter_around(const PartialOf& partial_of, const Sum& sum,
                                           const std::vector<model::Range>& rows) {
  ValueId so_far = -1;
  for (std::int32_t step = 1; step <= ranks_; ++step) {
    const std::size_t piece = at(wrapped(rank_ - step));
    const ValueId partial = partial_of(piece);
    const std::uint32_t tag = tag_ + static_cast<std::uint32_t>(step) - 1;
    if (step > 1)
      so_far = wire_.unpacked(receive_rows(sum.like, rows[piece], wrapped(rank_ - 1), tag - 1));
    so_far = so_far < 0 ? partial : program_.add(so_far, partial);
    if (step < ranks_) program_.send(wire_.packed(so_far), wrapped(rank_ + 1), tag);
  }
  tag_ += static_cast<std::uint32_t>(ranks_) - 1;
  return so_far;
}

/// Each rank reduces some of the rows: P−1 times it hands on a piece that the next one adds to,
/// then P−1 times one that is whole.
ValueId Collectives::ring(ValueId partial) {
  const auto ranges = equal_ranges(program_.info(partial).dims.at(1), ranks());
  const std::int32_t next = wrapped(rank_ + 1), previous = wrapped(rank_ - 1);
  std::vector<ValueId> pieces(ranges.size(), -1);
  const auto own = [&](std::size_t piece) { return program_.slice(partial, 1, ranges[piece]); };
  const auto next_piece = [&](std::size_t piece) {
    return receive_rows(program_.info(partial), ranges[piece], previous, tag_);
  };

  pieces[rank()] = own(rank());
  for (std::int32_t step = 0; step + 1 < ranks_; ++step, ++tag_) {
    const std::size_t added_to = at(wrapped(rank_ - step - 1));
    program_.send(wire_.packed(pieces[at(wrapped(rank_ - step))]), next, tag_);
    const ValueId mine = own(added_to);  // first, whatever a compiler evaluates first
    pieces[added_to] = program_.add(wire_.unpacked(next_piece(added_to)), mine);
  }
  // From here on pieces are whole, and go round as their rank has packed them.
  ValueId& reduced = pieces[at(wrapped(rank_ + 1))];
  reduced = wire_.packed(reduced);
  for (std::int32_t step = 0; step + 1 < ranks_; ++step, ++tag_) {
    const std::size_t whole = at(wrapped(rank_ - step));
    program_.send(pieces[at(wrapped(rank_ + 1 - step))], next, tag_);
    pieces[whole] = next_piece(whole);
  }
  for (ValueId& piece : pieces) piece = wire_.unpacked(piece);
  return program_.concat(std::move(pieces), 1);
}

ValueId Collectives::gather(ValueId own, const std::vector<model::Range>& rows,
                            model::Range wanted) {
  const std::uint32_t tag = tag_++;
  const auto wanted_of = [&](std::size_t rank) {
    const model::Range& all = rows[rank];
    return model::Range{std::max(all.begin, wanted.begin),
                        std::max(all.begin, std::min(all.end, wanted.end))};
  };
  const auto mine = [&] {
    const std::int64_t begin = rows[rank()].begin;
    return program_.slice(own, 1, {wanted_of(rank()).begin - begin, wanted_of(rank()).end - begin});
  };
  if (rank_ != 0) {
    if (wanted_of(rank()).size() > 0) program_.send(wire_.packed(mine()), 0, tag);
    return -1;
  }
  std::vector<ValueId> pieces = {mine()};
  for (std::int32_t rank = 1; rank < ranks_; ++rank)
    if (wanted_of(at(rank)).size() > 0)
      pieces.push_back(
          wire_.unpacked(receive_rows(program_.info(own), wanted_of(at(rank)), rank, tag)));
  return program_.concat(std::move(pieces), 1);
}

}  // namespace cleave::plan
