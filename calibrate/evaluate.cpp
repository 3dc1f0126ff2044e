#include "calibrate/evaluate.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "calibrate/lanes.hpp"

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
    const at::Tensor answers = model::forward(model, pixels).argmax(-1);
    right += answers.eq(data.labels.narrow(0, begin, size)).sum().item<std::int64_t>();
  }
  return right;
}

double share(std::int64_t right, std::int64_t images) {
  if (images == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(right) / static_cast<double>(images);
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

}  // namespace cleave::calibrate
