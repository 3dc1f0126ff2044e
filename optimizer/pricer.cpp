#include "optimizer/pricer.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "base/units.hpp"
#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/weights.hpp"
#include "optimizer/predict.hpp"
#include "optimizer/simulate.hpp"

namespace cleave::optimizer {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }
double real(std::int64_t count) { return static_cast<double>(count); }

/// How far `needs` is over `gives`, relative to what there is.
double excess(double needs, double gives) {
  return needs > gives ? (needs - gives) / std::max(gives, 1e-12) : 0;
}

std::string percent(double share) {
  const auto tenths = std::lround(share * 1000);
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " %";
}

Shortfall memory_shortfall(const std::string& what, const std::string& where, double needs,
                           double gives) {
  return {excess(needs, gives), where,
          what + " on '" + where + "': needs " + base::format_bytes(needs) + ", gives " +
              base::format_bytes(gives) + " (" + base::format_bytes(needs - gives) + " short)"};
}

/// Nothing of the teacher is cut away.
bool is_exact(const plan::Plan& plan) {
  return plan::is_shared(plan) ||
         (plan.parts.size() == 1 &&
          plan.parts.front().sub_model().config.layers == plan.teacher.layers &&
          plan.parts.front().sub_model().config.width == plan.teacher.width &&
          plan.parts.front().sub_model().config.classes == plan.teacher.classes);
}

/// What a part may have: on its device, and of the teacher.
void add_part_shortfalls(std::vector<Shortfall>& found, const plan::Plan& plan,
                         const plan::PlanPart& part, const plan::Fleet& fleet,
                         const PlanOptions& options) {
  const plan::Device& device = fleet.devices[fleet.find(part.device).value()];
  if (!device.agent)
    found.push_back({1, part.device,
                     "part on '" + part.device + "': the device only aggregates (agent = false)"});
  const double width =
      part.share() ? 1 : real(part.sub_model().config.width) / real(plan.teacher.width);
  const double least = options.limits.min_width_share;
  if (width < least - 1e-9)
    found.push_back({excess(least, width), part.device,
                     "part on '" + part.device + "': keeps " + percent(width) +
                         " of the channels, the limit is " + percent(least)});
  const double weights = plan::held_bytes({plan}, part.device);
  if (device.disk_bytes > 0 && weights > device.disk_bytes)
    found.push_back(memory_shortfall("disk", part.device, weights, device.disk_bytes));
  const double most = options.limits.max_part_share;
  if (most > 0 && part.parameter_share > most)
    found.push_back({excess(part.parameter_share, most), part.device,
                     "part on '" + part.device + "': has " + percent(part.parameter_share) +
                         " of the teacher's parameters, the limit is " + percent(most)});
}

}  // namespace

bool better(const Price& a, const Price& b) {
  if (a.feasible() && b.feasible()) return a.objective_s < b.objective_s;
  if (std::abs(a.violation - b.violation) > 1e-9) return a.violation < b.violation;
  return a.objective_s < b.objective_s;
}

double kept_importance(const std::vector<double>& qualities) {
  double lost = 1;
  for (const double quality : qualities) lost *= 1 - quality;
  return 1 - lost;
}

Price judge(double latency_s, double kept, const PlanOptions& options, double teacher_s) {
  // Where accuracy is the target, time only settles ties.
  const bool for_accuracy = options.objective == Objective::accuracy;
  const double time_weight = for_accuracy ? 1e-4 : 1,
               loss_weight = for_accuracy ? 1 : options.accuracy_weight;
  Price price;
  price.latency_s = latency_s;
  price.kept = kept;
  price.objective_s = time_weight * latency_s + loss_weight * teacher_s * (1 - kept);
  if (options.limits.latency_s > 0) price.violation += excess(latency_s, options.limits.latency_s);
  if (options.limits.min_importance > 0)
    price.violation += excess(options.limits.min_importance, kept);
  return price;
}

