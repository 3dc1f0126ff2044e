#pragma once

#include <string>
#include <vector>

#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::optimizer {

struct FitOptions {
  /// Residuals are relative; beyond this they count linearly (Huber), so that one noisy sample
  /// cannot pull the fit.
  double huber = 0.15;
  int max_iterations = 200;
};

struct FitSummary {
  plan::CostModel cost;
  bool converged = false;
  std::string message;
  /// |predicted − measured| / measured on the held-out samples.
  double median_error = 0, p90_error = 0;
};

/// Fits seconds = overhead + flops/rate + bytes/bandwidth for each kind of kernel (Ceres, bounds ≥
/// 0, robust loss). Throws std::invalid_argument where a kind that occurs has fewer than three
/// samples.
FitSummary fit(const std::vector<plan::Sample>& samples, const FitOptions& options = {});

/// Seconds, bytes and joules of each rank for one request of the plan's shape, the timeline aside.
std::vector<plan::DevicePrediction> predict_devices(const plan::Plan& plan,
                                                    const plan::Fleet& fleet);

}  // namespace cleave::optimizer
