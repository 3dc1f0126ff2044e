#include "optimizer/decomposed/space.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "optimizer/plan/cost.hpp"
#include "optimizer/task_graph.hpp"

namespace cleave::optimizer {
namespace {

using model::LayerShape;
using model::ModelConfig;

double real(std::int64_t count) { return static_cast<double>(count); }
std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }
std::int32_t steps_of(std::int64_t size, std::int64_t step) {
  return static_cast<std::int32_t>((size + step - 1) / step);
}

void expect_count(const std::string& field, std::size_t saw, std::int64_t needs) {
  if (saw != at(needs))
    throw std::invalid_argument("[plan] importance." + field + ": saw " + std::to_string(saw) +
                                " values, needs " + std::to_string(needs));
}

/// Of the model, or all alike where none is given.
std::vector<double> or_even(const std::vector<double>& importance, std::int64_t count,
                            const std::string& field) {
  if (importance.empty()) return std::vector<double>(at(count), 1.0);
  expect_count(field, importance.size(), count);
  for (std::size_t i = 0; i < importance.size(); ++i)
    if (!(importance[i] >= 0) || !std::isfinite(importance[i]))
      throw std::invalid_argument("[plan] importance." + field + "[" + std::to_string(i) +
                                  "]: saw " + std::to_string(importance[i]) +
                                  ", needs a finite number from 0");
  return importance;
}

/// What the first 0, step, 2 · step … units hold of all, 0..1. Without any importance at all, units
/// count alike.
Curve curve_of(std::vector<double> units, std::int64_t step, std::int32_t num_steps) {
  std::sort(units.begin(), units.end(), std::greater<>());
  double sum = std::accumulate(units.begin(), units.end(), 0.0);
  if (sum <= 0) {
    units.assign(units.size(), 1.0);
    sum = real(static_cast<std::int64_t>(units.size()));
  }
  Curve curve;
  double kept = 0;
  std::size_t next = 0;
  for (std::int32_t s = 0; s <= num_steps; ++s) {
    for (; next < units.size() && next < at(s * step); ++next) kept += units[next];
    curve.kept.push_back(next == units.size() ? 1.0 : kept / sum);
  }
  return curve;
}

template <typename Factor>
std::vector<double> factors_of(const Curve& curve, const Factor& factor) {
  std::vector<double> factors;
  for (const double share : curve.kept) factors.push_back(factor(share));
  return factors;
}

/// i of `count` positions spread over [0, size), both ends among them.
std::int64_t spread(std::int64_t i, std::int64_t count, std::int64_t size) {
  return count == 1 ? 0 : (i * (size - 1) + (count - 1) / 2) / (count - 1);
}

bool all_alike(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return values.empty() || *high - *low <= 1e-9 * *high;
}

std::vector<std::int64_t> choose_layers(const std::vector<double>& importance, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(importance.size());
  std::vector<std::int64_t> chosen;
  if (all_alike(importance)) {
    for (std::int64_t i = 0; i < count; ++i) chosen.push_back(spread(i, count, size));
    return chosen;
  }
  std::vector<std::int64_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  const auto rank = [&](std::int64_t layer) {
    // The ends are tied to the embedding and to the head: they stay.
    const bool is_end = layer == 0 || layer == size - 1;
    return is_end ? std::numeric_limits<double>::infinity() : importance[at(layer)];
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return rank(a) > rank(b); });
  chosen.assign(order.begin(), order.begin() + count);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

/// `count(config)` over blocks of any width: from the kernels or parameters of models with one half
/// of a block, or none.
template <typename Count>
PartCost cost_of(const ModelConfig& like, const Count& count) {
  const auto price = [&](double w, std::vector<LayerShape> layers) {
    ModelConfig config = like;
    config.width = static_cast<std::int64_t>(w);
    config.layers = std::move(layers);
    return count(config);
  };
  // Far corners, so that rounding does not grow between them.
  const double w0 = 1, w1 = real(like.width) + 1, n0 = 1, h0 = real(like.group);
  const auto far = [](std::int64_t most) { return real(most) + 1; };
  std::int64_t most_heads = 0, most_mlp = 0;
  for (const LayerShape& layer : like.layers) {
    most_heads = std::max(most_heads, layer.heads);
    most_mlp = std::max(most_mlp, layer.mlp_width);
  }
  PartCost cost;
  cost.base = Bilinear(w0, w1, 0, 1, [&](double w, double) { return price(w, {}); });
  cost.attention = Bilinear(w0, w1, h0, real(most_heads) + h0, [&](double w, double n) {
    return price(w, {{static_cast<std::int64_t>(n), 0}}) - price(w, {});
  });
  cost.mlp = Bilinear(w0, w1, n0, far(most_mlp), [&](double w, double n) {
    return price(w, {{0, static_cast<std::int64_t>(n)}}) - price(w, {});
  });
  return cost;
}

}  // namespace

