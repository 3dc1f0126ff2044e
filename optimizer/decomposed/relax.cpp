#include "optimizer/decomposed/relax.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ceres/ceres.h>

namespace cleave::optimizer {
namespace {

using Values = std::array<double, num_axes>;

double plain(double x) { return x; }
template <typename T, int N>
double plain(const ceres::Jet<T, N>& x) {
  return x.a;
}

template <typename T>
T above_zero(const T& x) {
  return x > T(0) ? x : T(0);
}

/// √x that keeps a finite slope at 0.
template <typename T>
T root(const T& x) {
  using std::sqrt;
  return sqrt(above_zero(x) + 1e-9);
}

/// The curve at a share of its length, straight between steps.
template <typename T>
T interpolate(const Curve& curve, const T& share) {
  const double last = static_cast<double>(curve.kept.size() - 1);
  const T position = share * last;
  const double floor = std::clamp(std::floor(plain(position)), 0.0, std::max(last - 1, 0.0));
  const auto i = static_cast<std::size_t>(floor);
  if (i + 1 >= curve.kept.size()) return T(curve.kept.back());
  return curve.kept[i] + (position - floor) * (curve.kept[i + 1] - curve.kept[i]);
}

/// A member's part as a function of x, the shares of its axes in [0, 1].
class Member {
 public:
  Member(const Space& space, std::size_t device)
      : space_(space), cost_(space.seconds_cost(device)) {
    for (const Axis axis : all_axes) {
      most_[axis] = static_cast<double>(space.value(axis, space.largest()[axis]));
      least_[axis] = static_cast<double>(space.value(axis, space.smallest()[axis]));
    }
    const double narrow = least_[axis::width], wide = most_[axis::width];
    working_ = Bilinear(narrow, wide, 0, 1, [&](double w, double inner) {
      Share share = inner > 0 ? space.largest() : space.smallest();
      share[axis::width] =
          w > narrow ? space.largest()[axis::width] : space.smallest()[axis::width];
      return space.model_bytes(share) - space.weight_bytes(share);
    });
  }

  double most(Axis axis) const { return most_[axis]; }
  /// Lower bound of x; the upper is 1.
  double lowest(Axis axis) const { return most_[axis] > 0 ? least_[axis] / most_[axis] : 0; }

  template <typename T>
  T quality(const T* x) const {
    return layer_factor(interpolate(space_.layer_curve(), x[axis::depth])) *
           channel_factor(interpolate(space_.channel_curve(), x[axis::width])) *
           inner_factor(interpolate(space_.head_curve(), x[axis::heads]),
                        interpolate(space_.mlp_curve(), x[axis::mlp]));
  }
  template <typename T>
  T seconds(const T* x) const {
    return price(cost_, x);
  }
  template <typename T>
  T parameters(const T* x) const {
    return price(space_.parameter_cost(), x);
  }
  template <typename T>
  T model_bytes(const T* x) const {
    const T inner = (x[axis::heads] + x[axis::mlp]) * 0.5;
    return 4.0 * parameters(x) + working_(x[axis::width] * most_[axis::width], inner);
  }

 private:
  template <typename T>
  T price(const PartCost& cost, const T* x) const {
    return cost(x[axis::depth] * most_[axis::depth], x[axis::width] * most_[axis::width],
                x[axis::heads] * most_[axis::heads], x[axis::mlp] * most_[axis::mlp]);
  }

