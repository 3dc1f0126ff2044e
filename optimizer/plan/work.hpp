#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::plan {

/// What a stretch of compute is made of. Each kind has its own cost model, fitted from a profile.
enum class KernelKind {
  /// Weight product, rows x inner · inner x columns: linear, patch embedding, classifier.
  matmul,
  /// softmax(q·kᵀ/√K)·v of one layer: rows = B·H·N queries, inner = K, columns = N keys.
  attention,
  /// LayerNorm over rows x columns.
  norm,
  /// GELU … over rows x columns.
  activation,
  /// Add, copy, concat, cast, normalise over rows x columns.
  elementwise,
};
constexpr int num_kernel_kinds = 5;

/// One kernel: dimensions and what follows from them.
struct Kernel {
  KernelKind kind = KernelKind::matmul;
  std::int64_t rows = 0, inner = 0, columns = 0;
  /// Floating-point operations (2 · multiply-adds), 0 where only bytes count.
  double flops() const;
  /// Bytes read and written, fp32: operands, weights and result once.
  double bytes() const;
};

std::string_view name_of(KernelKind kind);

/// What one forward pass is over: B texts of N tokens each behind `past` others that are cached;
/// or B images, whose tokens are the model's.
struct Load {
  std::int64_t batch = 1, tokens = 0, past = 0;
};

/// All kernels of a whole forward pass (features only, or with the head) of a model, in order. Of a
/// causal model the head answers for the last token alone, as generation asks.
std::vector<Kernel> kernels_of_model(const model::ModelConfig& config, const Load& load,
                                     bool with_head);
/// Of what stands before the first block, without its norm; of some rows of each sequence, or of
/// all where there are none.
std::vector<Kernel> kernels_of_embedding(const model::ModelConfig& config, const Load& load,
                                         model::Range rows = {});
/// Of the head on features of B times so many rows, for `outputs` of its classes or tokens.
std::vector<Kernel> kernels_of_head(const model::ModelConfig& config, const Load& feature,
                                    std::int64_t outputs);
/// Of the fusion head over parts of the given widths.
std::vector<Kernel> kernels_of_fusion(const model::ModelConfig& teacher,
                                      const std::vector<std::int64_t>& widths, const Load& load);

/// States that are a feature: T summary tokens, or N of a masked language model, or the last one of
/// a causal one.
std::int64_t feature_rows(const model::ModelConfig& config, std::int64_t tokens);

/// Bytes of all weights, fp32.
double weight_bytes(const model::ModelConfig& config);
/// Peak bytes of activations of one forward pass with libtorch's eager allocation (normalised
/// pixels, then the largest moment of embedding, attention or MLP), fp32.
double activation_bytes(const model::ModelConfig& config, const Load& load);
/// What computing takes of a process at its peak whose tensors take so much at once, over rows of
/// tokens: the holes that the heap keeps between them, what BLAS packs, and libtorch's code that a
/// first pass brings into memory.
double process_bytes(double tensor_bytes, std::int64_t rows);
/// What a forward pass adds to the process at its peak: its activations, the holes that the heap
/// keeps between them, what BLAS packs, and libtorch's code that a first pass brings into memory.
/// Holds where the process keeps its memory compact, as every engine does.
double forward_bytes(const model::ModelConfig& config, const Load& load);
/// Keys and values of B texts of `tokens` tokens, fp32.
double cache_bytes(const model::ModelConfig& config, std::int64_t batch, std::int64_t tokens);
/// Bytes that loading the weights takes beside them: the largest stored tensor, still mapped while
/// it is copied, and the copy that a transposed one is taken apart from.
double loading_bytes(const model::ModelConfig& config);

}  // namespace cleave::plan