Pricer::Pricer(const Space& space, const PlanOptions& options, std::vector<std::size_t> team)
    : space_(space),
      options_(options),
      team_(std::move(team)),
      aggregator_(space.fleet().aggregator()) {
  const std::vector<Share> narrowest(team_.size(), space.smallest());
  const plan::Plan plan = bare_plan(narrowest);
  programs_ = plan::compile(plan, plan.shape);
  tasks_ = std::make_unique<TaskGraph>(plan, programs_, space.fleet());
  compiled_width_ = space.value(axis::width, space.smallest()[axis::width]);
  narrowest_sum_ = compiled_width_ * static_cast<std::int64_t>(team_.size());
  features_there_.assign(team_.size(), 0);
  for (std::size_t i = 0; i < tasks_->size(); ++i) {
    const Task& task = tasks_->graph[i];
    if (task.kind != Task::Kind::receive) continue;
    const std::int32_t part = tasks_->messages[at(task.message)].part;
    if (part != Message::none) features_there_[at(part)] = i;
  }
  aggregator_bytes_ = aggregator_bytes(space.smallest()[axis::width]);
  const double wide = aggregator_bytes(space.largest()[axis::width]);
  const std::int64_t more =
      (space.teacher().width - compiled_width_) * static_cast<std::int64_t>(team_.size());
  aggregator_bytes_per_channel_ = more > 0 ? (wide - aggregator_bytes_) / real(more) : 0;
}

double Pricer::aggregator_bytes(std::int32_t steps) const {
  Share share = space_.smallest();
  share[axis::width] = steps;
  const auto predictions =
      predict_devices(bare_plan(std::vector<Share>(team_.size(), share)), space_.fleet());
  return predictions.back().runtime_bytes + predictions.back().model_bytes;
}

plan::Plan Pricer::bare_plan(const std::vector<Share>& shares) const {
  plan::Plan plan;
  plan.strategy = plan::usual_strategy();
  plan.teacher = space_.teacher();
  plan.shape = options_.shape;
  plan.aggregator = space_.fleet().devices[aggregator_].name;
  plan.partition = options_.partition && partition_violation(shares) == 0;
  plan.seed = options_.seed;
  for (std::size_t p = 0; p < team_.size(); ++p)
    plan.parts.push_back(space_.part(team_[p], shares[p]));
  return plan;
}

plan::Plan Pricer::plan(const std::vector<Share>& shares) const {
  plan::Plan plan = bare_plan(shares);
  std::vector<double> qualities;
  for (const Share& share : shares) qualities.push_back(space_.quality(share));
  plan.prediction.kept_importance = kept_importance(qualities);
  predict(plan, space_.fleet());
  return plan;
}

void Pricer::set_durations(const std::vector<Share>& shares) {
  const plan::Fleet& fleet = space_.fleet();
  for (std::size_t i = 0; i < tasks_->size(); ++i) {
    Task& task = tasks_->graph[i];
    if (task.kind == Task::Kind::compute) {
      const plan::Instruction& instruction =
          programs_[at(task.rank)].instructions[at(task.instruction)];
      if (at(task.rank) < team_.size())
        task.seconds = space_.seconds(team_[at(task.rank)], shares[at(task.rank)]);
      if (std::holds_alternative<plan::Fuse>(instruction)) {
        std::vector<std::int64_t> widths;
        for (const Share& share : shares)
          widths.push_back(space_.value(axis::width, share[axis::width]));
        task.seconds = compute_seconds(
            fleet.devices[aggregator_], Start::handed_over,
            plan::kernels_of_fusion(space_.teacher(), widths, plan::planned_load(options_.shape)));
      }
      continue;
    }
    const Message& message = tasks_->messages[at(task.message)];
    if (message.part == Message::none) continue;
    const std::size_t member = at(message.part);
    const double bytes = message.bytes / real(compiled_width_) *
                         real(space_.value(axis::width, shares[member][axis::width]));
    if (task.kind == Task::Kind::transfer)
      task.seconds = bytes / fleet.link(team_[member], aggregator_).bytes_per_s;
    else
      task.seconds = message_seconds(
          fleet.devices[task.kind == Task::Kind::send ? team_[member] : aggregator_], bytes);
  }
}

