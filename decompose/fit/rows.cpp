#include "decompose/fit/rows.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>

namespace cleave::decompose {

using at::Tensor;

FitRows::FitRows(const model::ModelConfig& teacher, const model::Dataset& data, std::int64_t batch,
                 at::ScalarType element) {
  if (data.size() == 0) throw std::invalid_argument("[fit] data: saw no rows, needs at least 1");
  rows_ = data.size();
  if (teacher.task == model::Task::classification) first_ = teacher.summary_tokens;
  if (teacher.task == model::Task::embedding && teacher.pooling == model::Pooling::first)
    first_ = 1;
  model::Transformer shape;
  shape.config = teacher;
  for (std::int64_t begin = 0; begin < data.size(); begin += batch) {
    const auto rows = data.rows(begin, std::min(batch, data.size() - begin));
    const Tensor read = model::inputs_of(teacher, rows);
    inputs_.push_back(read.is_floating_point() ? read.to(element) : read);
    const Tensor& inputs = inputs_.back();
    sights_.push_back(model::sight(shape, inputs));
    const Tensor& real = sights_.back().real;
    places_.push_back(real.defined() ? real.flatten().nonzero().flatten() : Tensor());
    tokens_ += places_.back().defined()
                   ? places_.back().size(0)
                   : inputs.size(0) * (teacher.is_text() ? inputs.size(1) : teacher.num_tokens());
  }
}

Tensor FitRows::tokens(std::size_t batch, const Tensor& x) const {
  const Tensor flat = x.flatten(0, 1);
  return places_[batch].defined() ? flat.index_select(0, places_[batch]) : flat;
}

Tensor FitRows::read_tokens(std::size_t batch, const Tensor& x) const {
  return first_ > 0 ? x.narrow(1, 0, first_).flatten(0, 1) : tokens(batch, x);
}

base::Remarks too_few_tokens(const std::vector<model::ModelConfig>& parts, const FitRows& rows) {
  std::int64_t inputs = 0;
  for (const auto& part : parts) {
    inputs = std::max(inputs, part.width);
    for (const auto& layer : part.layers)
      inputs = std::max({inputs, layer.heads * part.head_width, layer.mlp_width});
  }
  if (rows.num_tokens() >= 2 * inputs) return {};
  return {{"few_rows", 1,
           "[fit] data: saw " + std::to_string(rows.num_tokens()) +
               " tokens, where a regression has up to " + std::to_string(inputs) +
               " inputs and wants twice as many; fitted with larger ridges, give it more rows",
           true}};
}

}  // namespace cleave::decompose
