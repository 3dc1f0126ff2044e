#include "calibrate/weights.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace cleave::calibrate {

namespace {

/// Linear weights and patch kernels; class token and positions have three axes.
bool is_matrix(const at::Tensor& x) { return x.dim() == 2 || x.dim() == 4; }

/// Muon is for what lies between embedding and head.
bool is_muons(const std::string& name, const at::Tensor& x) {
  return x.dim() == 2 && name.find("blocks.") != std::string::npos;
}

}  // namespace

Weights::Weights(const std::vector<std::pair<std::string, at::Tensor*>>& tensors, Group group)
    : group_(std::move(group)) {
  for (const auto& [name, tensor] : tensors) {
    Entry entry;
    entry.name = name;
    entry.value = tensor->detach().to(at::kFloat).clone(at::MemoryFormat::Contiguous);
    entry.leaves.resize(static_cast<std::size_t>(group_.pieces()));
    *tensor = entry.value;
    entries_.push_back(std::move(entry));
  }
}

void Weights::bind(std::int64_t piece, const std::vector<at::Tensor*>& tensors) {
  if (tensors.size() != entries_.size())
    throw std::logic_error("[weights] bind: other tensors than at construction");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    at::Tensor leaf = entries_[i].value.detach();
    entries_[i].leaves[static_cast<std::size_t>(piece)] = leaf;
    *tensors[i] = leaf;
  }
}

void Weights::start(const StepOptions& options,
                    const std::function<bool(const std::string&)>& moves) {
  options_ = options;
  steps_ = 0;
  for (Entry& entry : entries_) {
    entry.moves = moves(entry.name);
    entry.first = entry.moves ? at::zeros_like(entry.value) : at::Tensor();
    entry.by_muon = options.optimizer == Optimizer::muon && is_muons(entry.name, entry.value);
    entry.second = entry.moves && !entry.by_muon ? at::zeros_like(entry.value) : at::Tensor();
    entry.average = entry.moves && options.ema > 0 ? entry.value.clone() : at::Tensor();
    for (at::Tensor& leaf : entry.leaves) {
      if (!leaf.defined()) continue;
      leaf.mutable_grad() = at::Tensor();
      leaf.requires_grad_(entry.moves);
    }
  }
}

/// Leaves the gradient of the whole batch with the first piece. Returns its norm.
double Weights::sum_gradients(model::Lanes& lanes) {
  lanes.run(static_cast<std::int64_t>(entries_.size()), [&](std::int64_t i) {
    const c10::NoGradGuard no_grad;
    Entry& entry = entries_[static_cast<std::size_t>(i)];
    if (!entry.moves) return;
    at::Tensor& total = entry.leaves[0].mutable_grad();
    for (std::size_t piece = 1; piece < entry.leaves.size(); ++piece) {
      const at::Tensor& part = entry.leaves[piece].grad();
      if (part.defined()) total = total.defined() ? total.add_(part) : part;
    }
  });
  if (group_.size() > 1) sum_over_group();
  std::vector<double> squares(entries_.size(), 0.0);
  lanes.run(static_cast<std::int64_t>(entries_.size()), [&](std::int64_t i) {
    const at::Tensor& total = entries_[static_cast<std::size_t>(i)].leaves[0].grad();
    if (!total.defined()) return;
    const double norm = total.norm().item<double>();
    squares[static_cast<std::size_t>(i)] = norm * norm;
  });
  double sum = 0;
  for (const double square : squares) sum += square;
  return std::sqrt(sum);
}

/// One sum of all gradients, and of how many processes have each: a tensor that no piece of any
/// process reads does not move.
void Weights::sum_over_group() {
  std::vector<at::Tensor> flat;
  at::Tensor counts = at::zeros({static_cast<std::int64_t>(entries_.size())});
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].moves) continue;
    const at::Tensor& mine = entries_[i].leaves[0].grad();
    counts[static_cast<std::int64_t>(i)] = mine.defined() ? 1 : 0;
    flat.push_back(mine.defined() ? mine.reshape({-1})
                                  : at::zeros_like(entries_[i].value).reshape({-1}));
  }
  flat.push_back(counts.to(entries_.front().value.device()));
  at::Tensor all = at::cat(flat);
  group_.sum(all);
  counts = all.narrow(0, all.numel() - counts.numel(), counts.numel()).to(at::kCPU);
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].moves) continue;
    const at::Tensor& value = entries_[i].value;
    if (counts[static_cast<std::int64_t>(i)].item<double>() > 0)
      entries_[i].leaves[0].mutable_grad() =
          all.narrow(0, begin, value.numel()).view(value.sizes());
    begin += value.numel();
  }
}