Space::Space(const ModelConfig& teacher, const plan::Fleet& fleet, const PlanOptions& options,
             const ImportanceProfile& importance)
    : teacher_(teacher), bare_(teacher), fleet_(fleet), options_(options) {
  bare_.labels.clear();
  const std::vector<double> layer_weights =
      or_even(importance.layers, teacher.num_layers(), "layers");
  set_axes();
  set_layers(layer_weights);
  set_curves(importance, layer_weights);
  set_costs();

  probe_.strategy = plan::usual_strategy();
  probe_.teacher = bare_;
  probe_.shape = options.shape;
  probe_.aggregator = fleet.devices.front().name;
  probe_.parts = {part(0, smallest_)};
  probe_.parts.front().sub_model().config.labels.clear();
}

void Space::set_axes() {
  for (const LayerShape& layer : teacher_.layers) {
    uniform_ =
        uniform_ && layer == teacher_.layers.front() && layer.heads > 0 && layer.mlp_width > 0;
    max_heads_ = std::max(max_heads_, layer.heads);
    max_mlp_ = std::max(max_mlp_, layer.mlp_width);
  }
  const auto num_layers = static_cast<std::int32_t>(teacher_.num_layers());
  const auto num_heads = static_cast<std::int32_t>(max_heads_ / teacher_.group);
  largest_ = {num_layers, steps_of(teacher_.width, options_.width_step), num_heads,
              steps_of(max_mlp_, options_.width_step)};
  const auto least_width = static_cast<std::int64_t>(
      std::ceil(options_.limits.min_width_share * real(teacher_.width) - 1e-9));
  smallest_ = {std::min(2, num_layers), std::max(1, steps_of(least_width, options_.width_step)),
               std::min(1, num_heads), std::min(1, largest_[axis::mlp])};
}

void Space::set_layers(const std::vector<double>& importance) {
  for (std::int64_t count = 0; count <= teacher_.num_layers(); ++count)
    layers_.push_back(choose_layers(importance, count));
}

void Space::set_curves(const ImportanceProfile& importance,
                       const std::vector<double>& layer_weights) {
  const std::int64_t num_layers = teacher_.num_layers();
  channel_curve_ = curve_of(or_even(importance.channels, teacher_.width, "channels"),
                            options_.width_step, largest_[axis::width]);
  if (!importance.heads.empty()) expect_count("heads", importance.heads.size(), num_layers);
  if (!importance.mlp.empty()) expect_count("mlp", importance.mlp.size(), num_layers);

  std::vector<Curve> head_curves, mlp_curves;  // by layer of the teacher
  for (std::int64_t l = 0; l < num_layers; ++l) {
    const std::string where = "[" + std::to_string(l) + "]";
    const LayerShape& layer = teacher_.layers[at(l)];
    const auto of = [&](const std::vector<std::vector<double>>& all) {
      return all.empty() ? std::vector<double>{} : all[at(l)];
    };
    head_curves.push_back(
        curve_of(or_even(of(importance.heads), layer.heads / teacher_.group, "heads" + where), 1,
                 largest_[axis::heads]));
    mlp_curves.push_back(curve_of(or_even(of(importance.mlp), layer.mlp_width, "mlp" + where),
                                  options_.width_step, largest_[axis::mlp]));
  }

  const double all_layers = std::accumulate(layer_weights.begin(), layer_weights.end(), 0.0);
  const bool any_weight = all_layers > 0;
  const auto weight = [&](std::int64_t l) {
    return any_weight ? layer_weights[at(l)] / all_layers : 1 / real(num_layers);
  };
  for (const std::vector<std::int64_t>& kept : layers_) {
    double sum = 0;
    for (const std::int64_t l : kept) sum += weight(l);
    const auto mean = [&](const std::vector<Curve>& curves) {
      Curve result = curves.front();
      for (std::size_t s = 0; s < result.kept.size(); ++s) {
        double value = 0;
        for (const std::int64_t l : kept) value += weight(l) * curves[at(l)].kept[s];
        result.kept[s] = sum > 0 ? value / sum : 1.0;
      }
      return result;
    };
    layer_curve_.kept.push_back(at(num_layers) == kept.size() ? 1.0 : sum);
    head_curve_ = mean(head_curves);
    mlp_curve_ = mean(mlp_curves);
    head_factors_.push_back(
        factors_of(head_curve_, [](double share) { return inner_factor(share, 1.0); }));
    mlp_factors_.push_back(
        factors_of(mlp_curve_, [](double share) { return inner_factor(1.0, share); }));
  }
  layer_factors_ = factors_of(layer_curve_, [](double share) { return layer_factor(share); });
  channel_factors_ = factors_of(channel_curve_, [](double share) { return channel_factor(share); });
}

