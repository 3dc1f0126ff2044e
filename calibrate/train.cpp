#include "calibrate/train.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "calibrate/accelerator.hpp"
#include "calibrate/augment.hpp"
#include "calibrate/forward.hpp"
#include "calibrate/loss.hpp"
#include "calibrate/quality.hpp"
#include "calibrate/run.hpp"
#include "calibrate/split.hpp"
#include "calibrate/start.hpp"
#include "calibrate/weights.hpp"
#include "decompose/folder.hpp"
#include "model/checkpoint.hpp"
#include "model/config/hugging_face.hpp"
#include "model/lanes.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::calibrate {
namespace {

using nlohmann::json;

/// The tensors of a model in the order of its parameters.
std::vector<std::pair<std::string, at::Tensor*>> named_tensors(model::Transformer& model) {
  std::vector<std::pair<std::string, at::Tensor*>> tensors;
  for (const auto& parameter : model::parameters(model.config))
    tensors.emplace_back(parameter.name, &model.tensors.at(parameter.name));
  return tensors;
}

std::vector<at::Tensor*> handles(model::Transformer& model) {
  std::vector<at::Tensor*> pointers;
  for (const auto& [name, tensor] : named_tensors(model)) pointers.push_back(tensor);
  return pointers;
}

const char log_file[] = "training.jsonl";
const char checkpoint_file[] = "checkpoint.safetensors";

/// What lies in the files, not where they lie: on another machine that is elsewhere.
std::string fingerprint(const TrainRecipe& recipe, const model::Dataset& training) {
  const DataRecipe& data = recipe.data;
  const json all = {{"data",
                     {digest_of(training), data.train_limit, data.validation,
                      describe(data.augmentation), data.length}},
                    {"model", model::config_to_json(recipe.model)},
                    {"start", recipe.start.empty() ? "" : plan::digest_model(recipe.start)},
                    {"schedule", describe(recipe.schedule)},
                    {"rest",
                     {static_cast<int>(recipe.compute), recipe.mixup, recipe.temperature,
                      recipe.dropout, recipe.ema, recipe.seed}}};
  return base::sha256(all.dump());
}

/// Soft labels [b, C] of two shuffles of the batch, and how they mix.
struct Mixup {
  at::Tensor partner;
  double share = 1;
};

/// λ ~ Beta(α, α) by two gamma draws would need a rejection loop; α = 1 is uniform, and smaller α
/// is bent towards the ends.
Mixup draw_mixup(double alpha, std::int64_t size, std::initializer_list<std::uint64_t> key) {
  Draw draw(key);
  const double u = draw.uniform();
  const double bent =
      u < 0.5 ? 0.5 * std::pow(2 * u, 1 / alpha) : 1 - 0.5 * std::pow(2 * (1 - u), 1 / alpha);
  const auto order = shuffled(size, {draw.next()});
  Mixup mixup{at::empty({size}, at::kLong), bent};
  std::copy(order.begin(), order.end(), mixup.partner.data_ptr<std::int64_t>());
  return mixup;
}

/// Leaves numbers out by draws of `key`, and lets the others make up for them.
model::Observer dropout(double share, std::uint64_t key) {
  model::Observer observer;
  if (share == 0) return observer;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(key);
  observer.change_addition = [share, generator](const at::Tensor& added) {
    // Drawn by the CPU wherever it is used: the same seed leaves out the same numbers.
    const at::Tensor kept =
        at::empty(added.sizes(), added.options().device(at::kCPU)).bernoulli_(1 - share, generator);
    return added * (kept / (1 - share)).to(added.device());
  };
  return observer;
}

/// What of `start` fits takes the place of new weights.
void take_start(const TrainRecipe& recipe, model::Transformer& model) {
  for (auto& [name, tensor] : model::load(recipe.start).tensors) {
    const auto found = model.tensors.find(name);
    if (found != model.tensors.end() && found->second.sizes() == tensor.sizes())
      found->second = tensor;
  }
  // A pooler is there in published encoders, though nothing of them reads it.
  const model::TensorFiles files(recipe.start);
  for (const auto& stored : model::stored_tensors(recipe.model)) {
    if (stored.parts.front().name.rfind("pooler", 0) != 0) continue;
    if (const auto* entry = model::look_for_stored(recipe.model, files, stored.key);
        entry != nullptr && entry->is_real() && entry->dims == stored.dims())
      model.tensors[stored.parts.front().name] = model::read_tensor(files, *entry);
  }
}

/// The model to begin with, as and where it is computed.
model::Transformer start_of(const TrainRecipe& recipe, model::Compute compute, at::Device device) {
  model::Transformer model = starting_point(recipe.model, recipe.seed);
  if (!recipe.start.empty()) take_start(recipe, model);
  model.compute = compute;
  model.move_to(device);
  return model;
}

/// One training run: the data, a model for each piece of a batch and what a batch costs.
class Trainer {
 public:
  Trainer(const TrainRecipe& recipe, Split data, const Group& group, at::Device device)
      : recipe_(recipe),
        model_(start_of(recipe, number_format(recipe.compute, device, group), device)),
        weights_(named_tensors(model_), group) {
    training_ = std::move(data.training);
    validation_ = std::move(data.validation);
    copies_.assign(static_cast<std::size_t>(group.pieces()), model_);
    for (std::int64_t piece = 0; piece < group.pieces(); ++piece)
      weights_.bind(piece, handles(copies_[static_cast<std::size_t>(piece)]));
  }

