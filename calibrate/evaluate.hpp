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

namespace cleave::calibrate {

/// One row of `cleave evaluate`.
struct QualityRow {
  std::string what;  // "teacher", "hub alone", "fused", "without cam"; of shares "together"
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

/// What the devices of the bundle's plan answer together, where they share the teacher: of images
/// uint8 [b, c, h, w] or ids int32 [b, N]; of a causal language model for every token [b, N, V].
/// Whoever can run programs brings it.
using RunTogether = std::function<at::Tensor(const at::Tensor& inputs)>;

/// Quality of the teacher (when its folder is given), each sub-model alone, the fused whole and
/// every subset of missing devices; of a plan whose devices share the teacher that of all together,
/// of which `run_together` must be given. Throws std::invalid_argument where the teacher is not
/// what the bundle was cut from. Features are computed once. `write`: stored in the bundle's
/// measured.json. The tokenizer is the bundle's. Computed on the CPU or an accelerator, by as many
/// threads as said (0: one for each core).
EvaluateSummary evaluate(const std::filesystem::path& bundle, const std::filesystem::path& teacher,
                         model::DatasetSource data, bool write,
                         const base::ProgressCallback& progress = {},
                         at::Device compute_device = at::kCPU, int threads = 0,
                         const RunTogether& run_together = {});
/// The same of a model folder: one row.
EvaluateSummary evaluate_model(const std::filesystem::path& model, model::DatasetSource data,
                               at::Device compute_device = at::kCPU, int threads = 0);

}  // namespace cleave::calibrate
