#include "decompose/importance.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include "decompose/coupling.hpp"
#include "decompose/folder.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using model::Axis;
using Scores = std::vector<double>;

void check_count(const Scores& scores, std::int64_t needed, const std::string& where) {
  if (static_cast<std::int64_t>(scores.size()) == needed) return;
  throw std::invalid_argument("[importance] " + where + ": saw " + std::to_string(scores.size()) +
                              " values, needs " + std::to_string(needed));
}

double sum(const Scores& scores) { return std::accumulate(scores.begin(), scores.end(), 0.0); }

Scores scaled(Scores scores, double factor) {
  for (double& score : scores) score *= factor;
  return scores;
}

/// Sums to 1; even where nothing counts.
Scores normalised(const Scores& scores) {
  const double total = sum(scores);
  if (total > 0) return scaled(scores, 1 / total);
  return Scores(scores.size(), scores.empty() ? 0 : 1 / static_cast<double>(scores.size()));
}

Scores to_scores(const Tensor& values) {
  const Tensor flat = values.to(at::kCPU, at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

// ---- from data ----

/// What one group of units was seen to do, summed over rows of the data.
struct Seen {
  Tensor change;  // |Σ a·∂loss/∂a|
  Tensor energy;

  void add(const Tensor& more_change, const Tensor& more_energy) {
    change = change.defined() ? change + more_change : more_change;
    energy = energy.defined() ? energy + more_energy : more_energy;
  }

  Scores mixed(double taylor) const {
    const Scores by_change = normalised(to_scores(change));
    const Scores by_energy = normalised(to_scores(energy));
    Scores scores;
    for (std::size_t i = 0; i < by_change.size(); ++i) {
      scores.push_back(taylor * by_change[i] + (1 - taylor) * by_energy[i]);
    }
    return scores;
  }
};

constexpr std::int64_t no_target = model::Dataset::no_label;

/// Activations [B, N, U·unit] and their gradients -> [U]: the first-order change of the loss
/// without each unit.
Tensor loss_change(const Tensor& activations, std::int64_t unit) {
  const Tensor products = (activations.detach() * activations.grad()).sum(1);  // [B, U·unit]
  return products.unflatten(1, {-1, unit}).sum(2).abs().sum(0).to(at::kDouble);
}

/// [B, N, U] -> [U].
Tensor token_energy(const Tensor& x) { return x.flatten(0, 1).square().sum(0); }

/// The energy of each unit's contribution through its outgoing weights [D, U·unit], cross terms
/// left out. -> [U].
Tensor output_energy(const Tensor& activations, const Tensor& outgoing, std::int64_t unit) {
  const Tensor energy = token_energy(activations) * outgoing.square().sum(0);
  return energy.unflatten(0, {-1, unit}).sum(1).to(at::kDouble);
}

/// Runs the teacher on data and gathers what each unit does.
class Measurement {
 public:
  explicit Measurement(const model::Transformer& teacher)
      : teacher_(teacher),
        heads_(teacher.config.layers.size()),
        mlp_(teacher.config.layers.size()) {
    teacher_.compute = model::Compute::f32;
    for (auto& [name, tensor] : teacher_.tensors) tensor = tensor.detach();
  }

  /// Rows `indices` of the data.
  void add(const model::Dataset& data, const Tensor& indices) {
    const at::AutoGradMode with_gradients(true);
    const model::ModelConfig& config = teacher_.config;
    const Tensor rows = data.rows(indices);
    Tensor inputs = model::inputs_of(config, rows).detach();
    // Gradients of the activations are all that is needed, and start at the pixels or at the
    // tokens' embedding; the other weights stay as they are.
    if (config.is_text())
      teacher_.tensors.at("embedding.token") =
          teacher_["embedding.token"].detach().requires_grad_();
    else
      inputs = inputs.clone().requires_grad_();
    Activations seen;
    seen.real = model::sight(teacher_, inputs).real;
    const model::Observer observer = seen.observer();
    const Tensor answers = model::forward(teacher_, inputs, &observer);
    Tensor targets;
    if (data.labels.defined()) targets = data.labels.index_select(0, indices);
    if (data.stream.defined()) targets = rows.narrow(1, 1, rows.size(1) - 1).to(at::kLong);
    loss(answers, targets, seen.real).backward();
    gather(seen, model::embed(teacher_, inputs.detach()));
  }

  Importance importance(double taylor) const {
    Importance result;
    result.channels = channels_.mixed(taylor);
    result.heads = by_layer(heads_, taylor);
    result.mlp = by_layer(mlp_, taylor);
    result.layers = layers_.mixed(taylor);
    return result;
  }

 private:
  /// The sum, not the mean: no row's gradient depends on the others'. Without targets, those that
  /// the teacher thinks right; of an embedding, where it points along a direction drawn for each
  /// row: its gradient is that of the whole direction, on the mean (Hutchinson 1990).
  Tensor loss(const Tensor& answers, const Tensor& targets, const Tensor& real) {
    if (teacher_.config.task == model::Task::embedding)
      return (answers * at::randn(answers.sizes(), generator_)).sum();
    Tensor right = targets.defined() ? targets : answers.detach().argmax(-1);
    if (real.defined() && right.dim() == 2) right = right.masked_fill(real == 0, no_target);
    return at::nll_loss(at::log_softmax(answers, -1).flatten(0, -2), right.flatten(), {},
                        at::Reduction::Sum, no_target);
  }

  /// What the observer was shown in one batch; gradients are kept.
  struct Activations {
    std::map<int, Tensor> contexts, hidden, states;
    Tensor real;  // [B, N] as in model::Sight

    /// Without what only fills up a row: what is computed there reaches no answer.
    Tensor only_real(const Tensor& x) const { return real.defined() ? x * real.unsqueeze(2) : x; }

    model::Observer observer() {
      const auto keep_in = [](std::map<int, Tensor>& kept) {
        return [&kept](int layer, const Tensor& x) {
          x.retain_grad();
          kept[layer] = x;
        };
      };
      model::Observer observer;
      observer.on_context = keep_in(contexts);
      observer.on_mlp = keep_in(hidden);
      observer.on_block = keep_in(states);
      return observer;
    }
  };

  void gather(const Activations& seen, const Tensor& embedded) {
    const at::NoGradGuard without_gradients;
    const std::int64_t head_width = teacher_.config.head_width * teacher_.config.group;
    const auto outgoing = [&](int layer, const char* name) -> const Tensor& {
      return teacher_["blocks." + std::to_string(layer) + "." + name + ".weight"];
    };
    for (const auto& [layer, context] : seen.contexts) {
      heads_[static_cast<std::size_t>(layer)].add(
          loss_change(context, head_width),
          output_energy(seen.only_real(context.detach()), outgoing(layer, "attention.output"),
                        head_width));
    }
    for (const auto& [layer, hidden] : seen.hidden) {
      mlp_[static_cast<std::size_t>(layer)].add(
          loss_change(hidden, 1),
          output_energy(seen.only_real(hidden.detach()), outgoing(layer, "mlp.down"), 1));
    }
    gather_states(seen, embedded);
  }

  void gather_states(const Activations& seen, const Tensor& embedded) {
    Tensor before = seen.only_real(embedded);
    std::vector<Tensor> changes, steps;
    for (const auto& [layer, state] : seen.states) {
      const Tensor x = seen.only_real(state.detach());
      channels_.add(loss_change(state, 1), token_energy(x).to(at::kDouble));
      const Tensor step = x - before;
      changes.push_back((step * state.grad()).sum({1, 2}).abs().sum());
      steps.push_back((step.norm(2, {1, 2}) / x.norm(2, {1, 2})).sum());
      before = x;
    }
    layers_.add(at::stack(changes).to(at::kDouble), at::stack(steps).to(at::kDouble));
  }

  /// Each layer's units sum to the layer's share of the loss change over all layers.
  static std::vector<Scores> by_layer(const std::vector<Seen>& layers, double taylor) {
    Scores totals;
    for (const auto& seen : layers) {
      totals.push_back(seen.change.defined() ? seen.change.sum().item<double>() : 0);
    }
    const double all = sum(totals);
    std::vector<Scores> scores;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const double share = all > 0 ? totals[l] / all : 1 / static_cast<double>(layers.size());
      scores.push_back(layers[l].change.defined() ? scaled(layers[l].mixed(taylor), share)
                                                  : Scores());
    }
    return scores;
  }

  model::Transformer teacher_;
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(1);
  Seen channels_, layers_;
  std::vector<Seen> heads_, mlp_;
};

// ---- from weights ----

/// Sums over all axes but one, then over the elements of a unit. [.., size·unit, ..] -> [size].
Tensor unit_sums(const Tensor& tensor, std::int64_t axis, std::int64_t unit) {
  std::vector<std::int64_t> others;
  for (std::int64_t other = 0; other < tensor.dim(); ++other) {
    if (other != axis) others.push_back(other);
  }
  return tensor.sum(at::IntArrayRef(others)).unflatten(0, {-1, unit}).sum(1);
}

using Member = std::pair<std::string, int>;

/// Which group each axis of each matrix belongs to.
std::map<Member, const WidthGroup*> groups_of_members(const std::vector<WidthGroup>& groups) {
  std::map<Member, const WidthGroup*> found;
  for (const auto& group : groups) {
    for (const auto& member : group.members) found[{member.parameter, member.axis}] = &group;
  }
  return found;
}

/// Where a group's scores stand.
Scores& scores_of(Importance& importance, const WidthGroup& group) {
  if (group.kind == Axis::Kind::residual) return importance.channels;
  const auto layer = static_cast<std::size_t>(group.layer);
  return group.kind == Axis::Kind::heads ? importance.heads[layer] : importance.mlp[layer];
}

void add_to(Scores& scores, const Scores& more) {
  scores.resize(std::max(scores.size(), more.size()));
  for (std::size_t i = 0; i < more.size(); ++i) scores[i] += more[i];
}

bool writes_to_residual(const std::string& name) {
  return name.find("attention.output.") != std::string::npos ||
         name.find("mlp.down.") != std::string::npos;
}

int layer_of(const model::Parameter& parameter) {
  int layer = -1;
  for (const auto& axis : parameter.axes) layer = std::max(layer, axis.layer);
  return layer;
}

Scores descending(Scores scores) {
  std::sort(scores.begin(), scores.end(), std::greater<>());
  return scores;
}

std::vector<Scores> summarised(const std::vector<Scores>& layers) {
  double total = 0;
  for (const auto& scores : layers) total += sum(scores);
  std::vector<Scores> result;
  for (const auto& scores : layers) {
    result.push_back(descending(total > 0 ? scaled(scores, 1 / total) : scores));
  }
  return result;
}

}  // namespace

