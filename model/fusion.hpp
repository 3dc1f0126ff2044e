#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/transformer.hpp"

namespace cleave::model {

/// The small network at the aggregator: the parts' features become the teacher's answer, with any
/// of them absent.
///
/// Up to `most_parts_with_subsets` parts, each non-empty set S of parts that are present has a head
/// of its own:
///
///   fused = A^S [f_p for p in S, side by side] + b^S        A^S [D, Σ_{p in S} D_p]
///   answer = head(fused)
///
/// More parts share one:
///
///   fused = (Σ_{p present} (A_p f_p + b_p) + Σ_{p absent} m_p) ⊘ max(1, Σ_{p present} c_p)
///
/// for each state of the feature (summary tokens, or every token of a language model). A part's
/// basis says where its features lie among the teacher's: U_p f_p + o_p, with U_p [D, D_p]; nothing
/// trains it. Before anything is fitted or trained each head maps the features back that way, and
/// averages each channel over the parts present that reach it (c_p in {0,1}^D marks them); with one
/// part that keeps everything the answer is the teacher's, bit for bit.
struct FusionHead {
  struct Part {
    std::string device;
    std::int64_t width = 0;      // D_p
    double largest_feature = 0;  // |feature| in calibration; 0: not known
    /// U_p [D, D_p] and o_p [D]; undefined where the head was loaded to answer only.
    Tensor basis, origin;
  };
  /// What a set of parts that are present is fused by.
  struct Subset {
    Tensor weight, bias;  // A^S [D, Σ D_p], b^S [D]
  };
  /// One part's column of the head that more than `most_parts_with_subsets` parts share.
  struct Shared {
    Tensor weight, bias, absent, cover;  // A_p [D, D_p], b_p [D], m_p [D], c_p [D]
  };

  std::vector<Part> parts;
  /// By set: bit p of the index plus 1 says whether part p is in it. Empty where parts share a
  /// head.
  std::vector<Subset> subsets;
  std::vector<Shared> shared;  // by part; empty where there are subsets
  /// The teacher's config with the tensors of its head alone (model::head_parameters), for
  /// classify().
  Transformer head;

  const ModelConfig& teacher() const { return head.config; }
  /// The head of those present, in rank order; not where parts share one.
  Subset& subset(const std::vector<bool>& present);
  /// Features have to be there too.
  void move_to(at::Device device);
};

/// U_p of a part that kept some of the teacher's channels as they are. -> [width, channels.size()].
/// Throws std::invalid_argument where they are not ascending, or not the teacher's.
Tensor channel_basis(const std::vector<std::int64_t>& channels, std::int64_t width,
                     const std::string& device);

/// The head before fit and training; of `parts`, device, basis and origin are looked at (an
/// undefined origin is 0), of `teacher`, only the head's tensors. Throws std::invalid_argument
/// where the teacher cannot answer or a basis does not fit.
FusionHead make_fusion(const Transformer& teacher, std::vector<FusionHead::Part> parts);
/// The same of parts that kept channels, a list for each device.
FusionHead make_fusion(const Transformer& teacher, const std::vector<std::string>& devices,
                       const std::vector<std::vector<std::int64_t>>& channels);

/// Features of a part where they lie among the teacher's: U_p f + o_p. [.., D_p] -> [.., D].
Tensor mapped_back(const FusionHead::Part& part, const Tensor& features);

/// features[p] is [B, T, D_p] (T: summary tokens, or all), or undefined where part p
/// is absent. At least one is defined, else std::invalid_argument. Returns the fused state [B, T,
/// D].
Tensor fuse(const FusionHead& head, const std::vector<Tensor>& features);
/// Fused state -> what the teacher's head says of it; see classify().
Tensor answer(const FusionHead& head, const Tensor& fused);

/// fusion.json (format 3) + model.safetensors; whole or not at all. Throws std::runtime_error.
void save(const FusionHead& head, const std::filesystem::path& folder);
/// Reads formats 2 and 3; bases only where asked for.
FusionHead load_fusion(const std::filesystem::path& folder, bool with_basis = false);

/// Tensors that training moves, by name ("subsets.0+2.weight" or "shared.0.weight", "head.bias" …).
std::vector<std::pair<std::string, Tensor*>> parameters(FusionHead& head);
/// The names of a set's head, or of a part's column: all of them begin so.
std::string subset_name(const std::vector<bool>& present);
std::string shared_name(std::size_t part);

}  // namespace cleave::model
