#pragma once

#include "decompose/fit/fit.hpp"
#include "model/fusion.hpp"

namespace cleave::decompose {

/// The heads of `fusion` in closed form, by ridge regression of the teacher's features on those of
/// the parts: one for each set, from one Gram matrix. Where more parts share one head, each is
/// absent from a third of the rows, independently of the others. One part that is exact keeps its
/// head.
void fit_heads(model::FusionHead& fusion, const Fit& fit, double ridge);

}  // namespace cleave::decompose