void Importance::check(const model::ModelConfig& config) const {
  const auto layer_count = static_cast<std::int64_t>(config.layers.size());
  check_count(channels, config.width, "channels");
  check_count(layers, layer_count, "layers");
  check_count(Scores(heads.size()), layer_count, "heads");
  check_count(Scores(mlp.size()), layer_count, "mlp");
  for (std::size_t l = 0; l < config.layers.size(); ++l) {
    check_count(heads[l], config.layers[l].heads / config.group,
                "heads[" + std::to_string(l) + "]");
    check_count(mlp[l], config.layers[l].mlp_width, "mlp[" + std::to_string(l) + "]");
  }
}

void ImportanceOptions::check() const {
  const auto refuse = [](const std::string& field, const std::string& saw,
                         const std::string& needs) {
    throw std::invalid_argument("[importance] options." + field + ": saw " + saw + ", needs " +
                                needs);
  };
  if (batch < 1) refuse("batch", std::to_string(batch), "at least 1");
  if (!(taylor >= 0 && taylor <= 1)) refuse("taylor", std::to_string(taylor), "0..1");
}

Importance measure_importance(const model::Transformer& teacher, const model::Dataset& data,
                              const ImportanceOptions& options,
                              const base::ProgressCallback& progress) {
  options.check();
  if (data.size() == 0) {
    throw std::invalid_argument("[importance] data: saw no rows, needs at least 1");
  }
  if (!teacher.config.answers()) {
    throw std::invalid_argument("[importance] teacher: saw no head, needs one for its loss");
  }
  const std::int64_t count = data.size();
  Measurement measurement(teacher);
  Steps steps("importance", (count + options.batch - 1) / options.batch, progress);
  for (std::int64_t begin = 0; begin < count; begin += options.batch) {
    steps.next();
    measurement.add(data, at::arange(begin, std::min(begin + options.batch, count), at::kLong));
  }
  return measurement.importance(options.taylor);
}

