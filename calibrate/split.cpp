#include "calibrate/split.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

#include "base/digest.hpp"
#include "model/draw.hpp"

namespace cleave::calibrate {
namespace {

using Rows = std::vector<std::int64_t>;
/// Rows begin … end − 1, one after another and apart.
using Runs = std::vector<std::pair<std::int64_t, std::int64_t>>;

at::Tensor some(const at::Tensor& rows, std::int64_t begin, std::int64_t count) {
  return rows.defined() ? rows.narrow(0, begin, count) : rows;
}

at::Tensor some(const at::Tensor& values, const at::Tensor& rows) {
  return values.defined() ? values.index_select(0, rows) : values;
}

/// What is said of the whole data set is said once, of the split.
model::Dataset without_rows(const model::Dataset& data) {
  model::Dataset part;
  part.label_names = data.label_names;
  part.origin = data.origin;
  part.texts_per_row = data.texts_per_row;
  return part;
}

/// Rows begin … begin + count − 1. Pairs are whole where both are even.
model::Dataset take(const model::Dataset& data, std::int64_t begin, std::int64_t count) {
  model::Dataset part = without_rows(data);
  part.inputs = some(data.inputs, begin, count);
  part.labels = some(data.labels, begin, count);
  part.scores = some(data.scores, begin / 2, count / 2);
  if (data.stream.defined()) {
    const std::int64_t window = data.inputs.size(1) - 1;
    part.stream = data.stream.narrow(0, begin * window, count * window + 1);
  }
  return part;
}

/// `rows`, which are pairs where there are scores.
model::Dataset take(const model::Dataset& data, const Rows& rows) {
  const at::Tensor chosen = at::tensor(rows, at::kLong);
  model::Dataset part = without_rows(data);
  part.inputs = data.inputs;
  part.labels = some(data.labels, chosen);
  part.scores = some(data.scores, chosen);
  part.chosen = data.scores.defined()
                    ? at::stack({2 * chosen, 2 * chosen + 1}, 1).flatten().contiguous()
                    : chosen;
  return part;
}

Rows all_but(std::int64_t count, const Rows& rows) {
  Rows rest;
  for (std::int64_t i = 0; i < count; ++i)
    if (!std::binary_search(rows.begin(), rows.end(), i)) rest.push_back(i);
  return rest;
}

Runs runs_of(const Rows& rows) {
  Runs runs;
  for (const std::int64_t row : rows)
    if (!runs.empty() && runs.back().second == row)
      ++runs.back().second;
    else
      runs.emplace_back(row, row + 1);
  return runs;
}

model::HeldOut held_out_of(std::int64_t rows, const Runs& runs) {
  model::HeldOut held_out{rows, 0, {}};
  std::string text = std::to_string(rows);
  for (const auto& [begin, end] : runs) {
    held_out.count += end - begin;
    text += " " + std::to_string(begin) + "-" + std::to_string(end);
  }
  held_out.digest = base::sha256(text);
  return held_out;
}

Runs runs_of_last(std::int64_t rows, std::int64_t held) {
  return held > 0 ? Runs{{rows - held, rows}} : Runs{};
}

/// Rows by a stratified draw.
void draw_split(const DataRecipe& recipe, const model::Dataset& data, std::int64_t unit,
                Split& split) {
  const auto count = static_cast<std::int64_t>(split.classes.size());
  const Rows held = model::held_out(split.classes, recipe.validation / unit);
  Rows rest = all_but(count, held);
  if (recipe.train_limit > 0) {
    std::vector<std::int64_t> classes;
    for (const std::int64_t row : rest)
      classes.push_back(split.classes[static_cast<std::size_t>(row)]);
    Rows limited;
    for (const std::int64_t place :
         model::stratified(classes, std::max<std::int64_t>(1, recipe.train_limit / unit)))
      limited.push_back(rest[static_cast<std::size_t>(place)]);
    rest = std::move(limited);
  }
  split.training = take(data, rest);
  split.validation = take(data, held);
  split.held = runs_of(held);
  split.held_out = held_out_of(count, split.held);
}

/// The last rows are held out, the first ones learned from.
void cut_split(const DataRecipe& recipe, const model::Dataset& data, std::int64_t unit,
               Split& split) {
  const std::int64_t validation = recipe.validation / unit * unit;
  const std::int64_t rest = data.size() - validation;
  const std::int64_t learned = recipe.train_limit > 0 ? std::min(recipe.train_limit, rest) : rest;
  split.training = take(data, 0, learned / unit * unit);
  split.validation = take(data, rest, validation);
  // Of a running text tokens are counted: windows of another length are other windows.
  const bool stream = data.stream.defined();
  const std::int64_t rows = stream ? data.stream.size(0) : data.size() / unit;
  const std::int64_t begin = stream ? rest * (data.inputs.size(1) - 1) : rest / unit;
  split.held = runs_of_last(rows, validation > 0 ? rows - begin : 0);
  split.held_out = held_out_of(rows, split.held);
}

void warn_of_unseen_classes(const model::ModelConfig& config, const model::Dataset& training,
                            base::Remarks& remarks) {
  if (config.task != model::Task::classification || !training.labels.defined() ||
      training.labels.dim() != 1 || training.labels.scalar_type() != at::kLong)
    return;
  const auto& names = config.labels.empty() ? training.label_names : config.labels;
  std::vector<bool> seen(std::max(static_cast<std::size_t>(config.classes), names.size()), false);
  for (const std::int64_t label : training.classes()) {
    const auto place = static_cast<std::size_t>(label);
    if (place >= seen.size()) seen.resize(place + 1, false);  // a model without a head
    seen[place] = true;
  }
  std::vector<std::string> unseen;
  for (std::size_t c = 0; c < seen.size(); ++c)
    if (!seen[c]) unseen.push_back(c < names.size() ? names[c] : "class " + std::to_string(c));
  if (!unseen.empty())
    remarks.push_back({"unseen_classes", static_cast<std::int64_t>(unseen.size()),
                       "[" + training.origin.string() + "] training never sees " +
                           std::to_string(unseen.size()) + " of " + std::to_string(seen.size()) +
                           " classes: " + base::some_of(unseen),
                       true});
}

}  // namespace

bool Split::is_kept_apart_by(const model::HeldOut& other) const {
  if (other.rows != held_out.rows) return false;
  const auto is_within = [&](const Runs& theirs) {
    return held_out_of(other.rows, theirs).digest == other.digest &&
           std::all_of(held.begin(), held.end(), [&](const auto& run) {
             return std::any_of(theirs.begin(), theirs.end(), [&](const auto& whole) {
               return whole.first <= run.first && run.second <= whole.second;
             });
           });
  };
  if (is_within(runs_of_last(other.rows, other.count))) return true;
  return !classes.empty() && is_within(runs_of(model::held_out(classes, other.count)));
}

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
                 const model::Tokenizer* tokenizer, bool names_classes) {
  model::DatasetSource source = source_of(recipe, "train", tokenizer);
  source.names_classes = names_classes;
  const model::Dataset data = model::read_dataset(source, config);
  if (recipe.validation >= data.size())
    throw std::invalid_argument("[recipe] data.validation: saw " +
                                std::to_string(recipe.validation) + ", needs fewer than the " +
                                std::to_string(data.size()) + " rows there are");
  const std::int64_t unit = data.scores.defined() ? 2 : 1;
  Split split;
  // What stands near each other in a running text says much the same: its end is held out.
  if (!config.reads_every_token()) split.classes = data.classes();
  if (recipe.split == SplitBy::stratified && !config.reads_every_token())
    draw_split(recipe, data, unit, split);
  else
    cut_split(recipe, data, unit, split);
  split.training.shortened = data.shortened;
  split.remarks = data.remarks;
  warn_of_unseen_classes(config, split.training, split.remarks);
  return split;
}

std::string digest_of(const model::Dataset& data) {
  constexpr std::int64_t piece = 1024;
  base::Sha256 digest;
  const auto add = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    const at::Tensor flat = tensor.contiguous();
    digest.update(flat.data_ptr(), flat.nbytes());
  };
  add(data.stream);
  for (std::int64_t begin = 0; !data.stream.defined() && begin < data.size(); begin += piece)
    add(data.rows(begin, std::min(piece, data.size() - begin)));
  add(data.labels);
  add(data.scores);
  return digest.finish();
}

}  // namespace cleave::calibrate
