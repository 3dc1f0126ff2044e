#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "optimizer/plan/builder.hpp"
#include "optimizer/plan/plan.hpp"

namespace cleave::plan {

/// A machine of model/config/block.hpp that writes one rank's program. Where the share has some of
/// the heads, columns or vocabulary, `reduce` turns partial sums into whole ones.
class ForwardBuilder {
 public:
  using Value = ValueId;
  using Reduce = std::function<ValueId(ValueId partial)>;
  /// What keys and values are computed from: rows of the sequence, or what stands for them, then
  /// with marks; which of them the queries' are.
  struct KeyRows {
    ValueId x = -1;
    model::Range own;
    ValueId marks = -1;
  };
  using Gather = std::function<KeyRows(int layer, ValueId own)>;

  /// `given`: pixels or ids of the whole batch; −1 where the rank does not embed and no text is
  /// read.
  ForwardBuilder(ProgramBuilder& program, const model::ModelConfig& config, std::int32_t part,
                 ValueId given, Share share, Reduce reduce = {});
  /// From here on values are of these texts of the batch.
  void of_texts(model::Range texts) { texts_ = texts; }
  /// Values are of these rows of each sequence, and `gather` gives those that keys and values are
  /// computed from. `kept`: heads whose keys and values a sequence keeps, by layer.
  void of_rows(model::Range rows, Gather gather, std::vector<model::Range> kept) {
    rows_ = rows;
    gather_ = std::move(gather);
    kept_ = std::move(kept);
  }

  ValueId embed();
  ValueId norm(int layer, model::NormOf which, ValueId x);
  ValueId project(int layer, model::Projection which, ValueId x);
  ValueId attend(int layer, ValueId query, ValueId key, ValueId value);
  ValueId project_out(int layer, ValueId context);
  ValueId mlp(int layer, ValueId x);
  ValueId add(ValueId x, ValueId added);
  ValueId read_out(ValueId x);
  /// What its rows bring to the feature.
  ValueId read_out_rows(ValueId x);
  /// How many tokens each text has; of images −1.
  ValueId lengths() const { return lengths_; }
  /// The feature -> the answer; a language model's for the vocabulary of the share.
  ValueId head(ValueId feature);

 private:
  const model::LayerShape& layer_shape(int layer) const {
    return config_.layers.at(static_cast<std::size_t>(layer));
  }
  const LayerShare& share_of(int layer) const {
    return share_.layers.at(static_cast<std::size_t>(layer));
  }
  /// A partial sum -> the whole one, with the half's bias.
  ValueId reduced(int layer, model::Half half, bool has_bias, ValueId partial);

  ProgramBuilder& program_;
  const model::ModelConfig& config_;
  std::int32_t part_;
  ValueId given_, lengths_ = -1;
  Share share_;
  model::Range texts_;
  Reduce reduce_;
  model::Range rows_;
  Gather gather_;
  std::vector<model::Range> kept_;
  KeyRows gathered_;  // the last ones
  ValueId gathered_of_ = -1;
};

}  // namespace cleave::plan
