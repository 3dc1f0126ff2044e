#include "decompose/fit/heads.hpp"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "decompose/fit/ridge.hpp"

namespace cleave::decompose {

namespace {

using at::Tensor;
using Batches = std::vector<Tensor>;

/// Features of all parts side by side. -> [B·T, Σ D_p].
Tensor side_by_side(const std::vector<FittedPart>& parts, std::size_t batch) {
  std::vector<Tensor> features;
  for (const auto& part : parts) features.push_back(part.features[batch].flatten(0, 1));
  return at::cat(features, 1);
}

/// The columns of each part, in that order. -> int64.
std::vector<Tensor> columns_of(const std::vector<FittedPart>& parts) {
  std::vector<Tensor> columns;
  std::int64_t begin = 0;
  for (const auto& part : parts) {
    const std::int64_t width = part.features.front().size(2);
    columns.push_back(at::arange(begin, begin + width, at::kLong));
    begin += width;
  }
  return columns;
}

at::ScalarType element_of(const std::vector<FittedPart>& parts) {
  return parts.front().features.front().scalar_type();
}

constexpr const char* head_words = "fit, fusion head";

void fit_subsets(model::FusionHead& fusion, const std::vector<FittedPart>& parts,
                 const Moments& moments, double lambda) {
  const auto columns = columns_of(parts);
  const Tensor x = moments.x(), y = moments.y();
  const Tensor gram = moments.xx() - at::outer(x, x), cross = moments.yx() - at::outer(y, x);
  for (std::size_t set = 1; set <= fusion.subsets.size(); ++set) {
    std::vector<bool> present(parts.size());
    Batches chosen;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      present[p] = (set >> p & 1) != 0;
      if (present[p]) chosen.push_back(columns[p]);
    }
    const Tensor inputs = at::cat(chosen);
    const Tensor weight = ridge_weight(gram.index_select(0, inputs).index_select(1, inputs),
                                       cross.index_select(1, inputs),
                                       static_cast<double>(moments.rows()), lambda, head_words);
    auto& subset = fusion.subset(present);
    subset.weight = weight.to(element_of(parts));
    subset.bias = (y - at::matmul(weight, x.index_select(0, inputs))).to(element_of(parts));
  }
}

/// One head for all sets: the regression on inputs δ_p f_p and δ_p, with δ_p = 1 where part p is
/// present, in expectation over δ. What is constant, fused, is shared out evenly to the parts,
/// there or not.
void fit_shared(model::FusionHead& fusion, const std::vector<FittedPart>& parts,
                const Moments& moments, double lambda) {
  constexpr double presence = 2.0 / 3;
  const auto columns = columns_of(parts);
  const auto count = static_cast<std::int64_t>(parts.size());
  const std::int64_t together = moments.x().size(0);
  // Inputs: the features of all parts, then each part's δ; `owner` is the part of each.
  Tensor owner = at::empty({together + count}, at::kLong);
  for (std::int64_t p = 0; p < count; ++p) {
    owner.index_put_({columns[static_cast<std::size_t>(p)]}, at::tensor(p, at::kLong));
    owner[together + p] = p;
  }
  const Tensor ones = at::ones({count}, at::kDouble);
  const Tensor mean = at::cat({moments.x(), ones}), y = moments.y();
  const Tensor xx = at::cat({at::cat({moments.xx(), at::outer(moments.x(), ones)}, 1),
                             at::cat({at::outer(ones, moments.x()), at::outer(ones, ones)}, 1)});
  const Tensor yx = at::cat({moments.yx(), at::outer(y, ones)}, 1);
  const Tensor together_present =
      at::where(owner.unsqueeze(0) == owner.unsqueeze(1), at::full({}, presence, at::kDouble),
                at::full({}, presence * presence, at::kDouble));
  const Tensor seen = mean * presence;
  const Tensor weight = ridge_weight(xx * together_present - at::outer(seen, seen),
                                     yx * presence - at::outer(y, seen),
                                     static_cast<double>(moments.rows()), lambda, head_words);
  const Tensor rest =
      ((y - at::matmul(weight, seen)) / static_cast<double>(count)).to(element_of(parts));
  for (std::int64_t p = 0; p < count; ++p) {
    auto& column = fusion.shared[static_cast<std::size_t>(p)];
    column.weight =
        weight.index_select(1, columns[static_cast<std::size_t>(p)]).to(element_of(parts));
    column.bias = weight.select(1, together + p).to(element_of(parts)) + rest;
    column.absent = rest.clone();
    column.cover = at::zeros_like(rest);
  }
}

}  // namespace

void fit_heads(model::FusionHead& fusion, const Fit& fit, double lambda) {
  if (fit.parts.size() == 1 && fit.parts.front().exact) return;
  const c10::NoGradGuard no_grad;
  std::int64_t together = 0;
  for (const auto& part : fusion.parts) together += part.width;
  Moments moments(together, fusion.teacher().width);
  for (std::size_t i = 0; i < fit.teacher_features.size(); ++i)
    moments.add(side_by_side(fit.parts, i), fit.teacher_features[i].flatten(0, 1));
  if (fusion.shared.empty())
    fit_subsets(fusion, fit.parts, moments, lambda);
  else
    fit_shared(fusion, fit.parts, moments, lambda);
}

}  // namespace cleave::decompose
