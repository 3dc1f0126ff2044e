#include "calibrate/split.hpp"

#include <algorithm>
#include <stdexcept>

#include <ATen/ATen.h>

namespace cleave::calibrate {
namespace {

model::Dataset take(const model::Dataset& data, std::int64_t begin, std::int64_t count) {
  return {data.images.narrow(0, begin, count), data.labels.narrow(0, begin, count),
          data.label_names};
}

}  // namespace

Split read_split(const DataRecipe& recipe, const model::ModelConfig& config) {
  const model::Dataset data = model::read_dataset({recipe.format, recipe.path, "train", 0}, config);
  if (recipe.validation >= data.size())
    throw std::invalid_argument("[recipe] data.validation: saw " +
                                std::to_string(recipe.validation) + ", needs fewer than the " +
                                std::to_string(data.size()) + " images there are");
  const std::int64_t rest = data.size() - recipe.validation;
  const std::int64_t learned = recipe.train_limit > 0 ? std::min(recipe.train_limit, rest) : rest;
  return {take(data, 0, learned), take(data, rest, recipe.validation)};
}

}  // namespace cleave::calibrate
