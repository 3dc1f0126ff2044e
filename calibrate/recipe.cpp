#include "calibrate/recipe.hpp"

#include <limits>
#include <sstream>
#include <stdexcept>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "model/config/hugging_face.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace cleave::calibrate {
namespace {

using base::Reader;

constexpr double any = std::numeric_limits<double>::max();
constexpr std::int64_t many = std::int64_t{1} << 40;

/// Relative paths are taken from the recipe's folder.
std::filesystem::path beside(const std::filesystem::path& recipe, std::filesystem::path path) {
  return path.is_relative() ? (recipe.parent_path() / path).lexically_normal() : path;
}

DataRecipe read_data(const Reader& table, const std::filesystem::path& recipe) {
  table.allow({"format", "path", "train_limit", "validation", "split", "flip", "shift", "splice",
               "length", "exif_rotation"});
  DataRecipe data;
  if (const auto format = table.find("format"))
    data.format = format->one_of(
        {"auto", "idx", "cifar10", "cifar100", "folder", "tsv", "jsonl", "stsb", "text"});
  data.path = table.at("path").text();
  data.path = beside(recipe, data.path);
  data.train_limit = table.integer("train_limit", 0, many, data.train_limit);
  data.validation = table.integer("validation", 0, many, data.validation);
  if (const auto split = table.find("split"))
    if (split->one_of({"stratified", "last"}) == "last") data.split = SplitBy::last;
  Augmentation& how = data.augmentation;
  how.flip = table.boolean("flip", how.flip);
  how.shift = table.integer("shift", 0, 64, how.shift);
  how.splice = table.number("splice", 0, 1, how.splice);
  data.exif_rotation = table.boolean("exif_rotation", false);
  data.length = table.integer("length", 0, 1 << 22, data.length);
  return data;
}

/// The fields that every schedule has; the caller has checked the table's keys.
Schedule read_schedule(const Reader& table) {
  Schedule schedule;
  schedule.epochs = static_cast<int>(table.at("epochs").integer(0, 100000));
  if (const auto optimizer = table.find("optimizer"))
    if (optimizer->one_of({"adamw", "muon"}) == "muon") schedule.optimizer = Optimizer::muon;
  schedule.batch = table.integer("batch", 1, 1 << 20, schedule.batch);
  schedule.learning_rate = table.number("learning_rate", 0, 100, schedule.learning_rate);
  schedule.weight_decay = table.number("weight_decay", 0, 100, schedule.weight_decay);
  schedule.warmup_epochs = table.number("warmup_epochs", 0, 100000, schedule.warmup_epochs);
  schedule.label_smoothing = table.number("label_smoothing", 0, 0.99, schedule.label_smoothing);
  schedule.clip_norm = table.number("clip_norm", 0, any, schedule.clip_norm);
  return schedule;
}

model::Compute read_compute(const Reader& recipe) {
  const auto compute = recipe.find("compute");
  const bool bf16 = compute && compute->one_of({"f32", "bf16"}) == name_of(model::Compute::bf16);
  return bf16 ? model::Compute::bf16 : model::Compute::f32;
}

std::vector<double> read_numbers(const Reader& list, double low, double high) {
  std::vector<double> numbers;
  for (const Reader& item : list.items()) numbers.push_back(item.number(low, high));
  return numbers;
}

model::ImageProcessing read_processing(const Reader& table, const model::ModelConfig& config) {
  const auto channels = static_cast<std::size_t>(config.channels);
  model::ImageProcessing processing;
  processing.height = config.image_height;
  processing.width = config.image_width;
  processing.mean.assign(channels, 0.5);
  processing.std.assign(channels, 0.5);
  if (const auto mean = table.find("mean")) processing.mean = read_numbers(*mean, -any, any);
  if (const auto std = table.find("std")) processing.std = read_numbers(*std, 1e-6, any);
  return processing;
}

/// A head for other classes than the checkpoint's, or its first: for as many as the recipe says, or
/// else as the data have.
void read_image_head(const Reader& table, model::ModelConfig& config) {
  const auto labels = table.find("labels");
  const auto classes = table.find("classes");
  if (!labels && !classes) return;
  config.classes =
      classes ? classes->integer(2, 1 << 20) : static_cast<std::int64_t>(labels->items().size());
  config.labels.clear();
}

/// The checkpoint's config, with another task or other classes where the recipe asks for them.
model::ModelConfig read_started(const Reader& table, const std::filesystem::path& start) {
  table.allow({"start", "task", "classes", "labels"});
  model::ModelConfig config = model::read_config(start);
  config.random_weights = false;  // they will be trained ones
  if (table.has("task")) {
    if (!config.is_text() || config.causal)
      throw table.at("task").error(
          "saw a task, which only an encoder of texts (bert, roberta, distilbert) is given anew");
    table.at("task").one_of({"classification"});
    config.task = model::Task::classification;
    config.classes = table.at("classes").integer(2, 1 << 20);
    config.labels.clear();
    config.problem = model::Problem::single_label;
    config.pooling = model::Pooling::mean;
    config.normalised = true;
  }
  if (!config.is_text()) read_image_head(table, config);
  if (const auto labels = table.find("labels")) {
    config.labels.clear();
    for (const Reader& label : labels->items()) config.labels.push_back(label.text());
  }
  return config;
}

model::ModelConfig read_text_model(const Reader& table, const std::filesystem::path& tokenizer) {
  table.allow({"family", "tokenizer", "width", "layers", "heads", "head_width", "mlp_width",
               "context", "norm_eps"});
  model::ModelConfig config;
  config.family = model::Family::gpt2;
  config.task = model::Task::causal_lm;
  config.causal = true;
  config.tied_head = true;
  config.activation = model::Activation::gelu_tanh;
  config.width = table.at("width").integer(1, 1 << 16);
  const auto heads = table.at("heads").integer(1, 1 << 10);
  config.head_width = table.integer("head_width", 1, 1 << 12, config.width / heads);
  config.layers.assign(static_cast<std::size_t>(table.at("layers").integer(1, 1000)),
                       {heads, table.integer("mlp_width", 1, 1 << 20, 4 * config.width)});
  config.context = table.at("context").integer(1, 1 << 20);
  config.norm_eps = table.number("norm_eps", 0, 1, 1e-5);
  config.vocabulary = tokenizer.empty() ? 256 : model::read_tokenizer(tokenizer).vocabulary_size();
  config.classes = config.vocabulary;
  return config;
}

model::ModelConfig read_image_model(const Reader& table) {
  model::ModelConfig config;
  if (const auto family = table.find("family"))
    if (family->one_of({"vit", "deit", "gpt2"}) == "deit") config.family = model::Family::deit;
  table.allow({"family", "width", "layers", "heads", "head_width", "mlp_width", "patch", "image",
               "channels", "classes", "labels", "mean", "std", "norm_eps"});
  config.width = table.at("width").integer(1, 1 << 16);
  const auto heads = table.at("heads").integer(1, 1 << 10);
  config.head_width = table.integer("head_width", 1, 1 << 12, config.width / heads);
  const auto layers = table.at("layers").integer(1, 1000);
  const auto mlp_width = table.integer("mlp_width", 0, 1 << 20, 4 * config.width);
  config.layers.assign(static_cast<std::size_t>(layers), {heads, mlp_width});
  config.patch = table.at("patch").integer(1, 1 << 10);
  config.image_height = config.image_width = table.at("image").integer(1, 1 << 14);
  config.channels = table.integer("channels", 1, 3, 3);
  config.classes = table.at("classes").integer(2, 1 << 20);
  config.norm_eps = table.number("norm_eps", 0, 1, 1e-12);
  if (const auto labels = table.find("labels"))
    for (const Reader& label : labels->items()) config.labels.push_back(label.text());
  config.processing = read_processing(table, config);
  return config;
}

/// What is trained, and what it starts from; `other` stands for the recipe's start where it is
/// given.
void read_model(const Reader& table, const std::filesystem::path& path,
                const std::filesystem::path& other, TrainRecipe& recipe) {
  const auto start = table.find("start");
  if (!start && !other.empty())
    throw table.error("saw a model that begins at random, needs one with a start to give another");
  if (start) {
    recipe.start = recipe.tokenizer = other.empty() ? beside(path, start->text()) : other;
    recipe.model = read_started(table, recipe.start);
  } else if (table.text("family", "vit") == "gpt2") {
    if (const auto tokenizer = table.find("tokenizer"); tokenizer && tokenizer->text() != "bytes")
      recipe.tokenizer = beside(path, tokenizer->text());
    recipe.model = read_text_model(table, recipe.tokenizer);
  } else {
    recipe.model = read_image_model(table);
  }
  try {
    recipe.model.check();
  } catch (const std::invalid_argument& error) {
    throw table.error(error.what());
  }
  const model::Task task = recipe.model.task;
  if (task != model::Task::classification && task != model::Task::causal_lm)
    throw table.error(
        "saw a model that neither classifies nor generates, needs one that is "
        "trained with labels or on running text");
}

CalibrateRecipe::Alone read_alone(const Reader& table) {
  table.allow({"epochs", "optimizer", "batch", "learning_rate", "weight_decay", "warmup_epochs",
               "label_smoothing", "clip_norm", "labels", "soft_targets", "relations", "features",
               "tokens", "temperature"});
  CalibrateRecipe::Alone alone;
  alone.schedule = read_schedule(table);
  alone.labels = table.number("labels", 0, any, alone.labels);
  alone.soft_targets = table.number("soft_targets", 0, any, alone.soft_targets);
  alone.relations = table.number("relations", 0, any, alone.relations);
  alone.features = table.number("features", 0, any, alone.features);
  alone.tokens = table.number("tokens", 0, any, alone.tokens);
  alone.temperature = table.number("temperature", 0.01, 1000, alone.temperature);
  return alone;
}

CalibrateRecipe::Boost read_boost(const Reader& table) {
  table.allow({"epochs", "optimizer", "batch", "learning_rate", "weight_decay", "warmup_epochs",
               "label_smoothing", "clip_norm", "labels", "soft_targets", "features", "temperature",
               "focus"});
  CalibrateRecipe::Boost boost;
  boost.schedule = read_schedule(table);
  boost.labels = table.number("labels", 0, any, boost.labels);
  boost.soft_targets = table.number("soft_targets", 0, any, boost.soft_targets);
  boost.features = table.number("features", 0, any, boost.features);
  boost.temperature = table.number("temperature", 0.01, 1000, boost.temperature);
  boost.focus = table.number("focus", 0, 10, boost.focus);
  return boost;
}

/// Stages (c) and (d) read the same fields.
CalibrateRecipe::Joint read_joint(const Reader& table, CalibrateRecipe::Joint joint) {
  table.allow({"epochs", "optimizer", "batch", "learning_rate", "weight_decay", "warmup_epochs",
               "label_smoothing", "clip_norm", "labels", "soft_targets", "features", "tokens",
               "temperature", "device_dropout"});
  joint.schedule = read_schedule(table);
  joint.labels = table.number("labels", 0, any, joint.labels);
  joint.soft_targets = table.number("soft_targets", 0, any, joint.soft_targets);
  joint.features = table.number("features", 0, any, joint.features);
  joint.tokens = table.number("tokens", 0, any, joint.tokens);
  joint.temperature = table.number("temperature", 0.01, 1000, joint.temperature);
  joint.device_dropout = table.number("device_dropout", 0, 1, joint.device_dropout);
  return joint;
}

void expect(bool holds, const std::string& field, double saw, const std::string& needs) {
  if (holds) return;
  std::ostringstream text;
  text << "[recipe] " << field << ": saw " << saw << ", needs " << needs;
  throw std::invalid_argument(text.str());
}

}  // namespace

