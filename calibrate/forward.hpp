#pragma once

#include "model/transformer.hpp"

namespace cleave::calibrate {

/// model::features without what nobody reads: in the last block only the summary tokens ask, so
/// queries, output projection and MLP are computed for their rows alone. The same numbers up to
/// rounding, a sixth fewer products with six layers, forwards and backwards. Normalised pixels [B,
/// c, h, w] -> [B, T, D].
at::Tensor summary_features(const model::Transformer& model, const at::Tensor& pixels,
                            const model::Observer* observer = nullptr);

}  // namespace cleave::calibrate
