#include "optimizer/plan/forward_builder.hpp"

#include <algorithm>
#include <utility>

namespace cleave::plan {
namespace {

bool are_all(const std::vector<bool>& ranks) {
  return std::find(ranks.begin(), ranks.end(), false) == ranks.end();
}

}  // namespace

ForwardBuilder::ForwardBuilder(ProgramBuilder& program, const model::ModelConfig& config,
                               std::int32_t part, ValueId given)
    : program_(program), config_(config), part_(part), given_(given), shares_{whole_share(config)} {
  if (!config.is_text()) return;
  texts_ = {0, program.info(given).dims.at(0)};
  lengths_ = program.lengths(given, part);
}

ForwardBuilder::ForwardBuilder(ProgramBuilder& program, const model::ModelConfig& config,
                               ValueId given, Collectives& collectives, std::vector<Share> shares,
                               RowSplit split)
    : ForwardBuilder(program, config, teacher_part, given) {
  shares_ = std::move(shares);
  rank_ = collectives.rank();
  collectives_ = &collectives;
  split_ = std::move(split);
}

bool ForwardBuilder::all_have_heads(int layer) const {
  const std::int64_t all = config_.layers[static_cast<std::size_t>(layer)].heads / config_.group;
  return std::all_of(shares_.begin(), shares_.end(),
                     [&](const Share& s) { return layer_of(s, layer).heads.size() == all; });
}

bool ForwardBuilder::all_have_columns(int layer) const {
  const std::int64_t all = config_.layers[static_cast<std::size_t>(layer)].mlp_width;
  return std::all_of(shares_.begin(), shares_.end(),
                     [&](const Share& s) { return layer_of(s, layer).columns.size() == all; });
}

/// n own of N rows: 2·n·D·H·K + 2·n·N·H·D multiply-adds against 2·N·D·H·K + 2·n·N·H·K of keys and
/// values of all rows, which is where 1/n − 1/N > 1/K − 1/D.
bool ForwardBuilder::is_reordered(int layer) const {
  if (!split_.reordered || !all_have_heads(layer)) return false;
  const std::int64_t own = own_rows().size(), all = split_.rows.back().end, width = config_.width,
                     head_width = config_.head_width;
  return own * width * (head_width + all) < all * head_width * (width + own);
}

template <class UnitsOf>
Sum ForwardBuilder::sum_of(const UnitsOf& units_of) const {
  Sum sum;
  const auto& dims = program_.info(given_).dims;
  sum.like.element = program_.element();
  sum.like.dims = {dims.at(0), config_.is_text() ? dims.at(1) : config_.num_tokens(),
                   config_.width};
  for (const Share& share : shares_) sum.adds.push_back(units_of(share).size() > 0);
  return sum;
}

Sum ForwardBuilder::sum_of_heads(int layer) const {
  return sum_of([layer](const Share& s) { return layer_of(s, layer).heads; });
}

Sum ForwardBuilder::sum_of_columns(int layer) const {
  return sum_of([layer](const Share& s) { return layer_of(s, layer).columns; });
}

ValueId ForwardBuilder::embed() {
  const model::Range tokens = share().vocabulary;
  const bool all_have_them = std::all_of(shares_.begin(), shares_.end(), [&](const Share& s) {
    return s.vocabulary.size() == config_.vocabulary;
  });
  if (all_have_them)
    return program_.embed(config_, part_, given_, lengths_, tokens, true, own_rows());
  const Sum sum = sum_of([](const Share& s) { return s.vocabulary; });
  ValueId partial = -1;
  if (tokens.size() > 0)
    partial = program_.embed(config_, part_, given_, lengths_, tokens, tokens.begin == 0);
  if (!is_split()) return collectives_->all_reduce(partial, sum);
  return collectives_->reduce_scatter(
      [&](std::size_t piece) { return program_.slice(partial, 1, split_.rows[piece]); }, sum,
      split_.rows);
}

ValueId ForwardBuilder::norm(int layer, model::NormOf which, ValueId x) {
  return program_.norm(part_, layer, which, x);
}

const std::vector<ValueId>& ForwardBuilder::gathered(ValueId x, const std::vector<bool>& reads) {
  if (gathered_.of != x)
    gathered_ = {x, -1,
                 split_.overlap && are_all(reads)
                     ? collectives_->all_gather_around(x, split_.rows)
                     : collectives_->all_gather(x, program_.info(x), split_.rows, reads)};
  return gathered_.pieces;
}

ValueId ForwardBuilder::all_rows(ValueId x) {
  if (!is_split()) return x;
  const std::vector<ValueId>& pieces = gathered(x, {});
  if (gathered_.whole < 0) gathered_.whole = program_.concat(pieces, 1);
  return gathered_.whole;
}

ValueId ForwardBuilder::project(int layer, model::Projection which, ValueId x) {
  const model::Range heads = share_of(layer).heads;
  const auto projected = [&](ValueId rows) {
    return program_.project(config_, part_, layer, which, heads, rows);
  };
  const bool of_own_rows = which == model::Projection::query && all_have_heads(layer);
  if (!is_split() || of_own_rows) return heads.size() > 0 ? projected(x) : -1;
  if (key_rows_of_) {
    if (key_rows_are_of_ != x) key_rows_ = key_rows_of_(layer, x);
    key_rows_are_of_ = x;
    return projected(key_rows_.x);
  }
  if (is_reordered(layer)) return all_rows(x);
  if (all_have_heads(layer) && split_.gathered == Gathered::keys_and_values) {
    const ValueId own = projected(x);
    return program_.concat(collectives_->all_gather(own, program_.info(own), split_.rows), 1);
  }
  std::vector<ValueId> pieces = gathered(x, sum_of_heads(layer).adds);
  if (heads.size() == 0) return -1;
  if (!split_.overlap) return projected(all_rows(x));
  // The rows that are there first are projected first.
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    ValueId& piece = pieces[(rank_ + pieces.size() - i) % pieces.size()];
    piece = projected(piece);
  }
  return program_.concat(std::move(pieces), 1);
}

