#include "optimizer/plan/work.hpp"

#include <algorithm>

namespace cleave::plan {
namespace {

constexpr double bytes_of_float = 4;

// Measured with libtorch 1.13 and glibc 2.36 over ViTs of 0.2 M to 86 M parameters, batch 1 to 8,
// in processes that keep their memory compact (model/memory.hpp): the heap has a quarter of holes,
// BLAS packs a panel of each row, and libtorch's code comes into memory once.
constexpr double heap_growth = 1.25;
constexpr double packed_bytes_of_row = 384 * bytes_of_float;
constexpr double first_pass_bytes = 7.5e6;

double real(std::int64_t count) { return static_cast<double>(count); }

/// Collects kernels; those without any work (a layer without attention) are left out.
class Work {
 public:
  void add(KernelKind kind, std::int64_t rows, std::int64_t inner, std::int64_t columns) {
    if (rows > 0 && columns > 0) kernels_.push_back({kind, rows, inner, columns});
  }
  void matmul(std::int64_t rows, std::int64_t inner, std::int64_t columns) {
    if (inner > 0) add(KernelKind::matmul, rows, inner, columns);
  }
  std::vector<Kernel> take() { return std::move(kernels_); }

 private:
  std::vector<Kernel> kernels_;
};

void add_embedding(Work& work, const model::ModelConfig& config, std::int64_t batch) {
  const std::int64_t pixels_of_patch = config.channels * config.patch * config.patch;
  work.add(KernelKind::elementwise, batch * config.channels, 0,
           config.image_height * config.image_width);  // normalise
  const std::int64_t patches = batch * config.num_patches(), tokens = batch * config.num_tokens();
  work.add(KernelKind::elementwise, patches, 0, pixels_of_patch);  // unfold
  work.matmul(patches, pixels_of_patch, config.width);
  work.add(KernelKind::elementwise, tokens, 0, config.width);  // join
  work.add(KernelKind::elementwise, tokens, 0, config.width);  // positions
}

void add_attention(Work& work, const model::ModelConfig& config, std::int64_t heads,
                   std::int64_t batch) {
  if (heads == 0) return;
  const std::int64_t rows = batch * config.num_tokens();
  const std::int64_t inner = heads * config.head_width;
  work.add(KernelKind::norm, rows, 0, config.width);
  for (int projection = 0; projection < 3; ++projection) work.matmul(rows, config.width, inner);
  work.add(KernelKind::attention, heads * rows, config.head_width, config.num_tokens());
  work.matmul(rows, inner, config.width);
  work.add(KernelKind::elementwise, rows, 0, config.width);  // residual
}

void add_mlp(Work& work, const model::ModelConfig& config, std::int64_t mlp_width,
             std::int64_t batch) {
  if (mlp_width == 0) return;
  const std::int64_t rows = batch * config.num_tokens();
  work.add(KernelKind::norm, rows, 0, config.width);
  work.matmul(rows, config.width, mlp_width);
  work.add(KernelKind::activation, rows, 0, mlp_width);
  work.matmul(rows, mlp_width, config.width);
  work.add(KernelKind::elementwise, rows, 0, config.width);  // residual
}

void add_head(Work& work, const model::ModelConfig& config, std::int64_t batch) {
  if (config.classes == 0) return;
  for (std::int64_t token = 0; token < config.summary_tokens; ++token)
    work.matmul(batch, config.width, config.classes);
  if (config.summary_tokens > 1) work.add(KernelKind::elementwise, batch, 0, config.classes);
}

/// How many floats of each kind a batch has; what is alive together follows model/transformer.cpp
/// statement by statement.
struct Sizes {
  double pixels;  // normalised, alive until the features are there
  double patches;
  double stream;  // [B, N, D]
  double batch;