  Stage stage(model::Lanes& lanes) {
    Stage stage;
    stage.name = "train";
    stage.schedule = recipe_.schedule;
    stage.ema = recipe_.ema;
    stage.compute = model_.compute;
    stage.moves = [](const std::string&) { return true; };
    stage.rows = training_.size();
    stage.measure = measure_of(recipe_.model);
    stage.loss = [this](const Stage::Position& at, const at::Tensor& indices) {
      return loss(at, indices);
    };
    if (validation_.size() > 0)
      stage.validate = [this, &lanes] { return quality(model_, validation_, lanes); };
    return stage;
  }

  Weights& weights() { return weights_; }
  const model::Transformer& model() const { return model_; }
  std::string fingerprint() const { return calibrate::fingerprint(recipe_, training_); }

 private:
  at::Tensor loss(const Stage::Position& at, const at::Tensor& indices) const {
    const model::Transformer& model = copies_[static_cast<std::size_t>(at.piece)];
    // View 0 is the image as it is; epochs see views 1, 2 …
    const auto view = static_cast<std::uint64_t>(at.epoch) + 1;
    const model::Observer observer =
        dropout(recipe_.dropout, Draw({recipe_.seed, view, static_cast<std::uint64_t>(at.step),
                                       static_cast<std::uint64_t>(at.piece)})
                                     .next());
    if (training_.stream.defined()) {
      const at::Tensor windows =
          take_windows(training_.stream, training_.inputs, indices, recipe_.seed, view)
              .to(model_.device());
      const at::Tensor targets = windows.narrow(1, 1, windows.size(1) - 1).to(at::kLong);
      const at::Tensor inputs = model::inputs_of(model.config, windows);
      return cross_entropy(model::forward(model, inputs, observed(observer)), targets);
    }
    const at::Tensor rows =
        take_view(training_, indices, recipe_.data.augmentation, recipe_.seed, view)
            .to(model_.device());
    at::Tensor inputs = model::inputs_of(model.config, rows);
    const at::Tensor labels = training_.labels.index_select(0, indices).to(model_.device());
    if (recipe_.mixup <= 0)
      return cross_entropy(
          model::classify(model, summary_features(model, inputs, observed(observer))), labels);
    Mixup mixup = draw_mixup(recipe_.mixup, indices.size(0),
                             {recipe_.seed, view, static_cast<std::uint64_t>(at.step),
                              static_cast<std::uint64_t>(at.piece)});
    mixup.partner = mixup.partner.to(model_.device());
    inputs = inputs * mixup.share + inputs.index_select(0, mixup.partner) * (1 - mixup.share);
    const at::Tensor logits =
        model::classify(model, summary_features(model, inputs, observed(observer)));
    return cross_entropy(logits, labels) * mixup.share +
           cross_entropy(logits, labels.index_select(0, mixup.partner)) * (1 - mixup.share);
  }

  static const model::Observer* observed(const model::Observer& observer) {
    return observer.change_addition ? &observer : nullptr;
  }

  at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels) const {
    return label_loss(logits * recipe_.temperature, labels, recipe_.schedule.label_smoothing)
        .mean();
  }

  const TrainRecipe& recipe_;
  model::Transformer model_;
  Weights weights_;
  std::vector<model::Transformer> copies_;
  model::Dataset training_, validation_;
};

/// Of texts: the recipe's tokenizer, or that of the checkpoint to start from, or the bytes.
std::unique_ptr<const model::Tokenizer> tokenizer_for(const TrainRecipe& recipe,
                                                      const std::filesystem::path& work) {
  if (!recipe.model.is_text()) return nullptr;
  if (!recipe.tokenizer.empty()) return tokenizer_of(recipe.model, recipe.tokenizer);
  std::filesystem::create_directories(work);
  model::write_byte_tokenizer(work);
  return tokenizer_of(recipe.model, work);
}