void Schedule::check(const std::string& section) const {
  expect(epochs >= 0, section + ".epochs", epochs, "at least 0");
  expect(batch >= 1, section + ".batch", static_cast<double>(batch), "at least 1");
  expect(learning_rate >= 0, section + ".learning_rate", learning_rate, "at least 0");
  expect(label_smoothing >= 0 && label_smoothing < 1, section + ".label_smoothing", label_smoothing,
         "0 or more and less than 1");
}

void TrainRecipe::check() const {
  model.check();
  schedule.check("schedule");
  expect(schedule.epochs >= 1, "schedule.epochs", schedule.epochs, "at least 1");
  expect(ema >= 0 && ema < 1, "ema", ema, "0 or more and less than 1");
  expect(data.augmentation.splice == 0, "data.splice", data.augmentation.splice,
         "0 (a text made of two has no label)");
  expect(mixup >= 0, "mixup", mixup, "at least 0");
  expect(temperature > 0, "temperature", temperature, "more than 0");
  expect(dropout >= 0 && dropout < 1, "dropout", dropout, "0 or more and less than 1");
}

void CalibrateRecipe::check() const {
  alone.schedule.check("alone");
  boost.schedule.check("boost");
  joint.schedule.check("joint");
  head.schedule.check("head");
  expect(views >= 1, "views", views, "at least 1");
  const int epochs =
      alone.schedule.epochs + boost.schedule.epochs + joint.schedule.epochs + head.schedule.epochs;
  if (epochs == 0)
    throw std::invalid_argument("[recipe] epochs: every stage has 0, needs one with more");
}