Price Pricer::price(const std::vector<Share>& shares) {
  ++evaluations_;
  set_durations(shares);
  schedule_ = &player_.play(*tasks_);
  double lost = 1, violation = aggregator_violation(shares) + partition_violation(shares);
  for (std::size_t p = 0; p < shares.size(); ++p) {
    lost *= 1 - space_.quality(shares[p]);
    violation += violation_of(p, shares[p]);
  }
  Price price = judge(schedule_->latency_s, 1 - lost, options_, space_.teacher_s());
  price.violation += violation;
  return price;
}

double Pricer::finish_s(std::size_t member) const {
  return schedule_->end_s[features_there_[member]];
}

double Pricer::room_bytes(std::size_t member) const {
  const plan::Device& device = space_.fleet().devices[team_[member]];
  return device.memory_bytes - device.profile.runtime_bytes;
}

double Pricer::violation_of(std::size_t member, const Share& share) const {
  const plan::Device& device = space_.fleet().devices[team_[member]];
  double violation =
      excess(device.profile.runtime_bytes + space_.model_bytes(share), device.memory_bytes);
  if (device.disk_bytes > 0) violation += excess(space_.weight_bytes(share), device.disk_bytes);
  if (options_.limits.max_part_share > 0)
    violation += excess(space_.parameter_share(share), options_.limits.max_part_share);
  return violation;
}

double Pricer::aggregator_violation(const std::vector<Share>& shares) const {
  std::int64_t channels = 0;
  for (const Share& share : shares) channels += space_.value(axis::width, share[axis::width]);
  const double bytes =
      aggregator_bytes_ + aggregator_bytes_per_channel_ * real(channels - narrowest_sum_);
  return excess(bytes, space_.fleet().devices[aggregator_].memory_bytes);
}

double Pricer::partition_violation(const std::vector<Share>& shares) const {
  if (!options_.partition) return 0;
  std::int64_t channels = 0, num_heads = 0;
  for (const Share& share : shares) {
    channels += space_.value(axis::width, share[axis::width]);
    num_heads += space_.value(axis::heads, share[axis::heads]);
  }
  const Share& whole = space_.largest();
  return excess(real(channels), real(space_.value(axis::width, whole[axis::width]))) +
         excess(real(num_heads), real(space_.value(axis::heads, whole[axis::heads])));
}

std::vector<Shortfall> shortfalls(const plan::Plan& plan, const plan::Fleet& fleet,
                                  const PlanOptions& options) {
  std::vector<Shortfall> found;
  const plan::Prediction& prediction = plan.prediction;
  for (const plan::DevicePrediction& device : prediction.devices) {
    const double needs = device.runtime_bytes + device.model_bytes;
    if (needs > device.limit_bytes)
      found.push_back(memory_shortfall("memory", device.device, needs, device.limit_bytes));
  }
  PlanOptions of_parts = options;
  const bool exact = is_exact(plan);
  if (exact) of_parts.limits.max_part_share = 0;  // there is no part, only the teacher
  for (const plan::PlanPart& part : plan.parts)
    add_part_shortfalls(found, plan, part, fleet, of_parts);
  const double most_s = options.limits.latency_s;
  if (most_s > 0 && prediction.latency_s > most_s)
    found.push_back({excess(prediction.latency_s, most_s), "",
                     "latency: needs " + base::format_seconds(prediction.latency_s) +
                         ", the limit is " + base::format_seconds(most_s) + " (" +
                         base::format_seconds(prediction.latency_s - most_s) + " over)"});
  const double least = options.limits.min_importance;
  if (prediction.kept_importance < least)
    found.push_back({excess(least, prediction.kept_importance), "",
                     "kept importance: reaches " + percent(prediction.kept_importance) +
                         ", needs " + percent(least)});
  if (options.partition && !plan.partition && !exact)
    found.push_back(
        {1, "", "partition: the smallest parts need more channels or heads than the teacher has"});
  std::stable_sort(found.begin(), found.end(),
                   [](const Shortfall& a, const Shortfall& b) { return a.relative > b.relative; });
  return found;
}

void predict(plan::Plan& plan, const plan::Fleet& fleet) {
  const Timeline timeline = simulate(plan, plan::compile(plan, plan.shape), fleet);
  plan.prediction.latency_s = timeline.latency_s;
  plan.prediction.bottleneck = timeline.bottleneck;
  plan.prediction.devices = predict_devices(plan, fleet);
}

}  // namespace cleave::optimizer