  Sizes(const model::ModelConfig& config, std::int64_t images)
      : pixels(real(images) * real(config.channels * config.image_height * config.image_width)),
        patches(real(images) * real(config.num_patches() * config.width)),
        stream(real(images) * real(config.num_tokens() * config.width)),
        batch(real(images)) {}
};

double embedding_peak(const Sizes& sizes) {
  const double unfolding = 2 * sizes.pixels + sizes.patches;
  const double joining = sizes.pixels + sizes.patches + 2 * sizes.stream;
  return std::max(unfolding, joining);
}

double attention_peak(const Sizes& sizes, double tokens, double heads, double head_width) {
  const double inner = sizes.batch * tokens * heads * head_width;
  const double scores = sizes.batch * heads * tokens * tokens;
  // Of several images a batched product takes copies of its permuted operands.
  const double copy = sizes.batch > 1 ? inner : 0;
  const double held = sizes.pixels + 2 * sizes.stream + 3 * inner;  // x, its norm, q, k, v
  const double scoring = held + inner + 2 * copy + scores;
  const double weighting = held + 2 * scores + inner + copy;
  const double joining = held + scores + 2 * inner;
  const double adding = std::max(held + inner + sizes.stream, sizes.pixels + 4 * sizes.stream);
  return std::max({scoring, weighting, joining, adding});
}

double mlp_peak(const Sizes& sizes, double tokens, double mlp_width) {
  const double wide = sizes.batch * tokens * mlp_width;
  const double activating = 3 * sizes.stream + 2 * wide;
  const double adding = 5 * sizes.stream + wide;
  return sizes.pixels + std::max(activating, adding);
}

}  // namespace

double Kernel::flops() const {
  switch (kind) {
    case KernelKind::matmul:
      return 2 * real(rows) * real(inner) * real(columns);
    // q·kᵀ and ·v; softmax is counted by its bytes.
    case KernelKind::attention:
      return 4 * real(rows) * real(inner) * real(columns);
    case KernelKind::norm:
    case KernelKind::activation:
    case KernelKind::elementwise:
      return 0;
  }
  return 0;
}

double Kernel::bytes() const {
  const double cells = real(rows) * real(columns);
  switch (kind) {
    case KernelKind::matmul:
      return bytes_of_float * (real(rows) * real(inner) + real(inner) * real(columns) + cells);
    // q, k, v and the context, and the scores: written by the product, read and written by softmax,
    // read by ·v.
    case KernelKind::attention:
      return bytes_of_float * (4 * real(rows) * real(inner) + 4 * cells);
    case KernelKind::norm:
      return bytes_of_float * (2 * cells + 2 * real(columns));
    case KernelKind::activation:
      return bytes_of_float * 2 * cells;
    case KernelKind::elementwise:
      return bytes_of_float * 3 * cells;
  }
  return 0;
}

std::string_view name_of(KernelKind kind) {
  switch (kind) {
    case KernelKind::matmul:
      return "matmul";
    case KernelKind::attention:
      return "attention";
    case KernelKind::norm:
      return "norm";
    case KernelKind::activation:
      return "activation";
    case KernelKind::elementwise:
      return "elementwise";
  }
  return "?";
}

std::vector<Kernel> kernels_of_model(const model::ModelConfig& config, std::int64_t batch,
                                     bool with_head) {
  Work work;
  add_embedding(work, config, batch);
  for (const model::LayerShape& layer : config.layers) {
    add_attention(work, config, layer.heads, batch);
    add_mlp(work, config, layer.mlp_width, batch);
  }
  work.add(KernelKind::norm, batch * config.summary_tokens, 0, config.width);
  if (with_head) add_head(work, config, batch);
  return work.take();
}

std::vector<Kernel> kernels_of_fusion(const model::ModelConfig& teacher,
                                      const std::vector<std::int64_t>& widths, std::int64_t batch) {
  Work work;
  const std::int64_t rows = batch * teacher.summary_tokens;
  for (const std::int64_t width : widths) {
    work.matmul(rows, width, teacher.width);
    work.add(KernelKind::elementwise, rows, 0, teacher.width);  // into the sum
  }
  work.add(KernelKind::elementwise, rows, 0, teacher.width);  // over those present
  add_head(work, teacher, batch);
  return work.take();
}

double weight_bytes(const model::ModelConfig& config) {
  return bytes_of_float * real(model::count_parameters(config));
}

double activation_bytes(const model::ModelConfig& config, std::int64_t batch) {
  const Sizes sizes(config, batch);
  const double tokens = real(config.num_tokens());
  double most = embedding_peak(sizes);
  for (const model::LayerShape& layer : config.layers) {
    if (layer.heads > 0)
      most =
          std::max(most, attention_peak(sizes, tokens, real(layer.heads), real(config.head_width)));
    if (layer.mlp_width > 0) most = std::max(most, mlp_peak(sizes, tokens, real(layer.mlp_width)));
  }
  return bytes_of_float * most;
}

double forward_bytes(const model::ModelConfig& config, std::int64_t batch) {
  return heap_growth * activation_bytes(config, batch) +
         packed_bytes_of_row * real(batch * config.num_tokens()) + first_pass_bytes;
}

double loading_bytes(const model::ModelConfig& config) {
  std::int64_t largest = 0;
  for (const model::Parameter& parameter : model::parameters(config))
    largest = std::max(largest, parameter.count());
  return bytes_of_float * real(largest);
}

}  // namespace cleave::plan
