#include "calibrate/quality.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include <ATen/ATen.h>

#include "calibrate/forward.hpp"
#include "calibrate/fused.hpp"

namespace cleave::calibrate {
namespace {

using model::Task;

/// Rows that are judged at once: so many that a language model's answers (for every token one
/// number a word) are some 16 MB. More would be fetched from the system anew for each piece.
std::int64_t rows_a_piece(const model::ModelConfig& config, const model::Dataset& data) {
  constexpr std::int64_t most_rows = 64, most_answers = 1 << 22;
  if (!config.reads_every_token()) return most_rows;
  const std::int64_t row = data.inputs.size(1) * config.classes;
  return std::clamp<std::int64_t>(most_answers / row, 1, most_rows);
}

/// 0 … n − 1 by size, equal values at the mean of their places.
std::vector<double> ranks(const at::Tensor& values) {
  const at::Tensor flat = values.to(at::kDouble).contiguous();
  const double* x = flat.data_ptr<double>();
  const auto count = static_cast<std::size_t>(flat.numel());
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [x](auto a, auto b) { return x[a] < x[b]; });
  std::vector<double> rank(count);
  for (std::size_t begin = 0, end = 0; begin < count; begin = end) {
    while (end < count && x[order[end]] == x[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i)
      rank[order[i]] = static_cast<double>(begin + end - 1) / 2;
  }
  return rank;
}

/// Which tokens of rows begin … are judged, as `targets` [b, N]: those masked, a window's last, or
/// all.
at::Tensor judged_tokens(const model::Dataset& data, std::int64_t begin,
                         const at::Tensor& targets) {
  if (!data.judged.defined()) return targets.ge(0);
  const at::Tensor judged =
      data.judged.narrow(0, begin, targets.size(0)).unsqueeze(1).to(targets.device());
  const std::int64_t tokens = targets.size(1);
  return at::arange(tokens, judged.options()) >= tokens - judged;
}

}  // namespace

at::Tensor targets_of(const model::Dataset& data, const at::Tensor& indices) {
  if (data.labels.defined()) return data.labels.index_select(0, indices);
  if (!data.stream.defined()) return {};
  const at::Tensor rows = data.inputs.index_select(0, indices);
  return rows.narrow(1, 1, rows.size(1) - 1).to(at::kLong);
}

at::Tensor directions_of(const model::ModelConfig& config, const at::Tensor& answers) {
  return config.normalised ? answers : answers / answers.norm(2, {-1}, true).clamp_min(1e-12);
}

at::Tensor marks(const model::ModelConfig& config, const model::Dataset& data, std::int64_t begin,
                 const at::Tensor& answers) {
  if (config.task == Task::embedding) return directions_of(config, answers).to(at::kCPU);
  const at::Tensor targets =
      targets_of(data, at::arange(begin, begin + answers.size(0), at::TensorOptions(at::kLong)))
          .to(answers.device());
  if (config.task == Task::classification)
    return answers.argmax(-1).eq(targets).to(at::kCPU, at::kFloat);
  const at::Tensor chosen =
      at::log_softmax(answers, -1).gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1);
  const at::Tensor counts = judged_tokens(data, begin, targets).to(chosen.scalar_type());
  return at::stack({-(chosen * counts).sum(1), counts.sum(1)}, 1).to(at::kCPU);
}

double quality_of(const model::ModelConfig& config, const model::Dataset& data,
                  const at::Tensor& marks) {
  if (marks.size(0) == 0) return std::numeric_limits<double>::quiet_NaN();
  if (config.reads_every_token()) {
    const at::Tensor sums = marks.to(at::kDouble).sum(0);
    return sums[0].item<double>() / sums[1].item<double>();
  }
  if (config.task != Task::embedding) return marks.to(at::kDouble).mean().item<double>();
  const at::Tensor pairs = marks.unflatten(0, {-1, 2});
  return spearman((pairs.select(1, 0) * pairs.select(1, 1)).sum(1), data.scores);
}

std::vector<double> qualities(
    const model::ModelConfig& config, const model::Dataset& data, std::size_t variants,
    const std::function<std::vector<at::Tensor>(const at::Tensor&)>& answer, model::Lanes& lanes,
    const std::function<bool(std::int64_t)>& report) {
  const std::int64_t rows = data.size() == 0 ? 1 : rows_a_piece(config, data);
  const auto pieces = static_cast<std::size_t>((data.size() + rows - 1) / rows);
  std::vector<std::vector<at::Tensor>> found(variants, std::vector<at::Tensor>(pieces));
  const auto work = [&](std::int64_t begin, std::int64_t end) {
    const auto answers = answer(data.rows(begin, end - begin));
    for (std::size_t v = 0; v < variants; ++v)
      found[v][static_cast<std::size_t>(begin / rows)] = marks(config, data, begin, answers[v]);
  };
  if (!for_pieces(data.size(), rows, lanes, work, report)) return {};
  std::vector<double> result;
  for (const auto& judged : found)
    result.push_back(pieces == 0 ? std::numeric_limits<double>::quiet_NaN()
                                 : quality_of(config, data, at::cat(judged)));
  return result;
}

double quality(const model::Transformer& model, const model::Dataset& data, model::Lanes& lanes) {
  return qualities(
             model.config, data, 1,
             [&model](const at::Tensor& rows) {
               const at::Tensor inputs = model::inputs_of(model.config, rows).to(model.device());
               return std::vector<at::Tensor>{
                   model::classify(model, summary_features(model, inputs))};
             },
             lanes)
      .front();
}

double spearman(const at::Tensor& a, const at::Tensor& b) {
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double mean = (static_cast<double>(x.size()) - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx == 0 || yy == 0 ? 0 : xy / std::sqrt(xx * yy);
}

}  // namespace cleave::calibrate