/// What is not this run's to continue stays, unless it is random or `force` gives it up. Whether
/// a checkpoint is of this run, Run finds out.
void expect_own_folder(const std::filesystem::path& out, bool force) {
  if (std::filesystem::exists(out / "manifest.json"))
    throw std::invalid_argument("[" + out.string() + "] is a bundle, needs a model's folder");
  if (std::filesystem::exists(out / ".work" / checkpoint_file)) return;
  if (!std::filesystem::exists(out / ".work"))
    decompose::expect_replaceable(out, "config.json", "model folder");
  if (force || !std::filesystem::exists(out / "config.json")) return;
  if (model::read_config(out).random_weights) return;
  const bool trained = std::filesystem::exists(out / log_file);
  throw std::invalid_argument(
      "[" + out.string() + "] holds a " + (trained ? "trained " : "") + "model: saw no " +
      (trained ? "checkpoint to continue from" : std::string(log_file) + " of a training") +
      ", needs a new or an empty folder, or --force to lose it");
}

/// What the data say of classes where nothing else does: how many a model without a head gets, and
/// their names.
void take_classes(const Split& data, model::ModelConfig& config) {
  if (config.task != model::Task::classification) return;
  const auto& names = data.training.label_names;
  if (config.classes == 0)
    config.classes = names.empty() ? 1 + *std::max_element(data.classes.begin(), data.classes.end())
                                   : static_cast<std::int64_t>(names.size());
  if (config.labels.empty() && static_cast<std::int64_t>(names.size()) == config.classes)
    config.labels = names;
}

/// Nothing where it shows classes that the model will not have, which is remarked.
model::Dataset read_test(const TrainRecipe& recipe, const model::Tokenizer* tokenizer,
                         std::int64_t texts_per_row, base::Remarks& remarks) {
  model::ModelConfig learned = recipe.model;
  learned.texts_per_row = texts_per_row;
  try {
    return model::read_dataset(source_of(recipe.data, "test", tokenizer), learned);
  } catch (const model::UnknownClass& unknown) {
    remarks.push_back({"unknown_class", 1,
                       std::string(unknown.what()) +
                           ", which training has not: the test split will not be judged",
                       true});
    return {};
  }
}

}  // namespace

TrainSummary train(const TrainRecipe& given, const std::filesystem::path& out,
                   const base::ProgressCallback& progress, const Group& group,
                   at::Device compute_device, bool force) {
  given.check();
  TrainRecipe recipe = given;
  expect_own_folder(out, force);
  std::error_code absent;
  if (std::filesystem::equivalent(recipe.start, out, absent))
    throw std::invalid_argument("[" + out.string() +
                                "] is the model to start from, needs another folder");
  group.meet();  // all have looked before one writes: the folder may be on a disk they share
  const auto lock = group.lock(out);
  const std::filesystem::path work = group.work_path(out / ".work");
  const auto tokenizer = tokenizer_for(recipe, work);
  Split data = read_split(recipe.data, recipe.model, tokenizer.get(), true);
  take_classes(data, recipe.model);
  TrainSummary summary;
  summary.remarks = data.remarks;
  // What is wrong with the test split should not be found after hours.
  const std::int64_t texts_per_row = data.training.texts_per_row;
  const model::Dataset test = read_test(recipe, tokenizer.get(), texts_per_row, summary.remarks);
  summary.remarks.insert(summary.remarks.end(), test.remarks.begin(), test.remarks.end());
  base::say(summary.remarks, progress);
  const model::HeldOut held_out = data.held_out;
  summary.shortened = data.training.shortened + test.shortened;
  model::Lanes lanes(recipe.threads);
  Trainer trainer(recipe, std::move(data), group, compute_device);
  // The log of a model that is being replaced stays with it.
  const std::filesystem::path log =
      (std::filesystem::exists(out / "config.json") ? work : out) / log_file;
  const Stage stage = trainer.stage(lanes);
  Run run({work / checkpoint_file,
           log,
           trainer.fingerprint(),
           recipe.seed,
           {extent_of(stage)},
           "the model in " + out.string(),
           force},
          trainer.weights(), lanes, group, progress);
  summary.measure = measure_of(recipe.model);
  summary.compute = trainer.model().compute;
  summary.finished = run.is_done(0) || run.finish(stage);
  summary.epochs = run.records();
  if (!summary.finished) {
    summary.message = "stopped; the same command goes on from " + work.string();
    return summary;
  }
  summary.message = "trained";
  if (!group.leads()) return summary;
  model::Transformer trained = trainer.model();
  trained.config.held_out = held_out;
  trained.config.texts_per_row = texts_per_row;
  model::save(trained, out);
  if (recipe.model.is_text())
    model::copy_tokenizer(recipe.tokenizer.empty() ? work : recipe.tokenizer, out);
  if (std::filesystem::exists(work / log_file))
    std::filesystem::rename(work / log_file, out / log_file);
  run.close();
  summary.test = quality(trained, test, lanes);
  const double validation = summary.epochs.empty() ? 1 : summary.epochs.back().validation;
  base::Remarks poor = nothing_right(summary.measure, validation, "validation");
  for (const auto& remark : nothing_right(summary.measure, summary.test, "test"))
    poor.push_back(remark);
  base::say(poor, progress);
  summary.remarks.insert(summary.remarks.end(), poor.begin(), poor.end());
  return summary;
}

}  // namespace cleave::calibrate