TrainRecipe read_train_recipe(const std::filesystem::path& path,
                              const std::filesystem::path& start) {
  return train_recipe_from_toml(base::read_text(path), path, start);
}

CalibrateRecipe read_calibrate_recipe(const std::filesystem::path& path) {
  return calibrate_recipe_from_toml(base::read_text(path), path);
}

TrainRecipe train_recipe_from_toml(const std::string& text, const std::filesystem::path& path,
                                   const std::filesystem::path& start) {
  const Reader file = Reader::toml_text(text, path.string());
  file.expect_format(1);
  file.allow({"format", "seed", "threads", "compute", "mixup", "temperature", "dropout", "ema",
              "data", "model", "schedule"});
  TrainRecipe recipe;
  recipe.data = read_data(file.at("data"), path);
  read_model(file.at("model"), path, start, recipe);
  const Reader schedule = file.at("schedule");
  schedule.allow({"epochs", "optimizer", "batch", "learning_rate", "weight_decay", "warmup_epochs",
                  "label_smoothing", "clip_norm"});
  recipe.schedule = read_schedule(schedule);
  recipe.compute = read_compute(file);
  recipe.mixup = file.number("mixup", 0, 10, recipe.mixup);
  recipe.temperature = file.number("temperature", 0.1, 10, recipe.temperature);
  recipe.dropout = file.number("dropout", 0, 0.9, recipe.dropout);
  recipe.ema = file.number("ema", 0, 0.999999, recipe.ema);
  recipe.threads = static_cast<int>(file.integer("threads", 0, 4096, recipe.threads));
  recipe.seed = static_cast<std::uint64_t>(file.integer("seed", 0, many, 1));
  return recipe;
}

