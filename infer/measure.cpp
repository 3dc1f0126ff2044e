#include "infer/measure.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include "infer/engine.hpp"
#include "infer/exchange.hpp"
#include "infer/machine.hpp"
#include "model/memory.hpp"
#include "model/transformer.hpp"

namespace cleave::infer {
namespace {

using at::Tensor;
using model::LayerShape;
using model::ModelConfig;
using plan::Kernel;
using plan::KernelKind;

// --- which shapes ---

/// How much of a model a cut keeps: of the residual width, and of each layer's heads and columns.
struct Cut {
  double width, inner;
};
// The fit sees the first; the error is reported on the second.
constexpr Cut fitted_cuts[] = {{1, 1},   {0.75, 0.75}, {0.5, 0.5},   {0.375, 0.375}, {0.25, 0.25},
                               {1, 0.5}, {0.5, 1},     {0.75, 0.25}, {0.25, 0.5}};
constexpr std::int64_t fewest_shapes = 3;  // of a kind of kernel, for a fit
constexpr std::size_t narrowest_cut = 4;
constexpr Cut held_out_cuts[] = {{0.625, 0.625}, {0.33, 0.33}, {0.66, 0.4}};

std::int64_t share_of(double share, std::int64_t size, std::int64_t step) {
  const double steps = std::round(share * static_cast<double>(size) / static_cast<double>(step));
  return std::min(size, std::max<std::int64_t>(1, static_cast<std::int64_t>(steps)) * step);
}

ModelConfig cut(const ModelConfig& model, Cut keep) {
  ModelConfig part = model;
  part.width = share_of(keep.width, model.width, 8);
  for (LayerShape& layer : part.layers) {
    if (layer.heads > 0) layer.heads = share_of(keep.inner, layer.heads, model.group);
    if (layer.mlp_width > 0) layer.mlp_width = share_of(keep.inner, layer.mlp_width, 8);
  }
  return part;
}

/// A model as published: D, H, N and F = 4·D; images of `side` x `side` in patches.
ModelConfig published(std::int64_t width, std::int64_t side, std::int64_t patch,
                      std::int64_t channels) {
  ModelConfig config;
  config.width = width;
  config.head_width = 64;
  config.layers = {LayerShape{width / 64, 4 * width}};
  config.image_height = config.image_width = side;
  config.patch = patch;
  config.channels = channels;
  config.classes = 1000;
  config.processing.mean.assign(static_cast<std::size_t>(channels), 0.5);
  config.processing.std = config.processing.mean;
  return config;
}

using Key = std::tuple<KernelKind, std::int64_t, std::int64_t, std::int64_t>;
Key key_of(const Kernel& kernel) {
  return {kernel.kind, kernel.rows, kernel.inner, kernel.columns};
}

/// Kernels of models and cuts, each once.
class Shapes {
 public:
  Shapes(std::int64_t batch, std::int64_t tokens) : batch_(batch), tokens_(tokens) {}

  void add_cuts(const ModelConfig& model) {
    for (const Cut keep : fitted_cuts) add(model, cut(model, keep), false);
    for (const Cut keep : held_out_cuts) add(model, cut(model, keep), true);
  }
  /// Whether some kind of kernel occurs, but in fewer shapes than a fit needs (a model of two heads
  /// has only two shapes of attention).
  bool too_few() const {
    std::map<KernelKind, std::int64_t> fitted;
    for (const auto& sample : samples_) fitted[sample.kernel.kind] += sample.held_out ? 0 : 1;
    return std::any_of(fitted.begin(), fitted.end(),
                       [](const auto& kind) { return kind.second < fewest_shapes; });
  }
  std::vector<plan::Sample> take() { return std::move(samples_); }

