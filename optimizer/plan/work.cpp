#include "optimizer/plan/work.hpp"

#include <algorithm>

#include "model/config/block.hpp"

namespace cleave::plan {
namespace {

constexpr double bytes_of_float = 4;

// Measured with libtorch 1.13 and glibc 2.36 over ViTs of 0.2 M to 86 M parameters, batch 1 to 8,
// in processes that keep their memory compact (model/memory.hpp): the heap has a quarter of holes,
// BLAS packs a panel of each row, and libtorch's code comes into memory once.
constexpr double heap_growth = 1.25;
constexpr double packed_bytes_of_row = 384 * bytes_of_float;
constexpr double first_pass_bytes = 8.3e6;

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

std::int64_t tokens_of(const model::ModelConfig& config, const Load& load) {
  return config.is_text() ? load.tokens : config.num_tokens();
}

/// Keys that a query looks at.
std::int64_t seen_of(const model::ModelConfig& config, const Load& load) {
  return load.past + tokens_of(config, load);
}

void add_image_embedding(Work& work, const model::ModelConfig& config, std::int64_t batch,
                         model::Range rows) {
  const std::int64_t pixels_of_patch = config.channels * config.patch * config.patch;
  work.add(KernelKind::elementwise, batch * config.channels, 0,
           config.image_height * config.image_width);  // normalise
  const std::int64_t learned = config.num_tokens() - config.num_patches();
  const std::int64_t here = std::max<std::int64_t>(0, rows.end - std::max(rows.begin, learned));
  const std::int64_t patches = batch * here, tokens = batch * rows.size();
  work.add(KernelKind::elementwise, batch * config.num_patches(), 0, pixels_of_patch);  // unfold
  work.matmul(patches, pixels_of_patch, config.width);
  work.add(KernelKind::elementwise, tokens, 0, config.width);  // join
  work.add(KernelKind::elementwise, tokens, 0, config.width);  // positions
}

void add_embedding(Work& work, const model::ModelConfig& config, const Load& load,
                   model::Range of_sequence = {}) {
  if (of_sequence.size() == 0)
    of_sequence = {0, config.is_text() ? load.tokens : config.num_tokens()};
  if (!config.is_text()) return add_image_embedding(work, config, load.batch, of_sequence);
  const std::int64_t rows = load.batch * of_sequence.size();
  work.add(KernelKind::elementwise, rows, 0, config.width);  // gather
  if (config.rotary_base == 0) work.add(KernelKind::elementwise, rows, 0, config.width);
  if (config.token_types > 0) work.add(KernelKind::elementwise, rows, 0, config.width);
}

/// `feature`: how many rows of it.
void add_head(Work& work, const model::ModelConfig& config, const Load& feature,
              std::int64_t outputs) {
  if (config.classes == 0) return;
  const std::int64_t rows = feature.batch * feature.tokens;
  const bool transforms = config.task == model::Task::masked_lm ||
                          (config.is_text() && config.task == model::Task::classification);
  if (transforms) work.matmul(rows, config.width, config.width);
  if (config.summary_tokens == 1) return work.matmul(rows, config.width, outputs);
  for (std::int64_t token = 0; token < config.summary_tokens; ++token)
    work.matmul(feature.batch, config.width, outputs);
  work.add(KernelKind::elementwise, feature.batch, 0, outputs);
}

/// The forward pass with kernels in place of numbers: a value is how many numbers a token has.
class Kernels {
 public:
  using Value = std::int64_t;
  Kernels(const model::ModelConfig& config, const Load& load)
      : config_(config), load_(load), rows_(load.batch * tokens_of(config, load)) {}

  std::int64_t embed() {
    add_embedding(work_, config_, load_);
    return config_.width;
  }
  std::int64_t norm(int, model::NormOf, std::int64_t width) {
    work_.add(KernelKind::norm, rows_, 0, width);
    return width;
  }
  std::int64_t project(int layer, model::Projection which, std::int64_t width) {
    const std::int64_t columns = config_.layers[static_cast<std::size_t>(layer)].heads *
                                 config_.head_width /
                                 (which == model::Projection::query ? 1 : config_.group);
    work_.matmul(rows_, width, columns);
    return columns;
  }
  std::int64_t attend(int, std::int64_t query, std::int64_t key, std::int64_t) {
    if (config_.rotary_base > 0) work_.add(KernelKind::elementwise, 2 * rows_, 0, query + key);
    work_.add(KernelKind::attention, query / config_.head_width * rows_, config_.head_width,
              seen_of(config_, load_));
    return query;
  }
  std::int64_t project_out(int, std::int64_t width) {
    work_.matmul(rows_, width, config_.width);
    return config_.width;
  }
  std::int64_t mlp_up(int layer, std::int64_t width) {
    const std::int64_t columns = config_.layers[static_cast<std::size_t>(layer)].mlp_width;
    work_.matmul(rows_, width, columns);
    if (config_.gated) work_.matmul(rows_, width, columns);
    if (config_.gated) work_.add(KernelKind::elementwise, rows_, 0, columns);
    work_.add(KernelKind::activation, rows_, 0, columns);
    return columns;
  }
  std::int64_t mlp_down(int, std::int64_t columns) {
    work_.matmul(rows_, columns, config_.width);
    return config_.width;
  }
  std::int64_t add(std::int64_t width, std::int64_t) {
    work_.add(KernelKind::elementwise, rows_, 0, width);
    return width;
  }
  std::int64_t read_out(std::int64_t width) {
    if (config_.norm_placement == model::NormPlacement::after) return width;
    const std::int64_t read =
        config_.reads_every_token() ? rows_ : load_.batch * config_.summary_tokens;
    work_.add(KernelKind::norm, read, 0, width);
    return width;
  }

