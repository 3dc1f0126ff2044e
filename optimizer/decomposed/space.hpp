#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "optimizer/plan/program.hpp"
#include "optimizer/search.hpp"

namespace cleave::optimizer {

/// What a part may be cut along.
namespace axis {
enum Name : std::size_t { depth, width, heads, mlp };
}
using Axis = axis::Name;
constexpr std::size_t num_axes = 4;
constexpr std::array<Axis, num_axes> all_axes = {axis::depth, axis::width, axis::heads, axis::mlp};

/// What one device keeps of the teacher, counted in steps of each axis (layers, width_step
/// channels, heads, width_step columns).
using Share = std::array<std::int32_t, num_axes>;

/// f(w, n) = a + b·w + c·n + d·w·n through four corners: what a layer costs as its width w and its
/// heads or columns n change. Exact, for a cost model is linear in flops and bytes, and both are of
/// this form.
class Bilinear {
 public:
  Bilinear() = default;
  template <typename Function>
  Bilinear(double w0, double w1, double n0, double n1, const Function& f)
      : w0_(w0),
        n0_(n0),
        per_w_(w1 > w0 ? 1 / (w1 - w0) : 0),
        per_n_(n1 > n0 ? 1 / (n1 - n0) : 0),
        corner_{f(w0, n0), f(w0, n1), f(w1, n0), f(w1, n1)} {}

  template <typename T>
  T operator()(const T& w, const T& n) const {
    const T u = (w - w0_) * per_w_, v = (n - n0_) * per_n_;
    return (1.0 - u) * ((1.0 - v) * corner_[0] + v * corner_[1]) +
           u * ((1.0 - v) * corner_[2] + v * corner_[3]);
  }

 private:
  double w0_ = 0, n0_ = 0, per_w_ = 0, per_n_ = 0;
  std::array<double, 4> corner_{};
};

/// Seconds, bytes or numbers of a whole part: what surrounds the blocks, and the two halves of a
/// block.
struct PartCost {
  Bilinear base;       // over the width alone
  Bilinear attention;  // width, heads
  Bilinear mlp;        // width, columns

  template <typename T>
  T operator()(const T& num_layers, const T& w, const T& num_heads, const T& columns) const {
    return base(w, T(0)) + num_layers * (attention(w, num_heads) + mlp(w, columns));
  }
};

/// Share of the importance that the first units of an axis hold, after 0, 1, 2 … steps; between
/// steps it is a straight line.
struct Curve {
  std::vector<double> kept;
  double operator[](std::int32_t steps) const { return kept[static_cast<std::size_t>(steps)]; }
};

/// How much of the teacher a part is taken to keep: a product of four factors, each of the kept
/// share of importance of one axis. What is cut is the least important, and distillation repairs
/// the more the less is missing, so that the loss grows faster than what is cut: (1 − share)². A
/// layer is repaired worse than the same work of width: (1 − share)^1.5. Heads and columns count as
/// the weights of attention and MLP do, 1 : 2. It ranks plans; nothing more is claimed.
template <typename T>
T layer_factor(const T& share) {
  using std::sqrt;
  const T missing = 1.0 - share;
  return missing > T(1e-12) ? 1.0 - missing * sqrt(missing) : T(1);  // √ has no slope at 0
}
template <typename T>
T channel_factor(const T& share) {
  return 1.0 - (1.0 - share) * (1.0 - share);
}
template <typename T>
T inner_factor(const T& head_share, const T& mlp_share) {
  using std::pow;
  const T least(1e-9);  // nor has pow
  const T of_heads = channel_factor(head_share), of_mlp = channel_factor(mlp_share);
  return pow(of_heads > least ? of_heads : least, 1.0 / 3) *
         pow(of_mlp > least ? of_mlp : least, 2.0 / 3);
}

/// Every part that can be cut from one teacher, and what each costs and keeps. Prices are exact and
/// take nanoseconds: they come from the kernels of a few corner cases.
class Space {
 public:
  /// Throws std::invalid_argument where the importance does not fit the teacher.
  Space(const model::ModelConfig& teacher, const plan::Fleet& fleet, const PlanOptions& options,
        const ImportanceProfile& importance);

  const model::ModelConfig& teacher() const { return teacher_; }
  const plan::Fleet& fleet() const { return fleet_; }
  /// The teacher's compute on the fastest device: what the accuracy weight is relative to.
  double teacher_s() const { return teacher_s_; }

  const Share& smallest() const { return smallest_; }
  const Share& largest() const { return largest_; }
  /// Layers, channels, heads or columns.
  std::int64_t value(Axis axis, std::int32_t steps) const;
  /// The teacher's layers that a part of so many keeps, ascending: the first, the last, and between
  /// them the most important, or evenly spread where all are alike.
  const std::vector<std::int64_t>& layers(std::int32_t num_layers) const;
  model::ModelConfig config(const Share& share) const;
  plan::PlanPart part(std::size_t device, const Share& share) const;

  double seconds(std::size_t device, const Share& share) const;
  double weight_bytes(const Share& share) const { return 4 * total(parameters_, share); }
  /// Weights, activations and buffers of an agent that runs this part.
  double model_bytes(const Share& share) const;
  double parameter_share(const Share& share) const {
    return total(parameters_, share) / teacher_parameters_;
  }
  /// 0..1.
  double quality(const Share& share) const;
  /// The fewest steps of columns with which the share's quality is at least `wanted`; beyond the
  /// largest where none are enough.
  std::int32_t columns_above(const Share& share, double wanted) const;

  /// Of the continuous relaxation: values of `PartCost` count layers, channels, heads and columns.
  const PartCost& seconds_cost(std::size_t device) const { return seconds_[device]; }
  const PartCost& parameter_cost() const { return parameters_; }
  const Curve& layer_curve() const { return layer_curve_; }
  const Curve& channel_curve() const { return channel_curve_; }
  const Curve& head_curve() const { return head_curve_; }
  const Curve& mlp_curve() const { return mlp_curve_; }
  double teacher_parameters() const { return teacher_parameters_; }

 private:
  void set_axes();
  void set_layers(const std::vector<double>& importance);
  void set_curves(const ImportanceProfile& importance, const std::vector<double>& layer_weights);
  void set_costs();
  double total(const PartCost& cost, const Share& share) const;
  double working_bytes(const Share& share) const;
  double quality_beside_columns(const Share& share) const;

  model::ModelConfig teacher_;
  model::ModelConfig bare_;  // without labels: cheap to copy
  plan::Fleet fleet_;
  PlanOptions options_;
  bool uniform_ = true;
  std::int64_t max_heads_ = 0, max_mlp_ = 0;
  Share smallest_{}, largest_{};
  std::vector<std::vector<std::int64_t>> layers_;  // by number of layers
  Curve layer_curve_, channel_curve_;
  Curve head_curve_, mlp_curve_;                                 // of all layers
  std::vector<double> layer_factors_, channel_factors_;          // by steps
  std::vector<std::vector<double>> head_factors_, mlp_factors_;  // by number of layers, then steps
  std::vector<PartCost> seconds_;                                // by device
  PartCost parameters_;
  double teacher_parameters_ = 0, teacher_s_ = 0;
  plan::Plan probe_;  // one part on its own, for the plan's own count of memory
  mutable std::map<Share, double> working_;
};

}  // namespace cleave::optimizer