 private:
  void add(const ModelConfig& whole, const ModelConfig& part, bool held_out) {
    const std::int64_t tokens = whole.is_text() ? std::min(tokens_, whole.context) : 0;
    add(whole, part, {batch_, tokens, 0}, held_out);
    if (whole.causal) add(whole, part, {batch_, 1, tokens - 1}, held_out);  // a step of generation
  }
  void add(const ModelConfig& whole, const ModelConfig& part, const plan::Load& load,
           bool held_out) {
    for (const Kernel& kernel : plan::kernels_of_model(part, load, true)) add(kernel, held_out);
    for (const Kernel& kernel : plan::kernels_of_fusion(whole, {part.width}, load))
      add(kernel, held_out);
  }
  void add(const Kernel& kernel, bool held_out) {
    if (!seen_.insert(key_of(kernel)).second) return;
    plan::Sample sample;
    sample.kernel = kernel;
    sample.held_out = held_out;
    samples_.push_back(sample);
  }

  std::int64_t batch_, tokens_;
  std::set<Key> seen_;
  std::vector<plan::Sample> samples_;
};

/// The narrowest of the cuts, two layers of it: a forward pass that costs little beside its start.
ModelConfig short_model(const ModelConfig& like) {
  ModelConfig narrow = cut(like.width > 0 && !like.is_text() ? like : published(192, 28, 4, 1),
                           fitted_cuts[narrowest_cut]);
  narrow.layers.resize(std::min<std::size_t>(2, narrow.layers.size()));
  return narrow;
}

std::vector<plan::Sample> shapes_to_measure(const MeasureOptions& options) {
  Shapes shapes(options.batch, options.tokens);
  if (options.like.width > 0) {
    shapes.add_cuts(options.like);
    if (shapes.too_few()) shapes.add_cuts(published(192, 28, 4, 1));
  } else {
    shapes.add_cuts(published(192, 28, 4, 1));
    shapes.add_cuts(published(384, 224, 16, 3));
    shapes.add_cuts(published(768, 224, 16, 3));
  }
  return shapes.take();
}

// --- one kernel ---

/// Weights come from memory in a real forward pass, not from the cache that the last run of the
/// same kernel left them in: each run takes the next window of a pool as large as a model.
class WeightPool {
 public:
  explicit WeightPool(double bytes)
      : numbers_(at::empty({static_cast<std::int64_t>(bytes / sizeof(float))})) {
    numbers_.uniform_(-0.05, 0.05);
  }
  Tensor take(std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t alignment = 16;  // floats in 64 bytes
    const std::int64_t count = rows * columns;
    if (next_ + count > numbers_.numel()) next_ = 0;
    const Tensor window = numbers_.narrow(0, next_, count).view({rows, columns});
    next_ += (count + alignment - 1) / alignment * alignment;
    return window;
  }

 private:
  Tensor numbers_;
  std::int64_t next_ = 0;
};

/// The pool holds the model's weights, and any one matrix of the samples.
double pool_bytes(const ModelConfig& like, const std::vector<plan::Sample>& samples) {
  constexpr double general = 64e6, most = 128e6;
  double largest = 0;
  for (const auto& sample : samples)
    largest = std::max(largest, static_cast<double>(sample.kernel.inner * sample.kernel.columns));
  const double wanted = like.width > 0 ? plan::weight_bytes(like) : general;
  return std::max(std::min(wanted, most), sizeof(float) * (largest + 1));
}

/// Runs kernels one at a time, as the model's forward pass does, and takes the time.
class Bench {
 public:
  Bench(const ModelConfig& like, int threads, double pool)
      : activation_(like.activation),
        clock_(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC),
        weights_(pool) {
    norm_.config.norm_eps = 1e-6;
    clock_s_ = empty_seconds();
  }

  /// A whole forward pass as a request finds it: after a pause, with the caches that are near the
  /// core full of other things.
  double seconds_of_request(const model::Transformer& model, const Tensor& pixels,
                            std::chrono::milliseconds pause) {
    disturbance_.add_(1);
    std::this_thread::sleep_for(pause);
    return timed([&] { model::features(model, model::normalise_pixels(model.config, pixels)); });
  }

  /// A model whose weights lie in the pool.
  model::Transformer pooled_model(const ModelConfig& config) {
    model::Transformer model;
    model.config = config;
    for (const auto& parameter : model::parameters(config))
      model.tensors[parameter.name] = weights_.take(1, parameter.count()).view(parameter.dims());
    return model;
  }

