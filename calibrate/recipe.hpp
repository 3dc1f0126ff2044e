#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/dataset.hpp"
#include "model/transformer.hpp"

namespace cleave::calibrate {

/// Where training data comes from and which part of it decides about hyper-parameters.
struct DataRecipe {
  std::string format = "auto";
  std::filesystem::path path;
  std::int64_t train_limit = 0;      // 0: all
  std::int64_t validation = 0;       // images of the training data, its last, kept for choosing; 0: none
  bool flip = true;                  // mirror left-right at random
  std::int64_t shift = 2;            // pixels, at random, both directions
};

/// Learning rate: linear warm-up over `warmup_epochs`, then cosine to 0.
struct Schedule {
  int epochs = 1;
  std::int64_t batch = 128;
  double learning_rate = 1e-3;
  double weight_decay = 0.05;
  double warmup_epochs = 0.5;
  double label_smoothing = 0;
  double clip_norm = 1;
};

/// `cleave train`: a plain training run.
struct TrainRecipe {
  DataRecipe data;
  model::ModelConfig model;
  Schedule schedule;
  model::Compute compute = model::Compute::f32;
  double mixup = 0;
  /// Exponential moving average of the weights; 0: off.
  double ema = 0;
  int threads = 0;  // 0: as many as the machine has
  std::uint64_t seed = 1;
};

/// `cleave calibrate`: design.md section 9. A stage with 0 epochs is left out.
struct CalibrateRecipe {
  DataRecipe data;
  model::Compute compute = model::Compute::f32;
  /// (a) each sub-model alone.
  struct Alone {
    Schedule schedule;
    double labels = 0.5, soft_targets = 0.5, relations = 0.1, features = 0.5;
    double temperature = 2;
  } alone;
  /// (b) sub-model n learns what the fused first n−1 still get wrong.
  struct Boost {
    Schedule schedule;
    /// Exponent of the weight that a sample gets from the error of the fused first n−1.
    double focus = 1;
  } boost;
  /// (c) fusion head with all sub-models, (d) with random devices absent in this share of the batches.
  struct Joint {
    Schedule schedule;
    double labels = 0.5, soft_targets = 0.5, features = 1;
    double temperature = 2;
    double device_dropout = 0.3;
  } joint;
  /// (d) alone: only the fusion head moves.
  struct Head {
    Schedule schedule;
    double device_dropout = 0.5;
  } head;
  /// Teacher outputs are cached for this many augmented views of each image (and the image as it is).
  int views = 1;
  int threads = 0;
  std::uint64_t seed = 1;
  /// Fused validation accuracy (points below the teacher) above which the run counts as below target; 0: none.
  double target_loss_points = 0;
};

/// Reads a recipe (format 1). A misspelt key names the nearest one. Throws std::runtime_error with file and field. Relative
/// data paths are taken from the recipe's folder; `${VAR}` is not expanded.
TrainRecipe read_train_recipe(const std::filesystem::path& path);
CalibrateRecipe read_calibrate_recipe(const std::filesystem::path& path);

}  // namespace cleave::calibrate
