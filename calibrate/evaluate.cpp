#include "calibrate/evaluate.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include "calibrate/forward.hpp"
#include "calibrate/fused.hpp"
#include "calibrate/lanes.hpp"
#include "model/checkpoint.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::calibrate {
namespace {

std::int64_t count_right(const model::Transformer& model, const model::Dataset& data, Slice slice,
                         std::int64_t batch) {
  const c10::InferenceMode inference;
  std::int64_t right = 0;
  for (std::int64_t begin = slice.begin; begin < slice.end; begin += batch) {
    const std::int64_t size = std::min(batch, slice.end - begin);
    const at::Tensor pixels =
        model::normalise_pixels(model.config, data.images.narrow(0, begin, size));
    const at::Tensor answers = model::classify(model, summary_features(model, pixels)).argmax(-1);
    right += answers.eq(data.labels.narrow(0, begin, size)).sum().item<std::int64_t>();
  }
  return right;
}

double share(std::int64_t right, std::int64_t images) {
  if (images == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(right) / static_cast<double>(images);
}

/// Above this many parts only the answers of one part, all, and all but one are looked at.
constexpr std::size_t most_parts_for_all_subsets = 8;

std::string row_name(const std::vector<std::string>& devices, const Presence& present) {
  std::string only, missing;
  for (std::size_t p = 0; p < devices.size(); ++p) {
    if (present[p]) only = devices[p];
    if (!present[p]) missing += (missing.empty() ? "" : ", ") + devices[p];
  }
  if (missing.empty()) return "fused";
  const auto count = std::count(present.begin(), present.end(), true);
  return count == 1 ? only + " alone" : "without " + missing;
}

/// Each part alone, then all, then ever more missing.
std::vector<Presence> subsets(std::size_t parts) {
  std::vector<Presence> found;
  const auto add = [&](std::size_t count) {
    Presence present(parts, false);
    std::fill(present.begin(), present.begin() + static_cast<std::ptrdiff_t>(count), true);
    do found.push_back(present);
    while (std::prev_permutation(present.begin(), present.end()));
  };
  if (parts > 1) add(1);
  add(parts);
  for (std::size_t count = parts - 1; parts > 1 && count > 1; --count)
    if (parts <= most_parts_for_all_subsets || count == parts - 1) add(count);
  return found;
}

void add_row(EvaluateSummary& summary, std::string what, std::vector<std::string> present,
             double accuracy) {
  summary.rows.push_back({std::move(what), std::move(present), accuracy});
}

void evaluate_fused(const plan::Bundle& bundle, const plan::Plan& plan, const model::Dataset& data,
                    Lanes& lanes, const base::ProgressCallback& progress,
                    EvaluateSummary& summary) {
  const FusedModel model = load_fused(bundle, plan, model::Compute::f32);
  const auto report = [&](std::int64_t done) {
    return !progress || progress({"evaluate", done, data.size(), ""});
  };
  const auto features = features_of(model, data.images, lanes, report);
  if (features.empty()) throw std::runtime_error("[evaluate] stopped on request");
  std::vector<std::string> devices;
  for (const auto& part : plan.parts) devices.push_back(part.device);
  for (const Presence& present : subsets(devices.size())) {
    std::vector<std::string> answered;
    for (std::size_t p = 0; p < devices.size(); ++p)
      if (present[p]) answered.push_back(devices[p]);
    add_row(summary, row_name(devices, present), answered,
            share_right(fused_logits(model.fusion, features, present), data.labels));
  }
}

nlohmann::json to_json(const EvaluateSummary& summary, const plan::Bundle& bundle,
                       const model::DatasetSource& data) {
  nlohmann::json rows = nlohmann::json::array();
  for (const AccuracyRow& row : summary.rows)
    rows.push_back({{"what", row.what}, {"present", row.present}, {"accuracy", row.accuracy}});
  return {{"bundle", bundle.identity()},
          {"split", data.split},
          {"images", summary.images},
          {"rows", rows}};
}

}  // namespace

double accuracy(const model::Transformer& model, const model::Dataset& data, std::int64_t batch) {
  return share(count_right(model, data, {0, data.size()}, batch), data.size());
}

double accuracy(const model::Transformer& model, const model::Dataset& data, Lanes& lanes,
                std::int64_t batch) {
  const std::int64_t pieces = (data.size() + batch - 1) / batch;
  std::vector<std::int64_t> right(static_cast<std::size_t>(pieces), 0);
  lanes.run(pieces, [&](std::int64_t piece) {
    right[static_cast<std::size_t>(piece)] =
        count_right(model, data, slice_of(data.size(), piece, pieces), batch);
  });
  return share(std::accumulate(right.begin(), right.end(), std::int64_t{0}), data.size());
}

EvaluateSummary evaluate(const std::filesystem::path& folder, const std::filesystem::path& teacher,
                         const model::DatasetSource& source, bool write,
                         const base::ProgressCallback& progress) {
  const plan::Bundle bundle(folder);
  const plan::Plan plan = bundle.plan();
  bundle.verify("parts/" + plan.name);
  const model::Dataset data = model::read_dataset(source, plan.teacher);
  if (data.size() == 0)
    throw std::runtime_error("[" + source.path.string() +
                             "] evaluate: saw no image, needs at least 1");
  Lanes lanes(0);
  EvaluateSummary summary;
  summary.images = data.size();
  if (!teacher.empty())
    add_row(summary, "teacher", {}, accuracy(model::load(teacher), data, lanes));
  if (std::filesystem::exists(bundle.fusion_path(plan))) {
    bundle.verify("fusion/" + plan.name);
    evaluate_fused(bundle, plan, data, lanes, progress, summary);
  } else {
    const std::string& device = plan.parts.at(0).device;
    add_row(summary, device + " alone", {device},
            accuracy(model::load(bundle.part_path(plan, device)), data, lanes));
  }
  if (write) plan::write_measured(folder, "accuracy", to_json(summary, bundle, source));
  return summary;
}

}  // namespace cleave::calibrate