CalibrateRecipe calibrate_recipe_from_toml(const std::string& text,
                                           const std::filesystem::path& path) {
  const Reader file = Reader::toml_text(text, path.string());
  file.expect_format(1);
  file.allow({"format", "seed", "threads", "compute", "views", "target_loss_points", "data",
              "alone", "boost", "joint", "head"});
  CalibrateRecipe recipe;
  recipe.data = read_data(file.at("data"), path);
  recipe.compute = read_compute(file);
  if (const auto alone = file.find("alone")) recipe.alone = read_alone(*alone);
  if (const auto boost = file.find("boost")) recipe.boost = read_boost(*boost);
  if (const auto joint = file.find("joint")) recipe.joint = read_joint(*joint, recipe.joint);
  if (const auto head = file.find("head")) recipe.head = read_joint(*head, recipe.head);
  recipe.views = static_cast<int>(file.integer("views", 1, 1000, recipe.views));
  recipe.threads = static_cast<int>(file.integer("threads", 0, 4096, recipe.threads));
  recipe.seed = static_cast<std::uint64_t>(file.integer("seed", 0, many, 1));
  recipe.target_loss_points = file.number("target_loss_points", 0, 100, recipe.target_loss_points);
  return recipe;
}

}  // namespace cleave::calibrate
