#pragma once

#include "model/transformer.hpp"

namespace cleave::calibrate {

/// model::features without what nobody reads: in the last block only the summary tokens ask, so
/// queries, output projection and MLP are computed for their rows alone. The same numbers up to
/// rounding, a sixth fewer products with six layers, forwards and backwards. Inputs as
/// features() takes them -> [B, T, D]; of texts it is features() itself.
at::Tensor summary_features(const model::Transformer& model, const at::Tensor& inputs,
                            const model::Observer* observer = nullptr);

/// What a model makes of every token, after its last norm [B, N, D], and its features [B, T, D].
struct TokenFeatures {
  at::Tensor tokens, features;
};
TokenFeatures token_features(const model::Transformer& model, const at::Tensor& inputs,
                             const model::Observer* observer = nullptr);

}  // namespace cleave::calibrate
