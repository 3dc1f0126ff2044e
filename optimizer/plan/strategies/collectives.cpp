#include "optimizer/plan/strategies/collectives.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace cleave::plan {

namespace {

std::size_t at(std::int32_t rank) { return static_cast<std::size_t>(rank); }

}  // namespace

std::vector<model::Range> equal_ranges(std::int64_t whole, std::size_t shares) {
  const auto count = static_cast<std::int64_t>(shares);
  std::vector<model::Range> ranges;
  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t size = whole / count + (i < whole % count ? 1 : 0);
    ranges.push_back({begin, begin + size});
    begin += size;
  }
  return ranges;
}

ValueId Collectives::all_reduce(ValueId partial) {
  if (ranks_ == 1) return partial;
  const bool rows_for_all = program_.info(partial).dims.at(1) >= ranks_;
  return all_reduce_ == AllReduce::ring && rows_for_all ? ring(partial) : star(partial);
}

/// Tags of one rank to another are one each, those of a star's many senders are not.
ValueId Collectives::receive(const ValueInfo& like, std::int32_t peer, std::uint32_t tag) {
  return wire_.receive("t" + std::to_string(tag) + "_" + std::to_string(peer), like, peer, tag);
}

ValueId Collectives::star(ValueId partial) {
  const std::uint32_t up = tag_++, down = tag_++;
  if (rank_ != 0) {
    program_.send(wire_.packed(partial), 0, up);
    return wire_.unpacked(receive(program_.info(partial), 0, down));
  }
  ValueId sum = partial;
  for (std::int32_t peer = 1; peer < ranks_; ++peer)
    sum = program_.add(sum, wire_.unpacked(receive(program_.info(partial), peer, up)));
  const ValueId sent = wire_.packed(sum);
  for (std::int32_t peer = 1; peer < ranks_; ++peer) program_.send(sent, peer, down);
  return wire_.unpacked(sent);
}

ValueId Collectives::ring(ValueId partial) {
  const auto ranges =
      equal_ranges(program_.info(partial).dims.at(1), static_cast<std::size_t>(ranks_));
  const auto wrapped = [this](std::int32_t piece) {
    return static_cast<std::size_t>((piece % ranks_ + ranks_) % ranks_);
  };
  const std::int32_t next = (rank_ + 1) % ranks_, previous = (rank_ + ranks_ - 1) % ranks_;
  std::vector<ValueId> pieces(ranges.size(), -1);
  const auto own = [&](std::size_t piece) { return program_.slice(partial, 1, ranges[piece]); };
  const auto next_piece = [&](std::size_t piece) {
    ValueInfo like = program_.info(partial);
    like.dims.at(1) = ranges[piece].size();
    return Collectives::receive(like, previous, tag_);
  };

  pieces[wrapped(rank_)] = own(wrapped(rank_));
  for (std::int32_t step = 0; step + 1 < ranks_; ++step, ++tag_) {
    const std::size_t added_to = wrapped(rank_ - step - 1);
    program_.send(wire_.packed(pieces[wrapped(rank_ - step)]), next, tag_);
    const ValueId mine = own(added_to);  // first, whatever a compiler evaluates first
    pieces[added_to] = program_.add(wire_.unpacked(next_piece(added_to)), mine);
  }
  // From here on pieces are whole, and go round as their rank has packed them.
  pieces[wrapped(rank_ + 1)] = wire_.packed(pieces[wrapped(rank_ + 1)]);
  for (std::int32_t step = 0; step + 1 < ranks_; ++step, ++tag_) {
    const std::size_t whole = wrapped(rank_ - step);
    program_.send(pieces[wrapped(rank_ + 1 - step)], next, tag_);
    pieces[whole] = next_piece(whole);
  }
  for (ValueId& piece : pieces) piece = wire_.unpacked(piece);
  return program_.concat(std::move(pieces), 1);
}

ValueId Collectives::all_gather(ValueId own, const std::vector<model::Range>& ranges) {
  const std::uint32_t tag = tag_++;
  if (ranks_ == 1) return own;
  const ValueId sent = wire_.packed(own);
  for (std::int32_t step = 1; step < ranks_; ++step)
    program_.send(sent, (rank_ + step) % ranks_, tag);
  std::vector<ValueId> pieces;
  for (std::int32_t rank = 0; rank < ranks_; ++rank)
    pieces.push_back(
        wire_.unpacked(rank == rank_ ? sent : receive_rows(own, ranges[at(rank)], rank, tag)));
  return program_.concat(std::move(pieces), 1);
}

ValueId Collectives::gather(ValueId own, const std::vector<model::Range>& ranges,
                            model::Range wanted) {
  const std::uint32_t tag = tag_++;
  const auto wanted_of = [&](std::int32_t rank) {
    const model::Range& all = ranges[at(rank)];
    return model::Range{std::max(all.begin, wanted.begin),
                        std::max(all.begin, std::min(all.end, wanted.end))};
  };
  const auto mine = [&] {
    const std::int64_t begin = ranges[at(rank_)].begin;
    return program_.slice(own, 1, {wanted_of(rank_).begin - begin, wanted_of(rank_).end - begin});
  };
  if (rank_ != 0) {
    if (wanted_of(rank_).size() > 0) program_.send(wire_.packed(mine()), 0, tag);
    return -1;
  }
  std::vector<ValueId> pieces = {mine()};
  for (std::int32_t rank = 1; rank < ranks_; ++rank)
    if (wanted_of(rank).size() > 0)
      pieces.push_back(wire_.unpacked(receive_rows(own, wanted_of(rank), rank, tag)));
  return program_.concat(std::move(pieces), 1);
}

ValueId Collectives::receive_rows(ValueId like, model::Range rows, std::int32_t peer,
                                  std::uint32_t tag) {
  ValueInfo info = program_.info(like);
  info.dims.at(1) = rows.size();
  return receive(info, peer, tag);
}

}  // namespace cleave::plan
