#pragma once

#include <cstdint>

#include "model/transformer.hpp"

namespace cleave::calibrate {

/// Random weights to train from. Hugging Face's start (all weights of deviation 0.02) is made for
/// wide models and long runs; a narrow one with little data learns in far fewer epochs from
///   positions     fixed waves over rows and columns, so that neighbours start alike (Beyer et al.
///   2022) attention     mimetic: W_qᵀ·W_k ≈ 0.7·Z + 0.7·I for each head, so that tokens look at
///   those like them, and
///                 W_vᵀ·W_oᵀ ≈ 0.4·Z − 0.4·I, Z Gaussian of variance 1/D (Trockman and Kolter 2023)
///   the rest      Glorot: deviation √(2 / (inputs + outputs)); norms 1, biases 0
/// Same seed: same weights.
model::Transformer starting_point(const model::ModelConfig& config, std::uint64_t seed);

}  // namespace cleave::calibrate
