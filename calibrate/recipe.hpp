#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::calibrate {

/// How rows of the data are changed at random.
struct Augmentation {
  /// Of images, which show what they showed before.
  bool flip = true;        // mirror left-right
  std::int64_t shift = 2;  // pixels, both directions; what comes in is 0
  /// Share of texts that become the beginning of one and the end of another: more to ask a teacher
  /// than there are texts, though nobody knows their labels.
  double splice = 0;
};

/// Which rows are held out for validation. stratified: every class by its share, by a draw that is
/// a function of the labels alone (model/draw.hpp); of running text the last windows. last: the
/// last rows, as they lie in the files; where these are sorted by class, that is the last class
/// alone.
enum class SplitBy { stratified, last };

/// Where training data comes from and which part of it decides about hyper-parameters.
struct DataRecipe {
  std::string format = "auto";
  std::filesystem::path path;
  /// Rows (images, texts, windows of text) learned from, chosen as those held out are, or the first
  /// ones; 0: all but those held out.
  std::int64_t train_limit = 0;
  /// Rows of the training data held out for choosing; 0: none.
  std::int64_t validation = 0;
  SplitBy split = SplitBy::stratified;
  Augmentation augmentation;
  /// Most tokens of a text, or those of a window of running text; 0: the model's context.
  std::int64_t length = 0;
  /// As the caller wants it, not in the file; see model::DatasetSource.
  bool lossy = false;
  /// See model::DatasetSource.
  bool exif_rotation = false;
};

/// What moves the matrices of the blocks; AdamW moves all else. Muon (Jordan and others 2024)
/// learns in fewer epochs, a step of it costs more.
enum class Optimizer { adamw, muon };

/// Learning rate: linear warm-up over `warmup_epochs`, then cosine to 0.
struct Schedule {
  /// 0: a stage that is left out.
  int epochs = 0;
  Optimizer optimizer = Optimizer::adamw;
  std::int64_t batch = 128;
  double learning_rate = 1e-3;
  double weight_decay = 0.05;
  double warmup_epochs = 0.5;
  double label_smoothing = 0;
  /// Largest norm of the gradient over all weights that move; 0: no clipping.
  double clip_norm = 1;
  /// Throws std::invalid_argument "[recipe] joint.batch: saw 0, needs at least 1".
  void check(const std::string& section) const;
};

/// `cleave train`: a plain training run, of a new model or (with `start`) of one that is there.
struct TrainRecipe {
  DataRecipe data;
  model::ModelConfig model;
  /// A model folder whose weights are the start; what it has not begins at random. Empty: all does.
  std::filesystem::path start;
  /// Of texts: the folder of a tokenizer, or empty for one whose tokens are the bytes.
  std::filesystem::path tokenizer;
  Schedule schedule;
  /// bf16 where it is faster; see number_format().
  model::Compute compute = model::Compute::f32;
  double mixup = 0;
  /// The loss reads the logits times this, so that answers are softer by as much where it is above
  /// 1: of what was not learned from, a model is too sure (Guo and others 2017).
  double temperature = 1;
  /// Share of what each half of a block adds that is left out at random.
  double dropout = 0;
  /// Exponential moving average of the weights; 0: off.
  double ema = 0;
  int threads = 0;  // 0: as many as the machine has
  std::uint64_t seed = 1;
  /// Throws std::invalid_argument; a recipe that was read from a file has been checked.
  void check() const;
};

/// `cleave calibrate`: design.md section 9. A stage with 0 epochs is left out. Every loss is a
/// weighted sum of
///   labels        cross-entropy with the labels
///   soft_targets  T² · KL(softmax(teacher / T) ‖ softmax(answer / T)), T = temperature
///   features      mean squared distance to the teacher's feature (normalised class token)
///   tokens        the same for every token, class token or not; the teacher is asked in each step
struct CalibrateRecipe {
  DataRecipe data;
  model::Compute compute = model::Compute::f32;  // as in TrainRecipe
  /// (a) each sub-model alone, answering through its own column of the fusion head.
  struct Alone {
    Schedule schedule;
    double labels = 0.5, soft_targets = 0.5, features = 0.5, tokens = 0;
    /// KL between the row softmaxes of the teacher's and the part's relation matrices X·Xᵀ/√K of
    /// queries, keys and values at the middle layer, weighted 0.2, 0.1, 0.3 as DEKD does; needs the
    /// teacher's forward pass up to there. 0: off.
    double relations = 0.1;
    double temperature = 2;
  } alone;
  /// (b) sub-model n learns what the fused first n−1, frozen, still get wrong.
  struct Boost {
    Schedule schedule;
    double labels = 0.5, soft_targets = 0.5, features = 0.5;
    double temperature = 2;
    /// A sample weighs 1/2 + w/2 with w = (1 − p)^focus / mean, p the probability that the fused
    /// first n−1 give its label: half of the attention stays even, so that a few mislabelled
    /// samples do not get all of it.
    double focus = 1;
  } boost;
  /// (c) fusion head with all sub-models, with (d) answers of random non-empty subsets of the
  /// devices as this share of the loss: what all devices computed answers once whole and once with
  /// some absent.
  struct Joint {
    Schedule schedule;
    double labels = 0.5, soft_targets = 0.5, features = 1, tokens = 0;
    double temperature = 2;
    double device_dropout = 0.3;
  } joint;
  /// (d) alone: only the fusion head moves.
  Joint head = {{}, 0.5, 0.5, 1, 0, 2, 0.5};
  /// Teacher outputs are cached for this many views of each image: the image as it is, then
  /// augmented ones. Epochs go through the views in turn.
  int views = 1;
  int threads = 0;
  std::uint64_t seed = 1;
  /// Fused validation accuracy (points below the teacher) above which the run counts as below
  /// target; 0: none.
  double target_loss_points = 0;
  /// Throws std::invalid_argument, as TrainRecipe::check() does.
  void check() const;
};

/// Reads a recipe (format 1). A misspelt key names the nearest one. Throws std::runtime_error with
/// file and field. Relative data paths are taken from the recipe's folder; `${VAR}` is not
/// expanded. `start` stands for the model folder that a recipe starts from, where it is given.
TrainRecipe read_train_recipe(const std::filesystem::path& path,
                              const std::filesystem::path& start = {});
CalibrateRecipe read_calibrate_recipe(const std::filesystem::path& path);
/// The same from text; `path` is where it stands.
TrainRecipe train_recipe_from_toml(const std::string& text, const std::filesystem::path& path,
                                   const std::filesystem::path& start = {});
CalibrateRecipe calibrate_recipe_from_toml(const std::string& text,
                                           const std::filesystem::path& path);

}  // namespace cleave::calibrate