  double seconds(const Kernel& kernel) {
    switch (kernel.kind) {
      case KernelKind::matmul:
        return matmul_seconds(kernel);
      case KernelKind::attention:
        return attention_seconds(kernel);
      case KernelKind::norm:
        return norm_seconds(kernel);
      case KernelKind::activation:
        return activation_seconds(kernel);
      case KernelKind::elementwise:
        return elementwise_seconds(kernel);
    }
    throw std::logic_error("unknown kind of kernel");
  }

 private:
  double now() const {
    timespec time{};
    clock_gettime(clock_, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  /// Freeing the result is part of the kernel.
  template <typename Work>
  double timed(const Work& work) const {
    const double start = now();
    work();
    return std::max(1e-9, now() - start - clock_s_);
  }

  double empty_seconds() const {
    double least = 1;
    for (int i = 0; i < 100; ++i) {
      const double start = now();
      least = std::min(least, now() - start);
    }
    return least;
  }

  double matmul_seconds(const Kernel& kernel) {
    const Tensor x = at::ones({1, kernel.rows, kernel.inner});
    const Tensor weight = weights_.take(kernel.columns, kernel.inner);
    const Tensor bias = weights_.take(1, kernel.columns).view({kernel.columns});
    return timed([&] { model::linear(x, weight, &bias); });
  }

  /// rows = B·H·N of one image or more; N = columns. Heads come apart and together again as in the
  /// forward pass.
  double attention_seconds(const Kernel& kernel) const {
    const std::int64_t heads = kernel.rows / kernel.columns;
    const auto flat = [&] { return at::ones({1, kernel.columns, heads * kernel.inner}); };
    const auto split = [&](const Tensor& x) {
      return x.unflatten(2, {heads, kernel.inner}).transpose(1, 2);
    };
    const Tensor q = flat(), k = flat(), v = flat();
    return timed([&] { model::attend(split(q), split(k), split(v)); });
  }

  double norm_seconds(const Kernel& kernel) {
    const Tensor x = at::ones({1, kernel.rows, kernel.columns});
    norm_.tensors["norm.weight"] = at::ones({kernel.columns});
    norm_.tensors["norm.bias"] = at::zeros({kernel.columns});
    return timed([&] { model::norm(norm_, "norm", x); });
  }

  double activation_seconds(const Kernel& kernel) const {
    const Tensor x = at::ones({1, kernel.rows, kernel.columns});
    switch (activation_) {
      case model::Activation::gelu:
        return timed([&] { at::gelu(x); });
      case model::Activation::gelu_tanh:
        return timed([&] { at::gelu(x, "tanh"); });
      case model::Activation::relu:
        return timed([&] { at::relu(x); });
      case model::Activation::silu:
        return timed([&] { at::silu(x); });
    }
    throw std::logic_error("unknown activation");
  }

  double elementwise_seconds(const Kernel& kernel) const {
    const Tensor x = at::ones({1, kernel.rows, kernel.columns});
    const Tensor y = at::ones({1, kernel.rows, kernel.columns});
    return timed([&] { x.add(y); });
  }

  model::Activation activation_;
  clockid_t clock_;
  WeightPool weights_;
  Tensor disturbance_ = at::zeros({4 << 20});  // 16 MB: what other processes go through meanwhile
  model::Transformer norm_;
  double clock_s_ = 0;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double seconds_of(const std::vector<Kernel>& kernels, const std::vector<plan::Sample>& samples) {
  double seconds = 0;
  for (const Kernel& kernel : kernels)
    for (const auto& sample : samples)
      if (key_of(sample.kernel) == key_of(kernel)) seconds += sample.seconds;
  return seconds;
}

/// Rounds over all kernels, so that each runs as cold as it does between the others, and over a
/// short forward pass as a request finds it. The first round warms up.
class Rounds {
 public:
  Rounds(const MeasureOptions& options, std::vector<plan::Sample> samples)
      : options_(options),
        samples_(std::move(samples)),
        seconds_(samples_.size()),
        bench_(options.like, options.threads, pool_bytes(options.like, samples_)),
        request_config_(short_model(options.like)) {}

  void run(const base::ProgressCallback& progress) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration<double>(options_.max_time_s);
    for (int round = 0; round <= options_.repetitions; ++round) {
      if (round > 1 && Clock::now() > end) break;
      if (progress && !progress({"profile", round, options_.repetitions + 1, ""})) {
        if (round < 2) throw std::runtime_error("[profile] stopped before anything was measured");
        break;
      }
      run_once(round > 0);
    }
    for (std::size_t i = 0; i < samples_.size(); ++i) samples_[i].seconds = median(seconds_[i]);
  }

  /// What a request's forward pass costs beside its kernels: the first touch of code and data that
  /// others drove out.
  double start_seconds() const {
    const auto kernels = plan::kernels_of_model(request_config_, {options_.batch, 0, 0}, false);
    return std::max(0.0, median(request_s_) - seconds_of(kernels, samples_));
  }
  /// What it costs more after the longer pause.
  double wake_seconds() const { return std::max(0.0, median(woken_s_) - median(request_s_)); }
  std::vector<plan::Sample> take_samples() { return std::move(samples_); }

 private:
  static constexpr std::chrono::milliseconds short_pause{2}, long_pause{20};

  void run_once(bool counts) {
    const Tensor pixels = at::zeros({options_.batch, request_config_.channels,
                                     request_config_.image_height, request_config_.image_width},
                                    at::kByte);
    const auto model = bench_.pooled_model(request_config_);
    const double request_s = bench_.seconds_of_request(model, pixels, short_pause),
                 woken_s = bench_.seconds_of_request(model, pixels, long_pause);
    if (counts) {
      request_s_.push_back(request_s);
      woken_s_.push_back(woken_s);
    }
    for (std::size_t i = 0; i < samples_.size(); ++i) {
      const double once_s = bench_.seconds(samples_[i].kernel);
      if (counts) seconds_[i].push_back(once_s);
    }
  }

  const MeasureOptions& options_;
  std::vector<plan::Sample> samples_;
  std::vector<std::vector<double>> seconds_;
  std::vector<double> request_s_, woken_s_;
  Bench bench_;
  ModelConfig request_config_;
};

}  // namespace

double measure_runtime_bytes() {
  constexpr std::int64_t rows = 64, inner = 512, columns = 2048;  // fills BLAS' own buffers
  const c10::InferenceMode no_gradients;
  model::keep_memory_compact();
  model::linear(at::ones({1, rows, inner}), at::ones({columns, inner}), nullptr);
  model::return_free_memory();
  return resident_memory_bytes();
}

void MeasureOptions::check() const {
  const auto needs = [](const std::string& field, auto saw, const std::string& what) {
    throw std::invalid_argument("[measure] " + field + ": saw " + std::to_string(saw) + ", needs " +
                                what);
  };
  if (batch < 1) needs("batch", batch, "1 or more");
  if (threads < 1) needs("threads", threads, "1 or more");
  if (repetitions < 1) needs("repetitions", repetitions, "1 or more");
  if (!(max_time_s > 0)) needs("max_time_s", max_time_s, "a number above 0");
}

plan::Profile measure(const MeasureOptions& options, const base::ProgressCallback& progress) {
  options.check();
  const c10::InferenceMode no_gradients;
  model::keep_memory_compact();
  set_threads(options.threads);
  plan::Profile profile;
  profile.machine = machine_name() + ", " + std::to_string(options.threads) +
                    (options.threads == 1 ? " thread" : " threads");
  profile.runtime_bytes = measure_runtime_bytes();
  const MessageCost message = message_cost();
  profile.cost.message_s = message.seconds;
  profile.cost.message_s_per_byte = message.seconds_per_byte;
  Rounds rounds(options, shapes_to_measure(options));
  rounds.run(progress);
  profile.cost.instruction_s = hand_over_seconds() + rounds.start_seconds();
  profile.cost.wake_s = rounds.wake_seconds();
  profile.samples = rounds.take_samples();
  return profile;
}

}  // namespace cleave::infer
