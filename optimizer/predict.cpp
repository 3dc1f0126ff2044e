#include "optimizer/predict.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include <ceres/ceres.h>

#include "optimizer/plan/cost.hpp"
#include "optimizer/task_graph.hpp"

namespace cleave::optimizer {
namespace {

using plan::Kernel;
using plan::KernelCost;
using plan::KernelKind;
using plan::Sample;

constexpr std::size_t fewest_samples = 3;

std::size_t index_of(KernelKind kind) { return static_cast<std::size_t>(kind); }

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The value below which `share` of the values lie (nearest rank).
double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  return values[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

void check(const std::vector<Sample>& samples) {
  for (std::size_t i = 0; i < samples.size(); ++i)
    if (!std::isfinite(samples[i].seconds) || samples[i].seconds <= 0)
      throw std::invalid_argument("[fit] samples[" + std::to_string(i) + "].seconds: saw " +
                                  std::to_string(samples[i].seconds) + ", needs a number above 0");
}

void check(const FitOptions& options) {
  if (!(options.huber > 0))
    throw std::invalid_argument("[fit] huber: saw " + std::to_string(options.huber) +
                                ", needs a number above 0");
  if (options.max_iterations < 1)
    throw std::invalid_argument("[fit] max_iterations: saw " +
                                std::to_string(options.max_iterations) + ", needs 1 or more");
}

/// The three terms of a kernel's cost in seconds at a typical sample, so that the solver sees
/// numbers of one size.
struct Terms {
  static constexpr int count = 3;
  std::array<double, count> scale{};  // what one unit of a parameter is: 1, flops, bytes
  explicit Terms(const std::vector<const Sample*>& samples) {
    std::vector<double> flops, bytes;
    for (const Sample* sample : samples) {
      flops.push_back(sample->kernel.flops());
      bytes.push_back(sample->kernel.bytes());
    }
    scale = {1, median(flops), median(bytes)};
  }
  std::array<double, count> of(const Kernel& kernel) const {
    return {1, scale[1] > 0 ? kernel.flops() / scale[1] : 0,
            scale[2] > 0 ? kernel.bytes() / scale[2] : 0};
  }
};

/// (predicted − measured) / measured: a fast kernel counts as much as a slow one.
struct RelativeError {
  std::array<double, Terms::count> terms;
  double seconds;
  template <typename T>
  bool operator()(const T* parameters, T* residual) const {
    T predicted(0);
    for (std::size_t i = 0; i < terms.size(); ++i) predicted += parameters[i] * terms[i];
    residual[0] = (predicted - seconds) / seconds;
    return true;
  }
};

struct KindFit {
  KernelCost cost;
  bool converged = false;
  std::string message;
};

/// A term that the samples do not show (below a billionth of the whole) is left out rather than
/// written as an absurd rate.
double rate(double seconds_per_scale, double scale, double typical_s) {
  return scale > 0 && seconds_per_scale > 1e-9 * typical_s ? scale / seconds_per_scale : 0;
}

KindFit fit_kind(const std::vector<const Sample*>& samples, const FitOptions& options) {
  std::vector<double> seconds;
  for (const Sample* sample : samples) seconds.push_back(sample->seconds);
  const double typical_s = median(seconds);
  const Terms terms(samples);
  std::array<double, Terms::count> parameters{typical_s / 3, typical_s / 3, typical_s / 3};

  ceres::Problem problem;
  for (const Sample* sample : samples)
    problem.AddResidualBlock(new ceres::AutoDiffCostFunction<RelativeError, 1, Terms::count>(
                                 new RelativeError{terms.of(sample->kernel), sample->seconds}),
                             new ceres::HuberLoss(options.huber), parameters.data());
  for (int i = 0; i < Terms::count; ++i) problem.SetParameterLowerBound(parameters.data(), i, 0);

  ceres::Solver::Options solver;
  solver.max_num_iterations = options.max_iterations;
  solver.linear_solver_type = ceres::DENSE_QR;
  solver.function_tolerance = 1e-12;
  solver.parameter_tolerance = 1e-12;
  solver.logging_type = ceres::SILENT;
  ceres::Solver::Summary summary;
  ceres::Solve(solver, &problem, &summary);

  KindFit fit;
  fit.cost.overhead_s = std::max(parameters[0], 0.0);
  fit.cost.flops_per_s = rate(parameters[1], terms.scale[1], typical_s);
  fit.cost.bytes_per_s = rate(parameters[2], terms.scale[2], typical_s);
  fit.converged = summary.termination_type == ceres::CONVERGENCE;
  fit.message = summary.message;
  return fit;
}

std::vector<const Sample*> fitted_samples(const std::vector<Sample>& samples, KernelKind kind) {
  std::vector<const Sample*> chosen;
  for (const Sample& sample : samples)
    if (sample.kernel.kind == kind && !sample.held_out) chosen.push_back(&sample);
  return chosen;
}

bool occurs(const std::vector<Sample>& samples, KernelKind kind) {
  return std::any_of(samples.begin(), samples.end(),
                     [kind](const Sample& s) { return s.kernel.kind == kind; });
}

/// |predicted − measured| / measured of the samples held out, or of all where none is.
std::vector<double> errors(const std::vector<Sample>& samples, const plan::CostModel& cost) {
  const bool any_held_out =
      std::any_of(samples.begin(), samples.end(), [](const Sample& s) { return s.held_out; });
  std::vector<double> relative;
  for (const Sample& sample : samples)
    if (sample.held_out || !any_held_out)
      relative.push_back(std::abs(cost.seconds(sample.kernel) - sample.seconds) / sample.seconds);
  return relative;
}

/// Watts for as long as they flow: the process is charged for its own computing; what idles belongs
/// to the device and is charged once, to the first process there.
double energy_j(const plan::Device& device, double compute_s, double latency_s, bool charge_idle) {
  const double busy_j = std::max(device.watts_busy - device.watts_idle, 0.0) * compute_s;
  return busy_j + (charge_idle ? device.watts_idle * std::max(latency_s, compute_s) : 0);
}

void add_computing(std::vector<plan::DevicePrediction>& predictions, const plan::Plan& plan,
                   const std::vector<plan::Program>& programs, const plan::Fleet& fleet,
                   const std::vector<std::size_t>& devices) {
  for (std::size_t rank = 0; rank < programs.size(); ++rank) {
    const std::vector<Start> starts = starts_of(programs[rank]);
    for (std::size_t i = 0; i < starts.size(); ++i)
      predictions[rank].compute_s +=
          compute_seconds(fleet.devices[devices[rank]], starts[i],
                          plan::kernels_of(programs[rank].instructions[i], programs[rank], plan));
  }
}

void add_messages(std::vector<plan::DevicePrediction>& predictions,
                  const std::vector<plan::Program>& programs, const plan::Fleet& fleet,
                  const std::vector<std::size_t>& devices) {
  for (const Message& message : messages_of(programs)) {
    const auto from = static_cast<std::size_t>(message.from),
               to = static_cast<std::size_t>(message.to);
    double wire_s = 0;
    if (devices[from] != devices[to]) {
      const plan::Link& link = fleet.link(devices[from], devices[to]);
      wire_s = link.latency_s + message.bytes / link.bytes_per_s;
    }
    predictions[from].send_s +=
        message_seconds(fleet.devices[devices[from]], message.bytes) + wire_s;
    predictions[to].receive_s +=
        message_seconds(fleet.devices[devices[to]], message.bytes) + wire_s;
    predictions[from].sent_bytes += message.bytes;
    predictions[to].received_bytes += message.bytes;
  }
}

}  // namespace

FitSummary fit(const std::vector<Sample>& samples, const FitOptions& options) {
  check(options);
  check(samples);
  FitSummary summary;
  summary.converged = true;
  for (int k = 0; k < plan::num_kernel_kinds; ++k) {
    const auto kind = static_cast<KernelKind>(k);
    if (!occurs(samples, kind)) continue;
    const auto chosen = fitted_samples(samples, kind);
    const std::string name(plan::name_of(kind));
    if (chosen.size() < fewest_samples)
      throw std::invalid_argument("[fit] samples of " + name + ": saw " +
                                  std::to_string(chosen.size()) + " that are not held out, needs " +
                                  std::to_string(fewest_samples) + " or more");
    const KindFit found = fit_kind(chosen, options);
    summary.cost.kernels[index_of(kind)] = found.cost;
    if (found.converged) continue;
    summary.converged = false;
    summary.message += (summary.message.empty() ? "" : "; ") + name + ": " + found.message;
  }
  const std::vector<double> relative = errors(samples, summary.cost);
  summary.median_error = quantile(relative, 0.5);
  summary.p90_error = quantile(relative, 0.9);
  return summary;
}

std::vector<plan::DevicePrediction> predict_devices(const plan::Plan& plan,
                                                    const plan::Fleet& fleet) {
  const std::vector<plan::Program> programs = plan::compile(plan, plan.shape);
  const std::vector<std::size_t> devices = devices_of(plan, fleet);
  const std::size_t aggregator = devices.size() - 1;

  std::vector<plan::DevicePrediction> predictions(devices.size());
  add_computing(predictions, plan, programs, fleet, devices);
  add_messages(predictions, programs, fleet, devices);
  std::vector<bool> idle_charged(fleet.devices.size(), false);
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    const plan::Device& device = fleet.devices[devices[rank]];
    plan::DevicePrediction& prediction = predictions[rank];
    prediction.device = rank == aggregator ? plan::aggregator_process(device.name) : device.name;
    prediction.runtime_bytes = device.profile.runtime_bytes;
    prediction.model_bytes =
        plan::resident_bytes(programs[rank], plan) + plan::working_bytes(programs[rank], plan);
    prediction.limit_bytes = device.memory_bytes;
    prediction.energy_j = energy_j(device, prediction.compute_s, plan.prediction.latency_s,
                                   !idle_charged[devices[rank]]);
    idle_charged[devices[rank]] = true;
  }
  return predictions;
}

}  // namespace cleave::optimizer
