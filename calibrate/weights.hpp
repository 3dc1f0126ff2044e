#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "calibrate/group.hpp"
#include "calibrate/recipe.hpp"
#include "model/lanes.hpp"

namespace cleave::calibrate {

struct StepOptions {
  Optimizer optimizer = Optimizer::adamw;
  double weight_decay = 0.05;  // decoupled; of matrices, not of biases, norms, tokens and positions
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double momentum = 0.95;                        // Muon's
  model::Compute compute = model::Compute::f32;  // of Muon's products
  double clip_norm = 1;                          // 0: none
  double ema = 0;                                // 0: none
};

/// Tensors that training moves, with AdamW (Loshchilov and Hutter 2019), or the matrices of blocks
/// with Muon (Jordan and others 2024) and only the rest with AdamW.
///
/// Each piece of a batch has its own leaf tensors over the same weights, so that pieces are
/// differentiated independently; step() sums their gradients in order, then over the group. A step
/// is the same to the bit each time, on any number of lanes.
class Weights {
 public:
  /// Takes over named fp32 tensors, wherever they lie: the pointers then share memory with this.
  explicit Weights(const std::vector<std::pair<std::string, at::Tensor*>>& tensors,
                   Group group = Group());

  /// Makes `tensors` (a piece's own copies of the model's handles, same order) leaves whose
  /// gradients are the piece's.
  void bind(std::int64_t piece, const std::vector<at::Tensor*>& tensors);
  /// Only tensors whose name `moves` accepts move from here on; moments, average and step count
  /// start anew.
  void start(const StepOptions& options, const std::function<bool(const std::string&)>& moves);
  /// One step along the gradients that the pieces have gathered since the last one, which are then
  /// dropped. Returns the norm of the gradient before clipping.
  double step(model::Lanes& lanes, double learning_rate);

  /// Everything that a checkpoint must hold, by name: "weight.<name>" of all, "first.", "second.",
  /// "average." of those that move, where they have one. The tensors share memory with this: copy
  /// into them to restore.
  std::map<std::string, at::Tensor> state() const;
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }

  /// Exchanges weights and their moving average, where there is one: for judging and saving the
  /// average.
  void swap_average();

 private:
  struct Entry {
    std::string name;
    at::Tensor value, first, second, average;
    bool moves = false, by_muon = false;
    std::vector<at::Tensor> leaves;  // by piece
  };
  double sum_gradients(model::Lanes& lanes);
  void sum_over_group();
  void update(Entry& entry, double learning_rate, double scale) const;
  void adamw_step(Entry& entry, const at::Tensor& gradient, double learning_rate) const;
  void muon_step(Entry& entry, const at::Tensor& gradient, double learning_rate) const;

  Group group_;
  std::vector<Entry> entries_;
  StepOptions options_;
  std::int64_t steps_ = 0;
};

/// Roughly the orthogonal matrix nearest to `x`: five Newton-Schulz steps with Jordan's
/// coefficients bring singular values near 1 (0.7 … 1.2; those below a hundredth of the norm not
/// all the way). [rows, columns] -> the same.
at::Tensor orthogonalised(const at::Tensor& x, model::Compute compute);

/// Learning rate at `progress` epochs: linear warm-up from 0, then half a cosine down to 0.
double learning_rate_at(double progress, double peak, double warmup_epochs, double epochs);

}  // namespace cleave::calibrate
