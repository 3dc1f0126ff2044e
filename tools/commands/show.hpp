#pragma once

#include <string>

#include "model/config/config.hpp"
#include "optimizer/plan/plan.hpp"

namespace cleave::tools {

/// A plan for people: parts, prediction for each device, overlap, the losers with their reasons.
/// "a batch of 1 with 64 tokens".
std::string describe(const plan::RequestShape& shape);
std::string describe(const plan::Plan& plan);

/// A model for people: parameters, FLOPs, bytes, widths by layer.
std::string describe(const model::ModelConfig& config);

/// "3 heads · 768" for a layer, "uniform" runs folded: "0-5: 3 heads, MLP 768".
std::string describe_layers(const model::ModelConfig& config);

/// Total floating-point operations of one forward pass with a batch of 1.
double total_flops(const model::ModelConfig& config);

}  // namespace cleave::tools