Importance weight_importance(const std::filesystem::path& teacher) {
  const auto config = model::read_config(teacher);
  const model::TensorFiles files(teacher);
  model::check_tensors(config, files);
  const auto groups = width_groups(config);
  const auto group_of = groups_of_members(groups);
  Importance result;
  result.heads.resize(config.layers.size());
  result.mlp.resize(config.layers.size());
  result.layers.resize(config.layers.size());
  const auto add_energy = [&](const model::Parameter& parameter, const Tensor& energy) {
    for (int axis = 0; axis < static_cast<int>(parameter.axes.size()); ++axis) {
      const auto group = group_of.find({parameter.name, axis});
      if (group == group_of.end()) continue;
      const std::int64_t unit = parameter.axes[static_cast<std::size_t>(axis)].unit;
      add_to(scores_of(result, *group->second), to_scores(unit_sums(energy, axis, unit)));
    }
    if (writes_to_residual(parameter.name))
      result.layers[static_cast<std::size_t>(layer_of(parameter))] += energy.sum().item<double>();
  };
  for (const auto& stored : model::stored_tensors(config)) {
    auto parts = model::read_stored(config, files, stored);  // all are read: each has to be finite
    // Norms and biases scale what the matrices do; their size says nothing by itself.
    if (stored.parts.front().axes.size() < 2) continue;
    for (std::size_t i = 0; i < parts.size(); ++i) add_energy(stored.parts[i], parts[i].square_());
  }
  return result;
}

optimizer::ImportanceProfile summarise(const Importance& importance) {
  optimizer::ImportanceProfile profile;
  profile.layers = normalised(importance.layers);
  profile.heads = summarised(importance.heads);
  profile.mlp = summarised(importance.mlp);
  profile.channels = descending(normalised(importance.channels));
  return profile;
}

}  // namespace cleave::decompose
