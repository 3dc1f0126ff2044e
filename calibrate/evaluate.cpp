#include "calibrate/evaluate.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include "calibrate/forward.hpp"
#include "calibrate/fused.hpp"
#include "calibrate/split.hpp"
#include "model/checkpoint.hpp"
#include "model/lanes.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::calibrate {
namespace {

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

model::Transformer loaded(const std::filesystem::path& folder, at::Device compute_device) {
  model::Transformer model = model::load(folder);
  model.move_to(compute_device);
  return model;
}

void add_row(EvaluateSummary& summary, std::string what, std::vector<std::string> present,
             double value) {
  summary.rows.push_back({std::move(what), std::move(present), value});
}

/// The row of the whole: the model, or all parts that there are.
void add_whole(EvaluateSummary& summary, std::string what, std::vector<std::string> present,
               double value) {
  add_row(summary, std::move(what), std::move(present), value);
  for (const auto& remark : nothing_right(summary.measure, value, summary.split))
    summary.remarks.push_back(remark);
}

void evaluate_fused(const plan::Bundle& bundle, const plan::Plan& plan, const model::Dataset& data,
                    model::Lanes& lanes, const base::ProgressCallback& progress,
                    at::Device compute_device, EvaluateSummary& summary) {
  FusedModel model = load_fused(bundle, plan, model::Compute::f32);
  model.move_to(compute_device);
  const auto report = [&](std::int64_t done) {
    return !progress || progress({"evaluate", done, data.size(), ""});
  };
  std::vector<std::string> devices;
  for (const auto& part : plan.parts) devices.push_back(part.device);
  const auto rows = subsets(devices.size());
  const auto answer = [&](const at::Tensor& inputs) {
    const auto features =
        features_of(model, model::inputs_of(plan.teacher, inputs).to(compute_device));
    std::vector<at::Tensor> answers;
    for (const Presence& present : rows)
      answers.push_back(fused_answer(model.fusion, features, present));
    return answers;
  };
  const auto found = qualities(plan.teacher, data, rows.size(), answer, lanes, report);
  if (found.empty()) throw std::runtime_error("[evaluate] stopped on request");
  for (std::size_t row = 0; row < rows.size(); ++row) {
    std::vector<std::string> answered;
    for (std::size_t p = 0; p < devices.size(); ++p)
      if (rows[row][p]) answered.push_back(devices[p]);
    const auto add = answered.size() == devices.size() ? add_whole : add_row;
    add(summary, row_name(devices, rows[row]), answered, found[row]);
  }
}

/// What the plan's devices answer together, as they do for requests: on one thread, as engines run.
void evaluate_together(const plan::Plan& plan, const model::Dataset& data, const RunTogether& run,
                       const base::ProgressCallback& progress, EvaluateSummary& summary) {
  const bool text = plan.teacher.is_text();
  const auto answer = [&](const at::Tensor& rows) {
    return std::vector<at::Tensor>{run(text ? model::inputs_of(plan.teacher, rows) : rows)};
  };
  model::Lanes lane(1);
  const auto found = qualities(plan.teacher, data, 1, answer, lane, [&](std::int64_t done) {
    return !progress || progress({"evaluate", done, data.size(), ""});
  });
  if (found.empty()) throw std::runtime_error("[evaluate] stopped on request");
  add_whole(summary, "together", plan::devices_of(plan), found.front());
}

/// Without its rows. Texts in pairs count as pairs.
EvaluateSummary summary_of(const model::ModelConfig& config, const model::Dataset& data,
                           const std::string& split) {
  EvaluateSummary summary;
  summary.measure = measure_of(config);
  summary.size = data.scores.defined() ? data.scores.size(0) : data.size();
  summary.shortened = data.shortened;
  summary.split = split;
  summary.data = data.origin;
  summary.remarks = data.remarks;
  return summary;
}

nlohmann::json to_json(const EvaluateSummary& summary, const plan::Bundle& bundle) {
  nlohmann::json rows = nlohmann::json::array();
  for (const QualityRow& row : summary.rows)
    rows.push_back({{"what", row.what}, {"present", row.present}, {"value", row.value}});
  return {{"bundle", bundle.identity()},
          {"split", summary.split},
          {"data", summary.data.filename().string()},
          {"measure", summary.measure.name},
          {"size", summary.size},
          {"rows", rows}};
}

}  // namespace

EvaluateSummary evaluate(const std::filesystem::path& folder, const std::filesystem::path& teacher,
                         model::DatasetSource source, bool write,
                         const base::ProgressCallback& progress, at::Device compute_device,
                         int threads, const RunTogether& run_together) {
  const plan::Bundle bundle(folder);
  const plan::Plan plan = bundle.plan();
  const bool shared = plan::is_shared(plan);
  if (!teacher.empty()) plan::expect_teacher(bundle, teacher);
  if (!shared) bundle.verify("parts/" + plan.name);
  const auto tokenizer = tokenizer_of(plan.teacher, bundle.tokenizer_path(plan));
  source.tokenizer = tokenizer.get();
  const model::Dataset data = model::read_dataset(source, plan.teacher);
  if (data.size() == 0)
    throw std::runtime_error("[" + source.path.string() +
                             "] evaluate: saw no data, needs at least 1 row");
  model::Lanes lanes(threads);
  EvaluateSummary summary = summary_of(plan.teacher, data, source.split);
  if (!teacher.empty())
    add_row(summary, "teacher", {}, quality(loaded(teacher, compute_device), data, lanes));
  if (shared) {
    evaluate_together(plan, data, run_together, progress, summary);
  } else if (std::filesystem::exists(bundle.fusion_path(plan))) {
    bundle.verify("fusion/" + plan.name);
    evaluate_fused(bundle, plan, data, lanes, progress, compute_device, summary);
  } else {
    const std::string& device = plan.parts.at(0).device;
    add_whole(summary, device + " alone", {device},
              quality(loaded(bundle.part_path(plan, device), compute_device), data, lanes));
  }
  if (write) plan::write_measured(folder, "accuracy", to_json(summary, bundle));
  return summary;
}

EvaluateSummary evaluate_model(const std::filesystem::path& folder, model::DatasetSource source,
                               at::Device compute_device, int threads) {
  const model::Transformer model = loaded(folder, compute_device);
  const auto tokenizer = tokenizer_of(model.config, folder);
  source.tokenizer = tokenizer.get();
  const model::Dataset data = model::read_dataset(source, model.config);
  model::Lanes lanes(threads);
  EvaluateSummary summary = summary_of(model.config, data, source.split);
  add_whole(summary, "model", {}, quality(model, data, lanes));
  return summary;
}

}  // namespace cleave::calibrate