void Space::set_costs() {
  const plan::Load load = plan::planned_load(options_.shape);
  teacher_s_ = std::numeric_limits<double>::infinity();
  for (const plan::Device& device : fleet_.devices) {
    seconds_.push_back(cost_of(bare_, [&](const ModelConfig& config) {
      return device.seconds(plan::kernels_of_model(config, load, false));
    }));
    if (!device.agent) continue;
    teacher_s_ = std::min(teacher_s_, compute_seconds(device, Start::woken,
                                                      plan::kernels_of_model(bare_, load, true)));
  }
  parameters_ = cost_of(
      bare_, [](const ModelConfig& config) { return real(model::count_parameters(config)); });
  teacher_parameters_ = real(model::count_parameters(bare_));
}

std::int64_t Space::value(Axis axis, std::int32_t steps) const {
  switch (axis) {
    case axis::width:
      return std::min(steps * options_.width_step, teacher_.width);
    case axis::mlp:
      return std::min(steps * options_.width_step, max_mlp_);
    case axis::heads:
      return steps * teacher_.group;
    case axis::depth:
      return steps;
  }
  return steps;
}

const std::vector<std::int64_t>& Space::layers(std::int32_t num_layers) const {
  return layers_[at(num_layers)];
}

ModelConfig Space::config(const Share& share) const {
  ModelConfig config = teacher_;
  config.width = value(axis::width, share[axis::width]);
  config.layers.clear();
  for (const std::int64_t l : layers(share[axis::depth])) {
    const LayerShape& whole = teacher_.layers[at(l)];
    config.layers.push_back({std::min(value(axis::heads, share[axis::heads]), whole.heads),
                             std::min(value(axis::mlp, share[axis::mlp]), whole.mlp_width)});
  }
  return config;
}

plan::PlanPart Space::part(std::size_t device, const Share& share) const {
  plan::PlanPart part;
  part.device = fleet_.devices[device].name;
  part.sub_model().config = config(share);
  part.sub_model().layers = layers(share[axis::depth]);
  const auto work = [&](const ModelConfig& config) {
    double flops = 0;
    for (const plan::Kernel& kernel :
         plan::kernels_of_model(config, plan::planned_load(options_.shape), false))
      flops += kernel.flops();
    return flops;
  };
  part.parameter_share = parameter_share(share);
  part.compute_share = work(part.sub_model().config) / work(bare_);
  return part;
}

double Space::total(const PartCost& cost, const Share& share) const {
  const double w = real(value(axis::width, share[axis::width]));
  const std::int64_t num_heads = value(axis::heads, share[axis::heads]),
                     columns = value(axis::mlp, share[axis::mlp]);
  if (uniform_) return cost(real(share[axis::depth]), w, real(num_heads), real(columns));
  double sum = cost.base(w, 0.0);
  for (const std::int64_t l : layers(share[axis::depth])) {
    const LayerShape& whole = teacher_.layers[at(l)];
    if (whole.heads > 0) sum += cost.attention(w, real(std::min(num_heads, whole.heads)));
    if (whole.mlp_width > 0) sum += cost.mlp(w, real(std::min(columns, whole.mlp_width)));
  }
  return sum;
}

double Space::seconds(std::size_t device, const Share& share) const {
  return fleet_.devices[device].wake_seconds() + fleet_.devices[device].instruction_seconds() +
         total(seconds_[device], share);
}

double Space::model_bytes(const Share& share) const {
  return plan::serving_bytes + weight_bytes(share) + working_bytes(share);
}

/// Activations are those of the largest block, whatever the number of blocks: counted by the plan's
/// own rules, once for each block. Keys and values of texts that are generated are every layer's.
double Space::working_bytes(const Share& share) const {
  const bool keeps_every_layer = options_.shape.generate > 0;
  Share key = share;
  if (!keeps_every_layer) key[axis::depth] = 0;
  const auto found = working_.find(key);
  if (found != working_.end()) return found->second;

  plan::Plan plan = probe_;
  ModelConfig& part = plan.parts.front().sub_model().config;
  part.width = value(axis::width, share[axis::width]);
  if (keeps_every_layer)
    part.layers = config(share).layers;
  else
    part.layers.assign(
        1, {value(axis::heads, share[axis::heads]), value(axis::mlp, share[axis::mlp])});
  return working_[key] = plan::working_bytes(plan::drafts(plan, plan.shape).front(), plan);
}

double Space::quality(const Share& share) const {
  return quality_beside_columns(share) * mlp_factors_[at(share[axis::depth])][at(share[axis::mlp])];
}

double Space::quality_beside_columns(const Share& share) const {
  const std::size_t num_layers = at(share[axis::depth]);
  return layer_factors_[num_layers] * channel_factors_[at(share[axis::width])] *
         head_factors_[num_layers][at(share[axis::heads])];
}

std::int32_t Space::columns_above(const Share& share, double wanted) const {
  const std::vector<double>& factors = mlp_factors_[at(share[axis::depth])];
  const auto enough =
      std::lower_bound(factors.begin(), factors.end(), wanted / quality_beside_columns(share));
  return std::max(static_cast<std::int32_t>(enough - factors.begin()), smallest_[axis::mlp]);
}

}  // namespace cleave::optimizer
