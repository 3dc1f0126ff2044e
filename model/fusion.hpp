#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/transformer.hpp"

namespace cleave::model {

/// The small network at the aggregator: the parts' features become the teacher's answer, with any
/// of them absent.
///
///   fused = (Σ_{p present} (A_p f_p + b_p) + Σ_{p absent} m_p) ⊘ max(1, Σ_{p present} c_p) A_p [D,
///   D_p], c_p in {0,1}^D logits = mean over summary tokens t of head_t(fused_t)
///
/// where c_p marks the teacher's channels that part p kept. Before calibration A_p puts each kept
/// channel back in its place and b, m are 0: channels are averaged over the parts present, and with
/// one part that keeps everything the answer is the teacher's, bit for bit. Calibration trains A,
/// b, m and the heads.
struct FusionHead {
  struct Part {
    std::string device;
    std::vector<std::int64_t> channels;  // kept, ascending teacher channels; D_p = channels.size()
    Tensor weight;                       // A_p [D, D_p]
    Tensor bias;                         // b_p [D]
    Tensor absent;                       // m_p [D]
    Tensor cover;                        // c_p [D], 0 or 1
  };
  /// Teacher's config: width, classes, labels, summary tokens.
  ModelConfig teacher;
  std::vector<Part> parts;
  std::vector<Tensor> head_weight, head_bias;  // [C, D], [C]; one for each summary token
};

/// The uncalibrated head over the teacher's classifier.
FusionHead make_fusion(const Transformer& teacher, const std::vector<std::string>& devices,
                       const std::vector<std::vector<std::int64_t>>& channels);

/// features[p] is [B, T, D_p], or undefined where part p is absent. At least one is defined, else
/// std::invalid_argument. Returns the fused state [B, T, D].
Tensor fuse(const FusionHead& head, const std::vector<Tensor>& features);
/// Fused state -> logits [B, C].
Tensor answer(const FusionHead& head, const Tensor& fused);

/// fusion.json + model.safetensors; whole or not at all. Throws std::runtime_error.
void save(const FusionHead& head, const std::filesystem::path& folder);
FusionHead load_fusion(const std::filesystem::path& folder);

/// Tensors that training moves, by name ("parts.0.weight", "head.0.bias" …).
std::vector<std::pair<std::string, Tensor*>> parameters(FusionHead& head);

}  // namespace cleave::model
