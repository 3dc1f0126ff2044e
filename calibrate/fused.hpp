#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/progress.hpp"
#include "calibrate/lanes.hpp"
#include "model/fusion.hpp"
#include "model/transformer.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::calibrate {

/// All of a bundle's plan in one process: the parts in rank order and the head that fuses them.
struct FusedModel {
  std::vector<model::Transformer> parts;
  model::FusionHead fusion;
};

/// Throws std::runtime_error where a part is missing or the head is not one for these parts.
FusedModel load_fused(const plan::Bundle& bundle, const plan::Plan& plan, model::Compute compute);

/// Which parts answered, in rank order.
using Presence = std::vector<bool>;
Presence all_present(std::size_t parts);

/// Each part's features [n, T, D_p] of uint8 images [n, c, h, w]. `report` (may be empty) hears of
/// images done and may stop the work, which then gives nothing.
std::vector<at::Tensor> features_of(const FusedModel& model, const at::Tensor& images, Lanes& lanes,
                                    const std::function<bool(std::int64_t)>& report = {});

/// Logits [n, C] from the features of those present.
at::Tensor fused_logits(const model::FusionHead& fusion, const std::vector<at::Tensor>& features,
                        const Presence& present);

/// Share of rows whose largest logit is at the label, 0..1; NaN without rows.
double share_right(const at::Tensor& logits, const at::Tensor& labels);

/// Runs work(begin, end) over 0 … count − 1 in pieces of `piece` on the lanes, without gradients.
/// False: `report`, which hears how many are done, asked to stop.
bool for_pieces(std::int64_t count, std::int64_t piece, Lanes& lanes,
                const std::function<void(std::int64_t, std::int64_t)>& work,
                const std::function<bool(std::int64_t)>& report = {});

}  // namespace cleave::calibrate
