#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include "decompose/fit/rows.hpp"
#include "model/checkpoint.hpp"
#include "model/config/block.hpp"
#include "model/lanes.hpp"
#include "model/transformer.hpp"

namespace cleave::decompose {

/// The work on batches, shared out to lanes so that sums come out the same on any number of them.
class Work {
 public:
  Work(std::size_t batches, int threads) : batches_(batches), lanes_(threads) {}

  void for_batches(const std::function<void(std::size_t)>& work) {
    lanes_.run(static_cast<std::int64_t>(batches_), [&](std::int64_t batch) {
      const c10::NoGradGuard no_grad;
      work(static_cast<std::size_t>(batch));
    });
  }

  /// The sum over all batches, or the first `batches`: each of a few pieces begins with a copy of
  /// `zero` and takes its batches in order.
  template <typename Sum, typename Add>
  Sum sum_of(const Sum& zero, const Add& add, std::size_t batches = ~std::size_t{0}) {
    batches = std::min(batches, batches_);
    constexpr std::size_t pieces = 4;
    std::vector<Sum> sums(pieces, zero);
    lanes_.run(pieces, [&](std::int64_t piece) {
      const c10::NoGradGuard no_grad;
      for (auto batch = static_cast<std::size_t>(piece); batch < batches; batch += pieces)
        add(sums[static_cast<std::size_t>(piece)], batch);
    });
    for (std::size_t piece = 1; piece < pieces; ++piece) sums[0].add(sums[piece]);
    return sums[0];
  }

 private:
  std::size_t batches_;
  model::Lanes lanes_;
};

enum class Half { attention, mlp };

const char* norm_name(Half half);
const char* writer_name(Half half);
/// For people.
const char* words_of(Half half);
bool has(const model::ModelConfig& config, int layer, Half half);
/// A model of which block() computes one half of a layer.
model::Transformer only(const model::Transformer& model, int layer, Half half);
/// What a half's writer multiplies: contexts [B, N, H·K] or activations [B, N, F]. `halved`: by
/// only().
at::Tensor units_of(const model::Transformer& halved, int layer, const at::Tensor& x,
                    const model::Sight& sight);

/// The teacher's residual stream over all rows, half a block at a time. Only a piece of the teacher
/// is in memory.
class TeacherStream {
 public:
  /// `element`: at::kFloat, or at::kDouble.
  TeacherStream(const std::filesystem::path& folder, const FitRows& rows, Work& work,
                at::ScalarType element = at::kFloat);

  const model::ModelConfig& config() const { return config_; }
  int num_layers() const { return static_cast<int>(config_.num_layers()); }
  bool norms_before() const { return config_.norm_placement == model::NormPlacement::before; }
  /// LayerNorm takes the mean of a token out, RMSNorm does not.
  bool centres() const { return config_.norm_kind == model::NormKind::layer; }

  /// The tensors whose names begin so.
  model::Transformer piece(const std::string& prefix) const;

  void restart();

  /// Half a layer's way on, where the layer has that half.
  void advance(const model::Transformer& block, int layer, Half half);

  /// The stream of a batch [B, N, D], and the sum that a norm after the last half was taken of (the
  /// stream itself where norms come before).
  const at::Tensor& stream(std::size_t batch) const { return stream_[batch]; }
  const at::Tensor& sum(std::size_t batch) const { return sums_[batch]; }

  /// At the end.
  std::vector<at::Tensor> features() const;

 private:
  model::ModelConfig config_;
  model::TensorFiles files_;
  const FitRows& rows_;
  Work& work_;
  at::ScalarType element_;
  std::vector<at::Tensor> stream_, sums_;
};

/// Covariances of the teacher's stream before each layer and behind the last, each token at length
/// 1, as norms make it: L + 1 of [D, D], fp64. The teacher begins anew afterwards.
std::vector<at::Tensor> covariances_of(TeacherStream& teacher, const FitRows& rows, Work& work);

}  // namespace cleave::decompose
