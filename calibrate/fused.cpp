#include "calibrate/fused.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "calibrate/forward.hpp"
#include "model/checkpoint.hpp"

namespace cleave::calibrate {
namespace {

constexpr std::int64_t images_a_piece = 64;

void check_match(const FusedModel& model, const plan::Bundle& bundle, const plan::Plan& plan) {
  const auto& parts = model.fusion.parts;
  bool fits = parts.size() == model.parts.size();
  for (std::size_t p = 0; fits && p < parts.size(); ++p)
    fits = parts[p].device == plan.parts[p].device &&
           static_cast<std::int64_t>(parts[p].channels.size()) == model.parts[p].config.width;
  if (!fits)
    throw std::runtime_error("[" + bundle.fusion_path(plan).string() +
                             "] fusion: its parts are not those of plan '" + plan.name + "'");
}

}  // namespace

FusedModel load_fused(const plan::Bundle& bundle, const plan::Plan& plan, model::Compute compute) {
  FusedModel model;
  for (const auto& part : plan.parts) {
    model.parts.push_back(model::load(bundle.part_path(plan, part.device)));
    model.parts.back().compute = compute;
  }
  model.fusion = model::load_fusion(bundle.fusion_path(plan));
  check_match(model, bundle, plan);
  return model;
}

Presence all_present(std::size_t parts) { return Presence(parts, true); }

bool for_pieces(std::int64_t count, std::int64_t piece, Lanes& lanes,
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

std::vector<at::Tensor> features_of(const FusedModel& model, const at::Tensor& images, Lanes& lanes,
                                    const std::function<bool(std::int64_t)>& report) {
  std::vector<at::Tensor> features;
  for (const auto& part : model.parts)
    features.push_back(
        at::empty({images.size(0), part.config.summary_tokens, part.config.width}, at::kFloat));
  const auto work = [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor batch = images.narrow(0, begin, end - begin);
    for (std::size_t p = 0; p < model.parts.size(); ++p) {
      const auto& part = model.parts[p];
      features[p]
          .narrow(0, begin, end - begin)
          .copy_(summary_features(part, model::normalise_pixels(part.config, batch)));
    }
  };
  if (!for_pieces(images.size(0), images_a_piece, lanes, work, report)) return {};
  return features;
}

at::Tensor fused_logits(const model::FusionHead& fusion, const std::vector<at::Tensor>& features,
                        const Presence& present) {
  std::vector<at::Tensor> there = features;
  for (std::size_t p = 0; p < there.size(); ++p)
    if (!present[p]) there[p] = at::Tensor();
  return model::answer(fusion, model::fuse(fusion, there));
}

double share_right(const at::Tensor& logits, const at::Tensor& labels) {
  if (labels.size(0) == 0) return std::numeric_limits<double>::quiet_NaN();
  const auto right = logits.argmax(-1).eq(labels).sum().item<std::int64_t>();
  return static_cast<double>(right) / static_cast<double>(labels.size(0));
}

}  // namespace cleave::calibrate