  const Space& space_;
  const PartCost& cost_;
  Values most_{}, least_{};
  Bilinear working_;
};

/// √(weight · finish): its square is the time's term of the objective.
struct FinishTerm {
  double weight;
  template <typename T>
  bool operator()(const T* finish, T* residual) const {
    residual[0] = root(weight * finish[0]);
    return true;
  }
};

/// √(weight · Π (1 − quality)).
struct LossTerm {
  const std::vector<Member>& members;
  double weight;
  template <typename T>
  bool operator()(T const* const* x, T* residual) const {
    T loss(1);
    for (std::size_t p = 0; p < members.size(); ++p) loss *= 1.0 - members[p].quality(x[p]);
    residual[0] = root(weight * loss);
    return true;
  }
};

/// What one member may not do: finish after the rest, need more memory than it has, be too large a
/// share.
struct MemberPenalties {
  const Member& member;
  double penalty, teacher_s, offset_s, room_bytes, max_parameters;
  template <typename T>
  bool operator()(const T* x, const T* finish, T* residual) const {
    residual[0] = penalty * above_zero((member.seconds(x) + offset_s) / teacher_s - finish[0]);
    residual[1] = penalty * above_zero(member.model_bytes(x) / std::max(room_bytes, 1.0) - 1.0);
    residual[2] =
        penalty *
        above_zero(max_parameters > 0 ? member.parameters(x) / max_parameters - 1.0 : T(0));
    return true;
  }
};

/// Channels and heads of all parts together are at most the teacher's.
struct PartitionPenalty {
  std::size_t num_members;
  double penalty;
  template <typename T>
  bool operator()(T const* const* x, T* residual) const {
    T channels(0), num_heads(0);
    for (std::size_t p = 0; p < num_members; ++p) {
      channels += x[p][axis::width];
      num_heads += x[p][axis::heads];
    }
    residual[0] = penalty * above_zero(channels - 1.0);
    residual[1] = penalty * above_zero(num_heads - 1.0);
    return true;
  }
};

/// Owns the variables; each solve() starts where the last one ended.
class Relaxation {
 public:
  Relaxation(const Space& space, const RelaxProblem& problem) : space_(space), problem_(problem) {
    for (const std::size_t device : problem.team) members_.emplace_back(space, device);
    for (const Member& member : members_) {
      Values x{};
      const double start = problem.partition ? 1.0 / static_cast<double>(members_.size()) : 0.5;
      for (const Axis axis : all_axes) x[axis] = std::max(start, member.lowest(axis));
      x_.push_back(x);
    }
    finish_ = max_finish() > 0 ? std::min(1.0, max_finish()) : 1.0;
  }

  bool solve(double penalty) {
    ceres::Problem ceres_problem;
    ceres_problem.AddResidualBlock(
        new ceres::AutoDiffCostFunction<FinishTerm, 1, 1>(new FinishTerm{problem_.time_weight}),
        nullptr, &finish_);
    add_joint(ceres_problem, new LossTerm{members_, problem_.loss_weight}, 1);
    if (problem_.partition)
      add_joint(ceres_problem, new PartitionPenalty{members_.size(), penalty}, 2);
    for (std::size_t p = 0; p < members_.size(); ++p) add_member(ceres_problem, p, penalty);
    ceres_problem.SetParameterLowerBound(&finish_, 0, 0);
    if (max_finish() > 0) ceres_problem.SetParameterUpperBound(&finish_, 0, max_finish());

    ceres::Solver::Options options;
    options.max_num_iterations = 60;
    options.linear_solver_type = ceres::DENSE_QR;
    options.logging_type = ceres::SILENT;
    ceres::Solver::Summary summary;
    ceres::Solve(options, &ceres_problem, &summary);
    return summary.IsSolutionUsable();
  }

  RelaxSummary take(bool converged) const {
    RelaxSummary summary;
    for (std::size_t p = 0; p < members_.size(); ++p) {
      Values values{};
      for (const Axis axis : all_axes) values[axis] = x_[p][axis] * members_[p].most(axis);
      summary.values.push_back(values);
    }
    summary.finish_s = finish_ * space_.teacher_s();
    summary.converged = converged;
    return summary;
  }

 private:
  double max_finish() const { return problem_.max_finish_s / space_.teacher_s(); }

