#pragma once

#include <filesystem>

#include "calibrate/quality.hpp"
#include "calibrate/train.hpp"

namespace cleave::calibrate {

struct CalibrateSummary {
  bool finished = false;
  std::vector<EpochRecord> epochs;
  Measure measure;
  model::Compute compute = model::Compute::f32;  // what this call computed in; see number_format()
  /// What each stage brought: fused validation quality before and after it (the ablation table). Of
  /// parts that were fitted it begins with "cut" (before the fit; nothing is before that), "fit"
  /// and "closed-form head".
  struct Stage {
    std::string name;
    double before = 0, after = 0, seconds = 0;
  };
  std::vector<Stage> stages;
  /// On the validation split; NaN without one. `start`: fused, before the first step; `fused`:
  /// after the last one.
  double teacher_quality = 0, start_quality = 0, fused_quality = 0;
  /// It ended worse than it began: the bundle keeps the weights that it had.
  bool rejected = false;
  std::int64_t shortened = 0;  // of the training file; see model::Dataset
  base::Remarks remarks;       // each has been said to the callback too
  /// The recipe's target_loss_points was missed.
  bool below_target = false;
  std::string message;
};

/// Restores the accuracy of a bundle's plan by distillation from `teacher` (a model folder), stages
/// (a)-(d) of the recipe. Teacher outputs are cached in .work/, those of a language model (one for
/// every token) are computed as they are needed; checkpoint every epoch; resumes to
/// the same weights, byte for byte (on a CPU, in the same number format). Parts, fusion and
/// manifest are rewritten at the end, the manifest last, the parts with the rows that were held
/// out; a teacher that learned from some of these is warned of; calibration.jsonl gets a line an
/// epoch. Where the fused answer ends worse on the validation split than it began, the bundle keeps
/// its weights. All processes of a group hear the same outcome. Computed on `compute_device`, see
/// device_of(). `force` gives up the unfinished calibration of another recipe, or, where no
/// validation split can tell which is better, the finished one. One run at a time works in a
/// bundle: a second is refused with the first one's process (base/lock.hpp). What is damaged in
/// .work/ is refused, and nothing changes.
CalibrateSummary calibrate(const std::filesystem::path& bundle,
                           const std::filesystem::path& teacher, const CalibrateRecipe& recipe,
                           const base::ProgressCallback& progress = {},
                           const Group& group = Group(), at::Device compute_device = at::kCPU,
                           bool force = false);

}  // namespace cleave::calibrate
