#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "base/progress.hpp"
#include "calibrate/quality.hpp"
#include "model/dataset.hpp"
#include "model/fusion.hpp"
#include "optimizer/plan/plan.hpp"

namespace cleave::calibrate {

/// One row of `cleave evaluate`.
struct QualityRow {
  std::string what;                  // "teacher", "hub alone", "fused", "without cam"
  std::vector<std::string> present;  // devices that answered
  double value = 0;                  // in the summary's measure
};

struct EvaluateSummary {
  Measure measure;
  std::int64_t size = 0;       // rows of the data set
  std::int64_t shortened = 0;  // see model::Dataset
  std::string split;           // "test" or "train"
  std::filesystem::path data;  // the file or folder that was judged
  base::Remarks remarks;       // of the data, and where nothing is right
  std::vector<QualityRow> rows;
};

/// Pixels [B, c, h, w] or ids [B, N] as a request has them -> what the devices of the plan answer
/// together. Called on several threads.
using Answer = std::function<at::Tensor(const plan::Plan& plan, const at::Tensor& inputs)>;

/// Quality of the teacher (when its folder is given), each sub-model alone, the fused whole and
/// every subset of missing devices. Throws std::invalid_argument where the teacher is not what the
/// bundle was cut from. Features are computed once. `write`: stored in the bundle's
/// measured.json. The tokenizer is the bundle's. Computed on the CPU or an accelerator, by as many
/// threads as said (0: one for each core). Of a plan whose devices share the model and answer only
/// nearly as it does, the quality of what they answer together, by `answer`; of one that answers
/// exactly so, or with the next token alone, throws std::invalid_argument.
EvaluateSummary evaluate(const std::filesystem::path& bundle, const std::filesystem::path& teacher,
                         model::DatasetSource data, bool write,
                         const base::ProgressCallback& progress = {},
                         at::Device compute_device = at::kCPU, int threads = 0,
                         const Answer& answer = {});
/// The same of a model folder: one row.
EvaluateSummary evaluate_model(const std::filesystem::path& model, model::DatasetSource data,
                               at::Device compute_device = at::kCPU, int threads = 0);

}  // namespace cleave::calibrate
