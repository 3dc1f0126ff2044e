#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.hpp"
#include "model/dataset.hpp"
#include "model/fusion.hpp"

namespace cleave::calibrate {

/// One row of `cleave evaluate`.
struct AccuracyRow {
  std::string what;                  // "teacher", "hub alone", "fused", "without cam"
  std::vector<std::string> present;  // devices that answered
  double accuracy = 0;               // 0..1
};

struct EvaluateSummary {
  std::int64_t images = 0;
  std::vector<AccuracyRow> rows;
};

/// Accuracy of the teacher (when its folder is given), each sub-model alone, the fused whole and
/// every subset of missing devices. Features are computed once. `write`: stored in the bundle's
/// measured.json.
EvaluateSummary evaluate(const std::filesystem::path& bundle, const std::filesystem::path& teacher,
                         const model::DatasetSource& data, bool write,
                         const base::ProgressCallback& progress = {});

class Lanes;

/// Share of right answers of one model, 0..1; NaN without images.
double accuracy(const model::Transformer& model, const model::Dataset& data,
                std::int64_t batch = 256);
/// The same, with the images shared out among the lanes.
double accuracy(const model::Transformer& model, const model::Dataset& data, Lanes& lanes,
                std::int64_t batch = 64);

}  // namespace cleave::calibrate
