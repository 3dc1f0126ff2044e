#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/progress.hpp"
#include "model/fusion.hpp"
#include "model/lanes.hpp"
#include "model/transformer.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::calibrate {

/// All of a bundle's plan in one process: the parts in rank order and the head that fuses them.
struct FusedModel {
  std::vector<model::Transformer> parts;
  model::FusionHead fusion;

  void move_to(at::Device device);
};

/// Throws std::runtime_error where a part is missing or the head is not one for these parts.
FusedModel load_fused(const plan::Bundle& bundle, const plan::Plan& plan, model::Compute compute);

/// Which parts answered, in rank order.
using Presence = std::vector<bool>;
Presence all_present(std::size_t parts);

/// Each part's features [b, T, D_p] of inputs as model::features takes them.
std::vector<at::Tensor> features_of(const FusedModel& model, const at::Tensor& inputs);

/// The answer from the features of those present.
at::Tensor fused_answer(const model::FusionHead& fusion, const std::vector<at::Tensor>& features,
                        const Presence& present);

/// Runs work(begin, end) over 0 … count − 1 in pieces of `piece` on the lanes, without gradients.
/// False: `report`, which hears how many are done, asked to stop.
bool for_pieces(std::int64_t count, std::int64_t piece, model::Lanes& lanes,
                const std::function<void(std::int64_t, std::int64_t)>& work,
                const std::function<bool(std::int64_t)>& report = {});

}  // namespace cleave::calibrate
