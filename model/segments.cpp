#include "model/segments.hpp"

#include <limits>
#include <vector>

#include <ATen/ATen.h>

namespace cleave::model {
namespace {

/// 1 of tokens, 0 of padding [B, rows, 1].
Tensor counted(std::int64_t batch, const Tensor& lengths, Range rows,
               const at::TensorOptions& options) {
  if (!lengths.defined()) return at::ones({batch, rows.size(), 1}, options);
  const Tensor row = at::arange(rows.begin, rows.end, lengths.options());
  return (row < lengths.view({-1, 1})).to(options).unsqueeze(-1);
}

Tensor positions(Range rows, const at::TensorOptions& options) {
  return at::arange(rows.begin, rows.end, options).view({1, -1, 1});
}

/// [B, rows, n] -> [B, S, n].
Tensor segment_sums(const Tensor& x, std::int64_t segments) {
  const std::int64_t size = x.size(1) / segments, larger = x.size(1) % segments;
  const auto sums = [&](std::int64_t begin, std::int64_t count, std::int64_t rows) {
    return x.narrow(1, begin, count * rows).unflatten(1, {count, rows}).sum(2);
  };
  if (larger == 0) return sums(0, segments, size);
  return at::cat({sums(0, larger, size + 1), sums(larger * (size + 1), segments - larger, size)},
                 1);
}

/// S rows far from each other (farthest-first, Gonzalez 1985): the first one, then each time the
/// row that is farthest from its nearest. No padding, where there is another. [B, rows, D] -> [B,
/// S, D].
Tensor spread_rows(const Tensor& x, const Tensor& real, std::int64_t count) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor squares = x.square().sum(-1), padding = real.squeeze(-1) == 0;
  Tensor distances = at::full_like(squares, infinity);
  Tensor next = at::zeros({x.size(0), 1}, at::TensorOptions(at::kLong).device(x.device()));
  std::vector<Tensor> chosen;
  for (std::int64_t i = 0; i < count; ++i) {
    const Tensor row = x.gather(1, next.unsqueeze(-1).expand({-1, 1, x.size(2)}));
    chosen.push_back(row);
    const Tensor from_it =
        squares - 2 * at::matmul(x, row.transpose(1, 2)).squeeze(-1) + row.square().sum(-1);
    distances = at::minimum(distances, from_it).masked_fill(padding, -infinity);
    next = distances.argmax(1, true);
  }
  return at::cat(chosen, 1);
}

}  // namespace

Tensor segment_marks(std::int64_t batch, const Tensor& lengths, Range rows, std::int64_t segments,
                     at::ScalarType type) {
  const at::TensorOptions options(type);
  const Tensor real = counted(batch, lengths, rows, options), where = positions(rows, options);
  const Tensor counts = segment_sums(real, segments);
  const Tensor mean = segment_sums(real * where, segments) / counts;
  const Tensor of_all =
      segment_sums(where, segments) / segment_sums(at::ones_like(where), segments);
  return at::cat({counts, at::where(counts > 0, mean, of_all)}, 2);
}

Tensor segment_means(const Tensor& x, const Tensor& lengths, Range rows, std::int64_t segments) {
  const Tensor real = counted(x.size(0), lengths, rows, x.options());
  return segment_sums(lengths.defined() ? x * real : x, segments) /
         segment_sums(real, segments).clamp_min(1);
}

std::pair<Tensor, Tensor> cluster(const Tensor& x, const Tensor& lengths, Range rows,
                                  std::int64_t segments, int steps) {
  const Tensor real = counted(x.size(0), lengths, rows, x.options());
  Tensor centres = spread_rows(x, real, segments), counts, assigned;
  for (int step = 0; step < steps; ++step) {
    // |x - c|², up to |x|².
    const Tensor distances = centres.square().sum(-1).unsqueeze(1) -
                             2 * at::matmul(x, centres.transpose(1, 2));  // [B, rows, S]
    const Tensor nearest = distances.argmin(-1, true);
    assigned = at::zeros_like(distances).scatter_(-1, nearest, real).transpose(1, 2);
    counts = assigned.sum(-1, true);
    centres = at::where(counts > 0, at::matmul(assigned, x) / counts, centres);
  }
  const Tensor where = positions(rows, x.options());
  const Tensor mean = at::matmul(assigned, where.expand({x.size(0), -1, -1})) / counts;
  return {centres, at::cat({counts, at::where(counts > 0, mean, where.mean())}, 2)};
}

}  // namespace cleave::model
