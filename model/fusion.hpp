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
///   fused = (Σ_{p present} (A_p f_p + b_p) + Σ_{p absent} m_p) ⊘ max(1, Σ_{p present} c_p)
///   answer = head(fused)                                          A_p [D, D_p], c_p in {0,1}^D
///
/// for each state of the feature (summary tokens, or every token of a language model), where c_p
/// marks the teacher's channels that part p kept. Before calibration A_p puts each kept channel
/// back in its place and b, m are 0: channels are averaged over the parts present, and with one
/// part that keeps everything the answer is the teacher's, bit for bit. Calibration trains A, b, m
/// and the head.
struct FusionHead {
  struct Part {
    std::string device;
    std::vector<std::int64_t> channels;  // kept, ascending teacher channels; D_p = channels.size()
    Tensor weight;                       // A_p [D, D_p]
    Tensor bias;                         // b_p [D]
    Tensor absent;                       // m_p [D]
    Tensor cover;                        // c_p [D], 0 or 1
    double largest_feature = 0;          // |feature| in calibration; 0: not known
  };
  std::vector<Part> parts;
  /// The teacher's config with the tensors of its head alone (model::head_parameters), for
  /// classify().
  Transformer head;

  const ModelConfig& teacher() const { return head.config; }
  /// Features have to be there too.
  void move_to(at::Device device);
};

/// The uncalibrated head over the teacher's own; of `teacher`, only the head's tensors are looked
/// at. Throws std::invalid_argument where the teacher cannot answer or the channels do not fit.
FusionHead make_fusion(const Transformer& teacher, const std::vector<std::string>& devices,
                       const std::vector<std::vector<std::int64_t>>& channels);

/// features[p] is [B, T, D_p] (T: summary tokens, or all), or undefined where part p
/// is absent. At least one is defined, else std::invalid_argument. Returns the fused state [B, T,
/// D].
Tensor fuse(const FusionHead& head, const std::vector<Tensor>& features);
/// Fused state -> what the teacher's head says of it; see classify().
Tensor answer(const FusionHead& head, const Tensor& fused);

/// fusion.json + model.safetensors; whole or not at all. Throws std::runtime_error.
void save(const FusionHead& head, const std::filesystem::path& folder);
FusionHead load_fusion(const std::filesystem::path& folder);

/// Tensors that training moves, by name ("parts.0.weight", "head.bias" …).
std::vector<std::pair<std::string, Tensor*>> parameters(FusionHead& head);

}  // namespace cleave::model