  void head() {
    add_head(work_, config_, {load_.batch, feature_rows(config_, load_.tokens)}, config_.classes);
  }
  std::vector<Kernel> take() { return work_.take(); }

 private:
  const model::ModelConfig& config_;
  const Load& load_;
  std::int64_t rows_;
  Work work_;
};

/// How many floats of each kind a batch has; what is alive together follows model/transformer.cpp
/// statement by statement.
struct Sizes {
  double pixels;  // normalised, alive until the features are there
  double patches;
  double stream;  // [B, N, D]
  double batch;

  Sizes(const model::ModelConfig& config, const Load& load)
      : pixels(config.is_text() ? 0
                                : real(load.batch) * real(config.channels * config.image_height *
                                                          config.image_width)),
        patches(config.is_text() ? 0
                                 : real(load.batch) * real(config.num_patches() * config.width)),
        stream(real(load.batch) * real(tokens_of(config, load) * config.width)),
        batch(real(load.batch)) {}
};

double embedding_peak(const Sizes& sizes) {
  const double unfolding = 2 * sizes.pixels + sizes.patches;
  const double joining = sizes.pixels + sizes.patches + 2 * sizes.stream;
  return std::max(unfolding, joining);
}

double attention_peak(const Sizes& sizes, double tokens, double seen, double heads,
                      double head_width) {
  const double inner = sizes.batch * tokens * heads * head_width;
  const double scores = sizes.batch * heads * tokens * seen;
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

std::vector<Kernel> kernels_of_model(const model::ModelConfig& config, const Load& load,
                                     bool with_head) {
  Kernels kernels(config, load);
  model::features(kernels, config);
  if (with_head) kernels.head();
  return kernels.take();
}

std::vector<Kernel> kernels_of_fusion(const model::ModelConfig& teacher,
                                      const std::vector<std::int64_t>& widths, const Load& load) {
  Work work;
  const std::int64_t rows = load.batch * feature_rows(teacher, load.tokens);
  if (widths.size() > model::most_parts_with_subsets) {
    for (const std::int64_t width : widths) {
      work.matmul(rows, width, teacher.width);
      work.add(KernelKind::elementwise, rows, 0, teacher.width);  // into the sum
    }
    work.add(KernelKind::elementwise, rows, 0, teacher.width);  // over those present
  } else {
    std::int64_t together = 0;
    for (const std::int64_t width : widths) together += width;
    if (widths.size() > 1) work.add(KernelKind::elementwise, rows, 0, together);  // side by side
    work.matmul(rows, together, teacher.width);
  }
  add_head(work, teacher, {load.batch, feature_rows(teacher, load.tokens)}, teacher.classes);
  return work.take();
}

std::vector<Kernel> kernels_of_embedding(const model::ModelConfig& config, const Load& load,
                                         model::Range rows) {
  Work work;
  add_embedding(work, config, load, rows);
  return work.take();
}

std::vector<Kernel> kernels_of_head(const model::ModelConfig& config, const Load& feature,
                                    std::int64_t outputs) {
  Work work;
  add_head(work, config, feature, outputs);
  return work.take();
}

std::int64_t feature_rows(const model::ModelConfig& config, std::int64_t tokens) {
  if (config.task == model::Task::masked_lm) return tokens;
  return config.task == model::Task::causal_lm ? 1 : config.summary_tokens;
}

double weight_bytes(const model::ModelConfig& config) {
  return bytes_of_float * real(model::count_parameters(config));
}

double activation_bytes(const model::ModelConfig& config, const Load& load) {
  const Sizes sizes(config, load);
  const double tokens = real(tokens_of(config, load)), seen = real(seen_of(config, load));
  double most = embedding_peak(sizes);
  for (const model::LayerShape& layer : config.layers) {
    if (layer.heads > 0)
      most = std::max(
          most, attention_peak(sizes, tokens, seen, real(layer.heads), real(config.head_width)));
    if (layer.mlp_width > 0)
      most = std::max(most,
                      mlp_peak(sizes, tokens, (config.gated ? 1.5 : 1.0) * real(layer.mlp_width)));
  }
  return bytes_of_float * most;
}

double forward_bytes(const model::ModelConfig& config, const Load& load) {
  return process_bytes(activation_bytes(config, load), load.batch * tokens_of(config, load));
}

double process_bytes(double tensor_bytes, std::int64_t rows) {
  return heap_growth * tensor_bytes + packed_bytes_of_row * real(rows) + first_pass_bytes;
}

double cache_bytes(const model::ModelConfig& config, std::int64_t batch, std::int64_t tokens) {
  double heads = 0;
  for (const model::LayerShape& layer : config.layers) heads += real(layer.heads / config.group);
  return bytes_of_float * 2 * heads * real(config.head_width) * real(batch) * real(tokens);
}

double loading_bytes(const model::ModelConfig& config) {
  double largest = 0;
  for (const model::StoredTensor& stored : model::stored_tensors(config)) {
    double count = 0;
    for (const model::Parameter& part : stored.parts) count += real(part.count());
    const bool taken_apart = stored.transposed || stored.parts.size() > 1;
    largest = std::max(largest, (taken_apart ? 2 : 1) * count);
  }
  return bytes_of_float * largest;
}

}  // namespace cleave::plan
