#include "calibrate/fused.hpp"

#include <algorithm>
#include <stdexcept>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "calibrate/forward.hpp"
#include "model/checkpoint.hpp"

namespace cleave::calibrate {
namespace {

void check_match(const FusedModel& model, const plan::Bundle& bundle, const plan::Plan& plan) {
  const auto& parts = model.fusion.parts;
  bool fits = parts.size() == model.parts.size();
  for (std::size_t p = 0; fits && p < parts.size(); ++p)
    fits = parts[p].device == plan.parts[p].device && parts[p].width == model.parts[p].config.width;
  if (!fits)
    throw std::runtime_error("[" + bundle.fusion_path(plan).string() +
                             "] fusion: its parts are not those of plan '" + plan.name + "'");
}

}  // namespace

void FusedModel::move_to(at::Device device) {
  for (model::Transformer& part : parts) part.move_to(device);
  fusion.move_to(device);
}

FusedModel load_fused(const plan::Bundle& bundle, const plan::Plan& plan, model::Compute compute) {
  FusedModel model;
  for (const auto& part : plan.parts) {
    model.parts.push_back(model::load(bundle.part_path(plan, part.device)));
    model.parts.back().compute = compute;
  }
  model.fusion = model::load_fusion(bundle.fusion_path(plan), true);
  check_match(model, bundle, plan);
  return model;
}

Presence all_present(std::size_t parts) { return Presence(parts, true); }

bool for_pieces(std::int64_t count, std::int64_t piece, model::Lanes& lanes,
                const std::function<void(std::int64_t, std::int64_t)>& work,
                const std::function<bool(std::int64_t)>& report) {
  const std::int64_t pieces = (count + piece - 1) / piece;
  // In rounds, so that somebody hears of progress; long enough that waiting at their end does not
  // count.
  const std::int64_t round = 16 * lanes.count();
  for (std::int64_t first = 0; first < pieces; first += round) {
    lanes.run(std::min(round, pieces - first), [&](std::int64_t i) {
      const c10::NoGradGuard no_grad;
      const std::int64_t begin = (first + i) * piece;
      work(begin, std::min(count, begin + piece));
    });
    if (report && !report(std::min(count, (first + round) * piece))) return false;
  }
  return true;
}

std::vector<at::Tensor> features_of(const FusedModel& model, const at::Tensor& inputs) {
  std::vector<at::Tensor> features;
  for (const auto& part : model.parts) features.push_back(summary_features(part, inputs));
  return features;
}

at::Tensor fused_answer(const model::FusionHead& fusion, const std::vector<at::Tensor>& features,
                        const Presence& present) {
  std::vector<at::Tensor> there = features;
  for (std::size_t p = 0; p < there.size(); ++p)
    if (!present[p]) there[p] = at::Tensor();
  return model::answer(fusion, model::fuse(fusion, there));
}

}  // namespace cleave::calibrate
