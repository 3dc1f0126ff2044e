#include "decompose/fit/ridge.hpp"

#include <algorithm>
#include <stdexcept>

#include <ATen/ATen.h>

namespace cleave::decompose {

using at::Tensor;

Moments::Moments(std::int64_t inputs, std::int64_t outputs)
    : xx_(at::zeros({inputs, inputs}, at::kDouble)),
      yx_(at::zeros({outputs, inputs}, at::kDouble)),
      x_(at::zeros({inputs}, at::kDouble)),
      y_(at::zeros({outputs}, at::kDouble)) {}

void Moments::add(const Tensor& x, const Tensor& y) {
  const Tensor wide_x = x.to(at::kDouble), wide_y = y.to(at::kDouble);
  xx_ = xx_ + at::matmul(wide_x.t(), wide_x);
  yx_ = yx_ + at::matmul(wide_y.t(), wide_x);
  x_ = x_ + wide_x.sum(0);
  y_ = y_ + wide_y.sum(0);
  rows_ += x.size(0);
}

void Moments::add(const Moments& more) {
  xx_ = xx_ + more.xx_;
  yx_ = yx_ + more.yx_;
  x_ = x_ + more.x_;
  y_ = y_ + more.y_;
  rows_ += more.rows_;
}

Tensor ridge_weight(Tensor gram, const Tensor& cross, double rows, double lambda,
                    const std::string& where) {
  if (!at::isfinite(gram).all().item<bool>() || !at::isfinite(cross).all().item<bool>())
    throw std::runtime_error("[" + where + "] activations: not finite");
  const double mean = gram.diagonal().mean().item<double>();
  if (!(mean > 0)) return at::zeros_like(cross);
  const double missing = std::max(1.0, 2 * static_cast<double>(gram.size(0)) / rows);
  gram = gram.clone();
  gram.diagonal().add_(lambda * missing * mean);
  return at::linalg_solve(gram, cross.t()).t().contiguous();
}

LinearMap ridge(const Moments& moments, bool with_bias, double lambda, const std::string& where) {
  if (moments.rows() == 0)
    throw std::runtime_error("[" + where + "] saw no rows, needs at least 1");
  Tensor gram = moments.xx(), cross = moments.yx();
  const Tensor x = moments.x(), y = moments.y();
  if (with_bias) {
    gram = gram - at::outer(x, x);
    cross = cross - at::outer(y, x);
  }
  const Tensor weight =
      ridge_weight(gram, cross, static_cast<double>(moments.rows()), lambda, where);
  return {weight, with_bias ? y - at::matmul(weight, x) : at::zeros_like(y)};
}

ChannelMoments::ChannelMoments(std::int64_t width) : sums_(at::zeros({5, width}, at::kDouble)) {}

void ChannelMoments::add(const Tensor& x, const Tensor& y) {
  const Tensor a = x.to(at::kDouble), b = y.to(at::kDouble);
  const auto rows = static_cast<double>(a.size(0));
  sums_ = sums_ + at::stack({a.sum(0), b.sum(0), (a * a).sum(0), (a * b).sum(0),
                             at::full({a.size(1)}, rows, at::kDouble)});
}

LinearMap ChannelMoments::solve(bool with_bias) const {
  constexpr double least = 1e-12;
  const Tensor rows = sums_[4], x = sums_[0] / rows, y = sums_[1] / rows;
  const Tensor xx = sums_[2] / rows, xy = sums_[3] / rows;
  if (!with_bias) return {xy / xx.clamp_min(least), at::zeros_like(x)};
  const Tensor weight = (xy - x * y) / (xx - x * x).clamp_min(least);
  return {weight, y - weight * x};
}

}  // namespace cleave::decompose
