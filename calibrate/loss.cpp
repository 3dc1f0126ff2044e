#include "calibrate/loss.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "model/dataset.hpp"

namespace cleave::calibrate {
namespace {

/// Σ p · (log p − log q) over the last axis, from logits.
at::Tensor divergence(const at::Tensor& target, const at::Tensor& logits) {
  const at::Tensor log_p = at::log_softmax(target, -1), log_q = at::log_softmax(logits, -1);
  return (log_p.exp() * (log_p - log_q)).sum(-1);
}

/// [B] or [B, N] with the labels' -> [B], over the tokens that have one.
at::Tensor mean_of_labelled(const at::Tensor& x, const at::Tensor& labels) {
  if (x.dim() == 1) return x;
  const at::Tensor counts = labels.ge(0).to(x.scalar_type());
  return (x * counts).sum(1) / counts.sum(1).clamp_min(1);
}

/// [B, ..] -> [B].
at::Tensor mean_of_sample(const at::Tensor& x) { return x.dim() == 1 ? x : x.flatten(1).mean(1); }

at::Tensor relation(const at::Tensor& x, double head_width, const at::Tensor& real) {
  const at::Tensor all = at::matmul(x, x.transpose(1, 2)) / std::sqrt(head_width);
  return real.defined() ? all.masked_fill(real.unsqueeze(1) == 0, -1e4) : all;
}

at::Tensor compare(const at::Tensor& student, const at::Tensor& teacher, double head_width,
                   const at::Tensor& real) {
  const at::Tensor rows =
      divergence(relation(teacher, head_width, real), relation(student, head_width, real));
  return real.defined() ? (rows * real).sum() / real.sum() : rows.mean();
}

at::Tensor heads_side_by_side(const model::Transformer& model, int layer, model::Projection which,
                              const at::Tensor& x) {
  const std::int64_t queries = model.config.layers[static_cast<std::size_t>(layer)].heads;
  const model::Range heads{
      0, which == model::Projection::query ? queries : queries / model.config.group};
  return model::project(model, layer, which, heads, x);
}

}  // namespace

at::Tensor label_loss(const at::Tensor& logits, const at::Tensor& labels, double smoothing) {
  const at::Tensor losses =
      at::cross_entropy_loss(logits.flatten(0, -2), labels.flatten(), {}, at::Reduction::None,
                             model::Dataset::no_label, smoothing);
  return mean_of_labelled(losses.view(labels.sizes()), labels);
}

at::Tensor soft_target_loss(const at::Tensor& logits, const at::Tensor& teacher,
                            double temperature) {
  return mean_of_sample(divergence(teacher / temperature, logits / temperature)) *
         (temperature * temperature);
}

at::Tensor feature_loss(const at::Tensor& features, const at::Tensor& teacher) {
  return (features - teacher).square().flatten(1).mean(1);
}

at::Tensor token_loss(const at::Tensor& tokens, const at::Tensor& teacher, const at::Tensor& real) {
  const at::Tensor distances = (tokens - teacher).square().mean(2);
  return real.defined() ? (distances * real).sum(1) / real.sum(1) : distances.mean(1);
}

at::Tensor similarity_loss(const at::Tensor& directions, const at::Tensor& teacher,
                           double temperature) {
  const auto cosines = [temperature](const at::Tensor& x) {
    const at::Tensor itself = at::eye(x.size(0), x.options()) * -1e4;
    return at::matmul(x, x.t()) / temperature + itself;
  };
  return divergence(cosines(teacher), cosines(directions));
}

at::Tensor attention_to_errors(const at::Tensor& logits, const at::Tensor& labels, double focus) {
  const at::Tensor chosen =
      at::softmax(logits, -1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1);
  const at::Tensor right = mean_of_labelled(chosen, labels);
  const at::Tensor missed = (1 - right).clamp_min(0).pow(focus);
  return 0.5 + 0.5 * missed / missed.mean().clamp_min(1e-6);
}

Relations relations_at(const model::Transformer& model, int layer, const at::Tensor& inputs) {
  const c10::NoGradGuard no_grad;
  const model::Sight sight = model::sight(model, inputs);
  at::Tensor x = model::embed(model, inputs);
  for (int below = 0; below < layer; ++below) x = model::block(model, below, x, sight);
  if (model.config.norm_placement == model::NormPlacement::before)
    x = model::norm(model, "blocks." + std::to_string(layer) + ".norm_attention", x);
  return {heads_side_by_side(model, layer, model::Projection::query, x),
          heads_side_by_side(model, layer, model::Projection::key, x),
          heads_side_by_side(model, layer, model::Projection::value, x)};
}

at::Tensor relation_loss(const Relations& student, const Relations& teacher, double head_width,
                         const at::Tensor& real) {
  return 0.2 * compare(student.query, teacher.query, head_width, real) +
         0.1 * compare(student.key, teacher.key, head_width, real) +
         0.3 * compare(student.value, teacher.value, head_width, real);
}

}  // namespace cleave::calibrate