void Weights::update(Entry& entry, double learning_rate, double scale) const {
  const at::Tensor gradient =
      scale == 1 ? entry.leaves[0].grad() : entry.leaves[0].grad().mul_(scale);
  if (is_matrix(entry.value)) entry.value.mul_(1 - learning_rate * options_.weight_decay);
  if (entry.by_muon)
    muon_step(entry, gradient, learning_rate);
  else
    adamw_step(entry, gradient, learning_rate);
  if (entry.average.defined()) {
    // Early on the average follows faster, so that it forgets the random start.
    const double steps = static_cast<double>(steps_);
    entry.average.lerp_(entry.value, 1 - std::min(options_.ema, (1 + steps) / (10 + steps)));
  }
}

void Weights::adamw_step(Entry& entry, const at::Tensor& gradient, double learning_rate) const {
  const double correction1 = 1 - std::pow(options_.beta1, static_cast<double>(steps_));
  const double correction2 = 1 - std::pow(options_.beta2, static_cast<double>(steps_));
  entry.first.lerp_(gradient, 1 - options_.beta1);
  entry.second.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
  const at::Tensor denominator =
      entry.second.sqrt().div_(std::sqrt(correction2)).add_(options_.epsilon);
  entry.value.addcdiv_(entry.first, denominator, -learning_rate / correction1);
}

void Weights::muon_step(Entry& entry, const at::Tensor& gradient, double learning_rate) const {
  entry.first.lerp_(gradient, 1 - options_.momentum);
  const at::Tensor ahead = at::lerp(gradient, entry.first, options_.momentum);  // Nesterov's
  // As large as AdamW's steps usually are, so that one learning rate serves both (Liu and others
  // 2025, section 2.2).
  const auto longer = static_cast<double>(std::max(ahead.size(0), ahead.size(1)));
  entry.value.add_(orthogonalised(ahead, options_.compute),
                   -learning_rate * 0.2 * std::sqrt(longer));
}

double Weights::step(model::Lanes& lanes, double learning_rate) {
  const double norm = sum_gradients(lanes);
  const double scale =
      options_.clip_norm > 0 && norm > options_.clip_norm ? options_.clip_norm / norm : 1;
  ++steps_;
  lanes.run(static_cast<std::int64_t>(entries_.size()), [&](std::int64_t i) {
    const c10::NoGradGuard no_grad;
    Entry& entry = entries_[static_cast<std::size_t>(i)];
    if (entry.moves && entry.leaves[0].grad().defined()) update(entry, learning_rate, scale);
    for (at::Tensor& leaf : entry.leaves) leaf.mutable_grad() = at::Tensor();
  });
  return norm;
}

std::map<std::string, at::Tensor> Weights::state() const {
  std::map<std::string, at::Tensor> tensors;
  for (const Entry& entry : entries_) {
    tensors["weight." + entry.name] = entry.value;
    if (!entry.moves) continue;
    tensors["first." + entry.name] = entry.first;
    if (entry.second.defined()) tensors["second." + entry.name] = entry.second;
    if (entry.average.defined()) tensors["average." + entry.name] = entry.average;
  }
  return tensors;
}

void Weights::swap_average() {
  for (Entry& entry : entries_) {
    if (!entry.average.defined()) continue;
    const at::Tensor value = entry.value.clone();
    entry.value.copy_(entry.average);
    entry.average.copy_(value);
  }
}

at::Tensor orthogonalised(const at::Tensor& x, model::Compute compute) {
  const bool tall = x.size(0) > x.size(1);
  at::Tensor y = tall ? x.t() : x;
  y = y / (y.norm() + 1e-12);
  if (compute == model::Compute::bf16) y = y.to(at::kBFloat16);
  y = y.contiguous();
  for (int step = 0; step < 5; ++step) {
    const at::Tensor a = at::matmul(y, y.t());
    const at::Tensor b = a * -4.7750 + at::matmul(a, a) * 2.0315;
    y = y * 3.4445 + at::matmul(b, y);
  }
  y = y.to(at::kFloat);
  return tall ? y.t() : y;
}

double learning_rate_at(double progress, double peak, double warmup_epochs, double epochs) {
  if (progress < warmup_epochs) return peak * progress / warmup_epochs;
  const double left = std::max(1e-9, epochs - warmup_epochs);
  const double pi = std::acos(-1.0);
  return peak * 0.5 * (1 + std::cos(pi * std::min(1.0, (progress - warmup_epochs) / left)));
}

}  // namespace cleave::calibrate
