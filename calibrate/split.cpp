#include "calibrate/split.hpp"

#include <algorithm>
#include <stdexcept>

#include <ATen/ATen.h>

#include "base/digest.hpp"

namespace cleave::calibrate {
namespace {

at::Tensor some(const at::Tensor& rows, std::int64_t begin, std::int64_t count) {
  return rows.defined() ? rows.narrow(0, begin, count) : rows;
}

/// Rows begin … begin + count − 1. Pairs are whole where both are even.
model::Dataset take(const model::Dataset& data, std::int64_t begin, std::int64_t count) {
  model::Dataset part;
  part.inputs = some(data.inputs, begin, count);
  part.labels = some(data.labels, begin, count);
  part.label_names = data.label_names;
  part.scores = some(data.scores, begin / 2, count / 2);
  if (data.stream.defined()) {
    const std::int64_t window = data.inputs.size(1) - 1;
    part.stream = data.stream.narrow(0, begin * window, count * window + 1);
  }
  return part;
}

}  // namespace

std::unique_ptr<const model::Tokenizer> tokenizer_of(const model::ModelConfig& config,
                                                     const std::filesystem::path& folder) {
  if (!config.is_text()) return nullptr;
  return std::make_unique<const model::Tokenizer>(model::read_tokenizer(folder, config.vocabulary));
}

model::DatasetSource source_of(const DataRecipe& recipe, const std::string& split,
                               const model::Tokenizer* tokenizer) {
  model::DatasetSource source;
  source.format = recipe.format;
  source.path = recipe.path;
  source.split = split;
  source.tokenizer = tokenizer;
  source.length = recipe.length;
  source.lossy = recipe.lossy;
  source.exif_rotation = recipe.exif_rotation;
  return source;
}

Split read_split(const DataRecipe& recipe, const model::ModelConfig& config,
                 const model::Tokenizer* tokenizer) {
  const model::Dataset data = model::read_dataset(source_of(recipe, "train", tokenizer), config);
  if (recipe.validation >= data.size())
    throw std::invalid_argument("[recipe] data.validation: saw " +
                                std::to_string(recipe.validation) + ", needs fewer than the " +
                                std::to_string(data.size()) + " rows there are");
  const std::int64_t unit = data.scores.defined() ? 2 : 1;
  const std::int64_t validation = recipe.validation / unit * unit;
  const std::int64_t rest = data.size() - validation;
  const std::int64_t learned = recipe.train_limit > 0 ? std::min(recipe.train_limit, rest) : rest;
  Split split{take(data, 0, learned / unit * unit), take(data, rest, validation)};
  split.training.shortened = data.shortened;
  return split;
}

std::string digest_of(const model::Dataset& data) {
  base::Sha256 digest;
  for (const at::Tensor& tensor :
       {data.stream.defined() ? data.stream : data.inputs, data.labels, data.scores}) {
    if (!tensor.defined()) continue;
    const at::Tensor flat = tensor.contiguous();
    digest.update(flat.data_ptr(), flat.nbytes());
  }
  return digest.finish();
}

}  // namespace cleave::calibrate
