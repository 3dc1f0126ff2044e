#pragma once

#include <filesystem>
#include <vector>

#include "base/progress.hpp"
#include "model/config/holding.hpp"

namespace cleave::decompose {

/// Writes what one device keeps of the model in folder `teacher` to the folder `out`, parameter by
/// parameter (peak memory: the largest stored tensor, twice), fp32. `progress` counts stored
/// tensors. Throws std::invalid_argument where the model has no such weights, std::runtime_error
/// where a file fails.
void cut_holding(const std::filesystem::path& teacher,
                 const std::vector<model::ParameterRange>& weights,
                 const std::filesystem::path& out, const base::ProgressCallback& progress = {});

}  // namespace cleave::decompose
