#pragma once

// Functions of a vector that Highway has not, and the activations.

#include "infer/kernels/simd/target.hpp"
#include "infer/kernels/table.hpp"

// After target.hpp, which chooses Highway's target.
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace cleave::kernels::CLEAVE_TARGET {

/// 1 / (1 + e^−x).
HWY_INLINE Vf sigmoid(Vf x) {
  const F d;
  // Beyond, e^−x is infinite or what it adds to 1 is lost.
  const Vf low = hn::Max(x, hn::Set(d, -88.0F));
  return hn::Div(hn::Set(d, 1.0F), hn::Add(hn::Set(d, 1.0F), hn::Exp(d, hn::Neg(low))));
}

/// e^x of x <= 0, which is 0 below −87: 2^n · 2^f with f in [−1/2, 1/2] by the polynomial that is
/// nearest to it (Remez). The relative error is below 3e-7 down to −8, and grows with |x|, as that
/// of x · log2 e.
HWY_INLINE Vf exp_of_negative(Vf x) {
  const F d;
  const I di;
  const Vf y = hn::Mul(hn::Max(x, hn::Set(d, -87.0F)), hn::Set(d, 1.44269504F));
  const Vi n = hn::NearestInt(y);
  const Vf f = hn::Sub(y, hn::ConvertTo(d, n));
  Vf p = hn::MulAdd(f, hn::Set(d, 1.32646327e-3F), hn::Set(d, 9.67148066e-3F));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55073368e-2F));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40222426e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93146978e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0F));
  const Vf power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
  return hn::IfThenElseZero(hn::Gt(x, hn::Set(d, -87.0F)), hn::Mul(p, power));
}

/// Abramowitz and Stegun 7.1.26: |error| <= 1.5e-7.
HWY_INLINE Vf erf(Vf x) {
  const F d;
  const Vf z = hn::Abs(x), one = hn::Set(d, 1.0F);
  const Vf t = hn::Div(one, hn::MulAdd(z, hn::Set(d, 0.3275911F), one));
  Vf p = hn::MulAdd(t, hn::Set(d, 1.061405429F), hn::Set(d, -1.453152027F));
  p = hn::MulAdd(p, t, hn::Set(d, 1.421413741F));
  p = hn::MulAdd(p, t, hn::Set(d, -0.284496736F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.254829592F));
  const Vf tail = hn::Mul(hn::Mul(p, t), hn::Exp(d, hn::Neg(hn::Mul(z, z))));
  return hn::CopySign(hn::Sub(one, tail), x);
}

HWY_INLINE Vf activate(Activation activation, Vf x) {
  const F d;
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      // In this order a NaN stays one.
      return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);
    case Activation::gelu:
      return hn::Mul(hn::Mul(x, hn::Set(d, 0.5F)),
                     hn::Add(hn::Set(d, 1.0F), erf(hn::Mul(x, hn::Set(d, 0.70710678F)))));
    case Activation::gelu_tanh: {
      // (1 + tanh u) / 2 is the sigmoid of 2u.
      const Vf cubic = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715F), hn::Mul(x, x)), x, x);
      return hn::Mul(x, sigmoid(hn::Mul(hn::Set(d, 1.5957691216F), cubic)));
    }
    case Activation::silu:
      return hn::Mul(x, sigmoid(x));
  }
  return x;
}

}  // namespace cleave::kernels::CLEAVE_TARGET
HWY_AFTER_NAMESPACE();
