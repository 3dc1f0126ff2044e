#pragma once

#include <filesystem>
#include <vector>

#include "base/progress.hpp"
#include "base/remark.hpp"
#include "calibrate/group.hpp"
#include "calibrate/quality.hpp"
#include "calibrate/recipe.hpp"

namespace cleave::calibrate {

struct EpochRecord {
  std::string stage;
  int epoch = 0;
  double loss = 0;
  double validation = 0;  // the task's measure; NaN where there is no validation split
  double seconds = 0;
};

struct TrainSummary {
  bool finished = false;  // false: stopped by the callback, resumable
  std::vector<EpochRecord> epochs;
  Measure measure;
  model::Compute compute = model::Compute::f32;  // what this call computed in; see number_format()
  double test = 0;                               // on the test split; the leader's alone
  std::int64_t shortened = 0;  // of the training and the test file; see model::Dataset
  base::Remarks remarks;       // each has been said to the callback too
  std::string message;
};

/// Trains a model from random weights, or on from those of a checkpoint, and writes the folder
/// `out` (model.safetensors whole or not at all). Checkpoints every epoch (and when progress
/// returns false) under `out`/.work/, with optimizer, shuffling and random state: killed anywhere,
/// the same call resumes to the same weights, byte for byte (on a CPU, in the same number format).
/// One JSON line an epoch is appended to `out`/training.jsonl. The test split is read at the start,
/// so that what is wrong with it is said then, and judged once, at the end; not at all where it has
/// classes that the training data have not. The model keeps the names of its classes, which are the
/// data's where the recipe names none, and which rows were held out. Of a group, every
/// process needs the data and the start; the leader writes. Computed on `compute_device`, see
/// device_of(). A model that another recipe, or somebody else, made is replaced only with `force`,
/// and stays whole until the new one is there. One run at a time works in `out`: a second is
/// refused with the first one's process (base/lock.hpp).
TrainSummary train(const TrainRecipe& recipe, const std::filesystem::path& out,
                   const base::ProgressCallback& progress = {}, const Group& group = Group(),
                   at::Device compute_device = at::kCPU, bool force = false);

}  // namespace cleave::calibrate
