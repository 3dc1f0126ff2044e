#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace cleave::decompose {

/// Sums of products of inputs x and outputs y over rows, in fp64: all that a regression needs.
class Moments {
 public:
  Moments(std::int64_t inputs, std::int64_t outputs);
  /// [n, inputs] and [n, outputs].
  void add(const at::Tensor& x, const at::Tensor& y);
  void add(const Moments& more);
  std::int64_t rows() const { return rows_; }
  // Means over the rows: E[x xᵀ], E[y xᵀ], E[x], E[y].
  at::Tensor xx() const { return xx_ / static_cast<double>(rows_); }
  at::Tensor yx() const { return yx_ / static_cast<double>(rows_); }
  at::Tensor x() const { return x_ / static_cast<double>(rows_); }
  at::Tensor y() const { return y_ / static_cast<double>(rows_); }

 private:
  at::Tensor xx_, yx_, x_, y_;
  std::int64_t rows_ = 0;
};

/// y ≈ weight x + bias, fp64: [outputs, inputs] and [outputs].
struct LinearMap {
  at::Tensor weight, bias;
};

/// Ridge regression (Hoerl and Kennard 1970):
///
///   W = C (G + λ·mean(diag G)·I)⁻¹,  b = E[y] − W E[x]
///   G = E[x xᵀ] − E[x] E[x]ᵀ, C = E[y xᵀ] − E[y] E[x]ᵀ      without a bias as they are, and b = 0
///
/// λ grows by what is missing to twice as many rows as inputs; where all inputs are constant, W is
/// 0. Throws std::runtime_error "[where] …" where sums are not finite, or there are no rows.
LinearMap ridge(const Moments& moments, bool with_bias, double lambda, const std::string& where);
/// The same from G and C, for `rows` rows; without the bias. -> W.
at::Tensor ridge_weight(at::Tensor gram, const at::Tensor& cross, double rows, double lambda,
                        const std::string& where);

/// A regression for each channel by itself: y_c ≈ weight_c x_c + bias_c, as a norm's weight and
/// bias do.
class ChannelMoments {
 public:
  explicit ChannelMoments(std::int64_t width);
  /// [n, width] each.
  void add(const at::Tensor& x, const at::Tensor& y);
  void add(const ChannelMoments& more) { sums_ += more.sums_; }
  /// weight [width]; bias 0 without one. A constant channel has weight 0.
  LinearMap solve(bool with_bias) const;

 private:
  at::Tensor sums_;  // x, y, x², x·y, rows; [5, width]
};

}  // namespace cleave::decompose
