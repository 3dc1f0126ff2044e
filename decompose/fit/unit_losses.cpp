#include "decompose/fit/unit_losses.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>

#include "decompose/fit/teacher_stream.hpp"
#include "decompose/folder.hpp"
#include "model/config/hugging_face.hpp"

namespace cleave::decompose {
namespace {

using at::Tensor;
using model::block_prefix;
using model::Transformer;

/// Sums of x xᵀ and x over tokens, of fp32 products: a choice needs no more.
struct Covariance {
  void add(const Tensor& units) {
    if (!xx.defined()) {
      xx = at::zeros({units.size(1), units.size(1)}, at::kDouble);
      x = at::zeros({units.size(1)}, at::kDouble);
    }
    xx += at::matmul(units.t(), units);
    x += units.sum(0);
    tokens += static_cast<double>(units.size(0));
  }
  void add(const Covariance& more) {
    if (!more.xx.defined()) return;
    xx += more.xx;
    x += more.x;
    tokens += more.tokens;
  }
  Tensor xx, x;
  double tokens = 0;
};

/// Batches of rows that have some tokens for each of `inputs`; all, where there are not as many.
std::size_t enough_batches(const FitRows& rows, std::int64_t inputs) {
  constexpr std::int64_t tokens_for_each = 16;
  const auto batches = static_cast<std::int64_t>(rows.batches());
  const std::int64_t of_each = std::max<std::int64_t>(1, rows.num_tokens() / batches);
  return static_cast<std::size_t>(inputs * tokens_for_each / of_each + 1);
}

/// Of a half, by unit. `weight` [D, inputs], each unit `unit` of its columns.
std::vector<double> losses_of(const Covariance& sums, const Tensor& weight, bool with_bias,
                              std::int64_t unit, double lambda, const std::string& where) {
  Tensor gram = sums.xx / sums.tokens;
  if (with_bias) gram -= at::outer(sums.x, sums.x) / (sums.tokens * sums.tokens);
  if (!at::isfinite(gram).all().item<bool>())
    throw std::runtime_error("[" + where + "] activations: not finite");
  std::vector<double> losses(static_cast<std::size_t>(weight.size(1) / unit), 0);
  const double mean = gram.diagonal().mean().item<double>();
  if (!(mean > 0)) return losses;
  gram.diagonal().add_(lambda * mean);
  gram = at::cholesky_inverse(at::linalg_cholesky(gram));
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const auto begin = static_cast<std::int64_t>(i) * unit;
    const Tensor columns = weight.narrow(1, begin, unit);
    const Tensor own = gram.narrow(0, begin, unit).narrow(1, begin, unit);
    losses[i] = at::linalg_solve(own, columns.t()).t().mul(columns).sum().item<double>();
  }
  return losses;
}

}  // namespace

UnitLosses unit_losses(const std::filesystem::path& folder, const FitRows& rows, double lambda,
                       int threads, const base::ProgressCallback& progress) {
  const c10::NoGradGuard no_grad;
  Work work(rows.batches(), threads);
  TeacherStream teacher(folder, rows, work);
  const auto& config = teacher.config();
  UnitLosses losses;
  Steps steps("select", teacher.num_layers(), progress);
  for (int layer = 0; layer < teacher.num_layers(); ++layer) {
    steps.next();
    const Transformer block = teacher.piece(block_prefix(layer));
    for (const Half half : {Half::attention, Half::mlp}) {
      auto& found = half == Half::attention ? losses.heads : losses.mlp;
      found.emplace_back();
      if (!has(config, layer, half)) continue;
      const Transformer halved = only(block, layer, half);
      const std::string writer = block_prefix(layer) + writer_name(half);
      const Tensor weight = block[writer + ".weight"].to(at::kDouble);
      const auto add = [&](Covariance& sum, std::size_t i) {
        sum.add(rows.tokens(i, units_of(halved, layer, teacher.stream(i), rows.sight(i))));
      };
      // Heads are few, and much hangs on each: they are judged by all rows.
      const auto sums = half == Half::attention
                            ? work.sum_of(Covariance(), add)
                            : work.sum_of(Covariance(), add, enough_batches(rows, weight.size(1)));
      found.back() = losses_of(
          sums, weight, block.find(writer + ".bias") != nullptr,
          half == Half::attention ? config.group * config.head_width : 1, lambda,
          "select, layer " + std::to_string(layer) + ", what " + words_of(half) + " writes");
      teacher.advance(block, layer, half);
    }
  }
  return losses;
}

}  // namespace cleave::decompose