  template <typename Term>
  void add_joint(ceres::Problem& ceres_problem, Term* term, int num_residuals) {
    auto* cost = new ceres::DynamicAutoDiffCostFunction<Term, num_axes>(term);
    std::vector<double*> blocks;
    for (Values& x : x_) {
      cost->AddParameterBlock(num_axes);
      blocks.push_back(x.data());
    }
    cost->SetNumResiduals(num_residuals);
    ceres_problem.AddResidualBlock(cost, nullptr, blocks);
  }

  void add_member(ceres::Problem& ceres_problem, std::size_t p, double penalty) {
    const double max_parameters = problem_.max_part_share * space_.teacher_parameters();
    ceres_problem.AddResidualBlock(
        new ceres::AutoDiffCostFunction<MemberPenalties, 3, num_axes, 1>(
            new MemberPenalties{members_[p], penalty, space_.teacher_s(), problem_.offset_s[p],
                                problem_.room_bytes[p], max_parameters}),
        nullptr, x_[p].data(), &finish_);
    for (const Axis axis : all_axes) {
      // A hair of room where an axis has one value only: Ceres wants the bounds apart.
      ceres_problem.SetParameterLowerBound(x_[p].data(), axis, members_[p].lowest(axis) - 1e-9);
      ceres_problem.SetParameterUpperBound(x_[p].data(), axis, 1);
    }
  }

  const Space& space_;
  const RelaxProblem& problem_;
  std::vector<Member> members_;
  std::vector<Values> x_;  // by member: shares of its axes
  double finish_ = 1;      // in teacher latencies
};

/// Whole numbers of at least `least` near `wanted` with a sum of at most `most`: floors, then the
/// largest remainders.
std::vector<std::int32_t> round_within(const std::vector<double>& wanted, std::int32_t least,
                                       std::int32_t most) {
  std::vector<std::int32_t> rounded;
  for (const double value : wanted)
    rounded.push_back(std::max(least, static_cast<std::int32_t>(std::floor(value + 1e-6))));
  std::vector<std::size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return wanted[a] - rounded[a] > wanted[b] - rounded[b];
  });
  std::int32_t left = most - std::accumulate(rounded.begin(), rounded.end(), 0);
  for (const std::size_t p : order) {
    if (left <= 0 || wanted[p] - rounded[p] <= 1e-6) break;
    ++rounded[p];
    --left;
  }
  while (left < 0) {
    auto& widest = *std::max_element(rounded.begin(), rounded.end());
    if (widest <= least) break;  // there is nothing to take from: the search will say so
    --widest;
    ++left;
  }
  return rounded;
}

}  // namespace

RelaxSummary relax(const Space& space, const RelaxProblem& problem) {
  Relaxation relaxation(space, problem);
  bool usable = true;
  for (const double penalty : {3.0, 30.0, 300.0}) usable = relaxation.solve(penalty) && usable;
  return relaxation.take(usable);
}

std::vector<Share> round_shares(const Space& space, const RelaxSummary& relaxed, bool partition) {
  std::vector<Share> shares(relaxed.values.size(), space.smallest());
  for (const Axis axis : all_axes) {
    const double step = static_cast<double>(space.value(axis, 1));
    std::vector<double> wanted;
    for (const Values& values : relaxed.values)
      wanted.push_back(step > 0 ? values[axis] / step : 0);
    const bool is_shared_out = partition && (axis == axis::width || axis == axis::heads);
    // Where the width is no multiple of the step, only whole steps can be handed out.
    const double size = static_cast<double>(space.value(axis, space.largest()[axis]));
    const auto most =
        is_shared_out && step > 0 ? static_cast<std::int32_t>(size / step) : space.largest()[axis];
    const auto shared_out = round_within(wanted, space.smallest()[axis], most);
    for (std::size_t p = 0; p < shares.size(); ++p)
      shares[p][axis] = is_shared_out
                            ? shared_out[p]
                            : std::clamp(static_cast<std::int32_t>(std::lround(wanted[p])),
                                         space.smallest()[axis], space.largest()[axis]);
  }
  return shares;
}

}  // namespace cleave::optimizer