ValueId ForwardBuilder::attend(int layer, ValueId query, ValueId key, ValueId value) {
  if (query < 0) return -1;
  if (is_reordered(layer))
    return program_.attend_inputs(part_, layer, share_of(layer).heads, query, key, lengths_,
                                  own_rows());
  const bool by_rows = is_split() && all_have_heads(layer);
  model::Range rows, kept;
  if (by_rows) rows = key_rows_of_ ? key_rows_.own : own_rows();
  if (by_rows && !split_.kept.empty()) kept = split_.kept[static_cast<std::size_t>(layer)];
  return program_.attend(part_, layer, share_of(layer).heads, texts_, query, key, value, lengths_,
                         rows, kept, key_rows_.marks);
}

ValueId ForwardBuilder::project_out(int layer, ValueId context) {
  const model::Range heads = share_of(layer).heads;
  const auto out = [&](bool with_bias, ValueId rows) {
    return program_.project_out(config_, part_, layer, heads, with_bias, rows);
  };
  if (all_have_heads(layer)) return out(true, context);
  const Sum sum = sum_of_heads(layer);
  ValueId whole = -1;
  if (context >= 0 && !split_.overlap) whole = out(false, context);
  return reduced(layer, model::Half::attention, sum, config_.output_bias, [&](std::size_t piece) {
    if (!is_split()) return whole;
    return split_.overlap ? out(false, program_.slice(context, 1, split_.rows[piece]))
                          : program_.slice(whole, 1, split_.rows[piece]);
  });
}

/// Where pieces of rows go through both products one after the other, these are the activations of
/// the rank's own rows.
ValueId ForwardBuilder::mlp_up(int layer, ValueId x) {
  const model::Range columns = share_of(layer).columns;
  const bool gathers = is_split() && !all_have_columns(layer);
  if (gathers) gathered(x, sum_of_columns(layer).adds);
  if (columns.size() == 0) return -1;
  return program_.mlp_up(part_, layer, columns, gathers && !split_.overlap ? all_rows(x) : x);
}

ValueId ForwardBuilder::mlp_down(int layer, ValueId activations) {
  const model::Range columns = share_of(layer).columns;
  const auto down = [&](bool with_bias, ValueId rows, ValueId after = -1) {
    return program_.mlp_down(config_, part_, layer, columns, with_bias, rows, after);
  };
  if (all_have_columns(layer)) return down(true, activations);
  const Sum sum = sum_of_columns(layer);
  ValueId whole = -1, for_others = -1;
  if (activations >= 0 && !split_.overlap) whole = down(false, activations);
  return reduced(layer, model::Half::mlp, sum, config_.mlp_bias, [&](std::size_t piece) {
    if (!is_split()) return whole;
    if (!split_.overlap) return program_.slice(whole, 1, split_.rows[piece]);
    if (piece == rank_) return down(false, activations, for_others);
    for_others = down(false, program_.mlp_up(part_, layer, columns, gathered_.pieces[piece]));
    return for_others;
  });
}

ValueId ForwardBuilder::add(ValueId x, ValueId added) { return program_.add(x, added); }

ValueId ForwardBuilder::read_out(ValueId x) {
  return program_.read_out(config_, part_, x, lengths_);
}

ValueId ForwardBuilder::read_out(ValueId x, const RequestShape& shape) {
  if (!shape.every_token) return read_out(x);
  const bool before = config_.norm_placement == model::NormPlacement::before;
  return before ? norm(-1, model::NormOf::feature, x) : x;
}

ValueId ForwardBuilder::read_out_rows(ValueId x) {
  return program_.read_out(config_, part_, x, lengths_, own_rows());
}

ValueId ForwardBuilder::head(ValueId feature) {
  return program_.head(config_, part_, share().vocabulary, feature);
}

ValueId ForwardBuilder::reduced(int layer, model::Half half, const Sum& sum, bool has_bias,
                                const Collectives::PartialOf& partial_of) {
  ValueId whole = -1;
  if (!is_split())
    whole = collectives_->all_reduce(sum.adds[rank_] ? partial_of(0) : -1, sum);
  else if (split_.overlap && are_all(sum.adds))
    whole = collectives_->reduce_scatter_around(partial_of, sum, split_.rows);
  else
    whole = collectives_->reduce_scatter(partial_of, sum, split_.rows);
  return has_bias ? program_.add_bias(part_, layer, half, whole) : whole;
}

}  // namespace cleave::plan
