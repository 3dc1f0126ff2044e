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
/// 0, robust loss). What one instruction and one message cost is not in the samples: those stay 0,
/// for the caller to keep as measured. Errors are those of all samples where none is held out.
/// Throws std::invalid_argument where a kind that occurs has fewer than three samples.
FitSummary fit(const std::vector<plan::Sample>& samples, const FitOptions& options = {});

/// Seconds, bytes and joules of each rank for one request of the plan's shape, the timeline aside:
/// computing and the two ends of messages, waiting not counted. A device that idles is charged for
/// plan.prediction.latency_s, once.
std::vector<plan::DevicePrediction> predict_devices(const plan::Plan& plan,
                                                    const plan::Fleet& fleet);

}  // namespace cleave::optimizer
