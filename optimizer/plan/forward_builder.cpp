#include "optimizer/plan/forward_builder.hpp"

#include <utility>

namespace cleave::plan {
ForwardBuilder::ForwardBuilder(ProgramBuilder& program, const model::ModelConfig& config,
                               std::int32_t part, ValueId given, Share share, Reduce reduce)
    : program_(program),
      config_(config),
      part_(part),
      given_(given),
      share_(std::move(share)),
      reduce_(std::move(reduce)) {
  if (!config.is_text()) return;
  texts_ = {0, program.info(given).dims.at(0)};
  lengths_ = program.lengths(given, part);
}

ValueId ForwardBuilder::embed() {
  const bool all = share_.vocabulary.size() == config_.vocabulary;
  const bool positions = all || share_.vocabulary.begin == 0;
  const ValueId x =
      program_.embed(config_, part_, given_, lengths_, share_.vocabulary, positions, rows_);
  return all ? x : reduce_(x);
}

ValueId ForwardBuilder::norm(int layer, model::NormOf which, ValueId x) {
  return program_.norm(part_, layer, which, x);
}

ValueId ForwardBuilder::project(int layer, model::Projection which, ValueId x) {
  if (gather_ && which != model::Projection::query) {
    if (gathered_of_ != x) gathered_ = gather_(layer, x);
    gathered_of_ = x;
    x = gathered_.x;
  }
  return program_.project(config_, part_, layer, which, share_of(layer).heads, x);
}

ValueId ForwardBuilder::attend(int layer, ValueId query, ValueId key, ValueId value) {
  const model::Range kept = kept_.empty() ? model::Range() : kept_[static_cast<std::size_t>(layer)];
  return program_.attend(part_, layer, share_of(layer).heads, texts_, query, key, value, lengths_,
                         gathered_.own, kept, gathered_.marks);
}

ValueId ForwardBuilder::project_out(int layer, ValueId context) {
  const model::Range heads = share_of(layer).heads;
  const bool all = heads.size() == layer_shape(layer).heads / config_.group;
  const ValueId p = program_.project_out(config_, part_, layer, heads, all, context);
  return all ? p : reduced(layer, model::Half::attention, config_.output_bias, p);
}

ValueId ForwardBuilder::mlp(int layer, ValueId x) {
  const model::Range columns = share_of(layer).columns;
  const bool all = columns.size() == layer_shape(layer).mlp_width;
  const ValueId m = program_.mlp(part_, layer, columns, all, x);
  return all ? m : reduced(layer, model::Half::mlp, config_.mlp_bias, m);
}

ValueId ForwardBuilder::add(ValueId x, ValueId added) { return program_.add(x, added); }

ValueId ForwardBuilder::read_out(ValueId x) {
  return program_.read_out(config_, part_, x, lengths_);
}

ValueId ForwardBuilder::read_out_rows(ValueId x) {
  return program_.read_out(config_, part_, x, lengths_, rows_);
}

ValueId ForwardBuilder::head(ValueId feature) {
  return program_.head(config_, part_, share_.vocabulary, feature);
}

ValueId ForwardBuilder::reduced(int layer, model::Half half, bool has_bias, ValueId partial) {
  const ValueId sum = reduce_(partial);
  return has_bias ? program_.add_bias(part_, layer, half, sum) : sum;
}

}  // namespace cleave::plan
