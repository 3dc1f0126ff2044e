#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "optimizer/plan/builder.hpp"
#include "optimizer/plan/plan.hpp"
#include "optimizer/plan/strategies/collectives.hpp"

namespace cleave::plan {

/// Rows of the stream by rank, where each rank keeps only some.
struct RowSplit {
  std::vector<model::Range> rows;
  /// Products begin with the rows that are there, and what they give is sent piece by piece, so
  /// that transfers run beside them (Galaxy, Ye and others 2024); else they wait for all rows.
  bool overlap = false;
  Gathered gathered = Gathered::rows;
  bool reordered = false;  // see Plan
  /// Of ranks with all heads, whose queries are of their rows: heads whose keys and values a
  /// sequence keeps, by layer.
  std::vector<model::Range> kept;
};

/// A machine of model/config/block.hpp that writes one rank's program. A rank may have some heads,
/// columns and tokens, or none; what they give is a partial sum, which ranks add up. A rank may
/// keep some rows of the stream; what reads all rows gathers them.
class ForwardBuilder {
 public:
  /// A value, or −1 where the rank computes none of it.
  using Value = ValueId;

  /// A rank that computes whole blocks alone. `given`: pixels or ids of the whole batch; −1 where
  /// the rank does not embed and no text is read.
  ForwardBuilder(ProgramBuilder& program, const model::ModelConfig& config, std::int32_t part,
                 ValueId given);
  /// One of the ranks of `collectives`, which compute each block together; `shares` by rank.
  ForwardBuilder(ProgramBuilder& program, const model::ModelConfig& config, ValueId given,
                 Collectives& collectives, std::vector<Share> shares, RowSplit split = {});
  /// What keys and values are computed from, where that is less than all rows: key rows, with marks
  /// where they stand for several; which of them are the rank's own.
  struct KeyRows {
    ValueId x = -1;
    model::Range own;
    ValueId marks = -1;
  };
  using KeyRowsOf = std::function<KeyRows(int layer, ValueId own)>;
  /// A rank with all weights that keeps these rows of the stream, and the keys and values of these
  /// heads by layer.
  void of_rows(model::Range rows, KeyRowsOf key_rows_of, std::vector<model::Range> kept) {
    split_.rows = {rows};
    split_.kept = std::move(kept);
    key_rows_of_ = std::move(key_rows_of);
  }
  /// From here on values are of these texts of the batch.
  void of_texts(model::Range texts) { texts_ = texts; }

  ValueId embed();
  ValueId norm(int layer, model::NormOf which, ValueId x);
  ValueId project(int layer, model::Projection which, ValueId x);
  ValueId attend(int layer, ValueId query, ValueId key, ValueId value);
  ValueId project_out(int layer, ValueId context);
  ValueId mlp_up(int layer, ValueId x);
  ValueId mlp_down(int layer, ValueId activations);
  ValueId add(ValueId x, ValueId added);
  ValueId read_out(ValueId x);
  /// The states of texts, or of some rows of them -> what the task reads: where the shape asks for
  /// every token each of them, behind the last norm.
  ValueId read_out(ValueId x, const RequestShape& shape);
  /// What the rank's rows bring to the feature.
  ValueId read_out_rows(ValueId x);
  /// How many tokens each text has; of images −1.
  ValueId lengths() const { return lengths_; }
  /// The feature -> the answer; a language model's for the vocabulary of the share.
  ValueId head(ValueId feature);
  /// The states of all rows, on every rank.
  ValueId all_rows(ValueId x);

 private:
  const Share& share() const { return shares_[rank_]; }
  const LayerShare& share_of(int layer) const { return layer_of(share(), layer); }
  static const LayerShare& layer_of(const Share& share, int layer) {
    return share.layers.at(static_cast<std::size_t>(layer));
  }
  bool is_split() const { return !split_.rows.empty(); }
  model::Range own_rows() const { return is_split() ? split_.rows[rank_] : model::Range(); }
  /// Whether each rank has all of the layer's heads, or columns; else they are divided.
  bool all_have_heads(int layer) const;
  bool all_have_columns(int layer) const;
  /// Whether the rank attends to rows in place of keys and values.
  bool is_reordered(int layer) const;
  /// Who has units of `units_of(share)`, and what their partial sums look like.
  template <class UnitsOf>
  Sum sum_of(const UnitsOf& units_of) const;
  Sum sum_of_heads(int layer) const;
  Sum sum_of_columns(int layer) const;
  /// The rows of every rank, by rank, on those that read them: `x` its own.
  const std::vector<ValueId>& gathered(ValueId x, const std::vector<bool>& reads);
  /// Partial sums of a half -> the whole sum of the rank's rows, with the half's bias.
  /// `partial_of(piece)` is of the rows of one rank; of all of them where no rank keeps some.
  ValueId reduced(int layer, model::Half half, const Sum& sum, bool has_bias,
                  const Collectives::PartialOf& partial_of);

  ProgramBuilder& program_;
  const model::ModelConfig& config_;
  std::int32_t part_;
  ValueId given_, lengths_ = -1;
  std::vector<Share> shares_;
  std::size_t rank_ = 0;
  Collectives* collectives_ = nullptr;
  RowSplit split_;
  model::Range texts_;
  struct AllRows {
    ValueId of = -1, whole = -1;
    std::vector<ValueId> pieces;
  } gathered_;  // the last one
  KeyRowsOf key_rows_of_;
  KeyRows key_rows_;  // the last ones
  ValueId key_rows_are_of_ = -1;
};

}  // namespace cleave::plan
