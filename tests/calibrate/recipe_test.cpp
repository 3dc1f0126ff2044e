#include "calibrate/recipe.hpp"

#include <gtest/gtest.h>

#include "base/reader.hpp"
#include "model/config/hugging_face.hpp"
#include "tests/calibrate/task.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;
namespace fs = std::filesystem;

const std::string data_and_model = R"(
format = 1
[data]
path = "images"
[model]
width = 32
layers = 2
heads = 4
patch = 4
image = 8
channels = 1
classes = 4
)";

fs::path written(const Scratch& scratch, const std::string& text) {
  write_bytes(scratch / "recipe.toml", text);
  return scratch / "recipe.toml";
}

std::string train_refusal(const std::string& text) {
  const Scratch scratch;
  return message_of([&] { read_train_recipe(written(scratch, text)); });
}
std::string calibrate_refusal(const std::string& text) {
  const Scratch scratch;
  return message_of([&] {
    read_calibrate_recipe(written(scratch, "format = 1\n[data]\npath = \"x\"\n" + text));
  });
}
void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos)
      << "'" << text << "' does not contain '" << part << "'";
}

TEST(TrainRecipe, ReadsModelAndSchedule) {
  const Scratch scratch;
  const TrainRecipe recipe = read_train_recipe(written(
      scratch, data_and_model + "[schedule]\nepochs = 7\nbatch = 16\nlearning_rate = 2e-3\n"));
  EXPECT_EQ(recipe.data.path, scratch / "images");
  EXPECT_EQ(recipe.model.head_width, 8);
  EXPECT_EQ(recipe.model.layers, (std::vector<model::LayerShape>{{4, 128}, {4, 128}}));
  EXPECT_EQ(recipe.model.processing.mean.size(), 1U);
  EXPECT_EQ(recipe.schedule.epochs, 7);
  EXPECT_EQ(recipe.schedule.learning_rate, 2e-3);
  EXPECT_EQ(recipe.schedule.weight_decay, 0.05);
}

TEST(DataRecipe, DrawsItsSplitUnlessItSaysOtherwise) {
  const Scratch scratch;
  const auto split_of = [&](const std::string& line) {
    return read_calibrate_recipe(written(scratch, "format = 1\n[data]\npath = \"x\"\n" + line +
                                                      "[joint]\nepochs = 1\n"))
        .data.split;
  };
  EXPECT_EQ(split_of(""), SplitBy::stratified);
  EXPECT_EQ(split_of("split = \"stratified\"\n"), SplitBy::stratified);
  EXPECT_EQ(split_of("split = \"last\"\n"), SplitBy::last);
  expect_contains(calibrate_refusal("split = \"first\"\n[joint]\nepochs = 1\n"),
                  "data.split: saw ");
}

// Their figures are those of a split by place, and so is the committed teacher.
TEST(Recipes, ThoseThatHoldLabelledRowsOutKeepTheSplitOfTheirFigures) {
  const fs::path recipes = fs::path(CLEAVE_SOURCE_DIR) / "recipes";
  for (const char* name : {"fashion-mnist/teacher", "fashion-mnist/quick", "fashion-mnist/full",
                           "sst2/teacher", "sst2/calibrate", "stsb/calibrate"})
    EXPECT_EQ(base::Reader::toml_file(recipes / (std::string(name) + ".toml"))
                  .at("data")
                  .at("split")
                  .text(),
              "last")
        << name;
}

TEST(TrainRecipe, NamesTheNearestKey) {
  expect_contains(train_refusal(data_and_model + "[schedule]\nepochs = 7\nlearning_rat = 2e-3\n"),
                  "learning_rate");
  expect_contains(train_refusal(data_and_model + "[schedule]\nepochs = 7\nlearning_rat = 2e-3\n"),
                  "recipe.toml] schedule");
  expect_contains(train_refusal(data_and_model + "[schedul]\nepochs = 7\n"), "schedule");
}

TEST(TrainRecipe, RefusesWhatIsMissingOrOutOfRange) {
  expect_contains(train_refusal(data_and_model), "schedule");
  expect_contains(train_refusal(data_and_model + "[schedule]\nbatch = 3\n"), "epochs");
  expect_contains(train_refusal(data_and_model + "[schedule]\nepochs = -1\n"),
                  "schedule.epochs: saw -1");
  expect_contains(train_refusal("format = 2\n"), "format");
  expect_contains(train_refusal("format = \n"), "recipe.toml");
}

TEST(TrainRecipe, RefusesAModelThatDoesNotFitTogether) {
  std::string text = data_and_model + "[schedule]\nepochs = 7\n";
  text.replace(text.find("patch = 4"), 9, "patch = 3");
  expect_contains(train_refusal(text), "patch");
}

TEST(TrainRecipe, GivesAnyEncoderOfTextsANewTask) {
  const Scratch scratch;
  fs::create_directories(scratch / "start");
  const std::string recipe =
      "format = 1\n[data]\nformat = \"tsv\"\npath = \"x\"\n[model]\nstart = \"start\"\ntask = "
      "\"classification\"\nclasses = 3\n[schedule]\nepochs = 1\n";
  for (const auto family :
       {model::Family::bert, model::Family::roberta, model::Family::distilbert}) {
    model::ModelConfig config = model::testing::tiny_text_config(family);
    config.task = model::Task::masked_lm;
    config.classes = config.vocabulary;
    model::write_config(config, scratch / "start");
    const TrainRecipe read = read_train_recipe(written(scratch, recipe));
    EXPECT_EQ(read.model.family, family);
    EXPECT_EQ(read.model.task, model::Task::classification);
    EXPECT_EQ(read.model.classes, 3);
  }
  model::write_config(model::testing::tiny_text_config(model::Family::qwen2), scratch / "start");
  expect_contains(message_of([&] { read_train_recipe(written(scratch, recipe)); }),
                  "recipe.toml] model.task: saw a task, which only an encoder of texts (bert, "
                  "roberta, distilbert) is given anew");
}

TEST(TrainRecipe, GivesAnImageModelAHeadForOtherClasses) {
  const Scratch scratch;
  fs::create_directories(scratch / "start");
  const auto classes_with = [&](std::int64_t classes, const std::string& line) {
    model::ModelConfig config = model::testing::tiny_config();
    config.classes = classes;
    config.labels = {"a", "b", "c", "d"};
    if (classes == 0) config.labels.clear();
    model::write_config(config, scratch / "start");
    const TrainRecipe recipe = read_train_recipe(
        written(scratch, "format = 1\n[data]\npath = \"x\"\n[model]\nstart = \"start\"\n" + line +
                             "\n[schedule]\nepochs = 1\n"));
    return std::pair(recipe.model.classes, recipe.model.labels);
  };
  using Labels = std::vector<std::string>;
  EXPECT_EQ(classes_with(4, ""), std::pair(std::int64_t{4}, Labels{"a", "b", "c", "d"}));
  EXPECT_EQ(classes_with(4, "classes = 3"), std::pair(std::int64_t{3}, Labels{}));
  EXPECT_EQ(classes_with(4, "labels = [\"x\", \"y\"]"),
            std::pair(std::int64_t{2}, Labels{"x", "y"}));
  EXPECT_EQ(classes_with(0, ""), std::pair(std::int64_t{0}, Labels{}));  // as the data have
  EXPECT_EQ(classes_with(0, "classes = 5"), std::pair(std::int64_t{5}, Labels{}));
  expect_contains(message_of([&] { classes_with(4, "classes = 3\nlabels = [\"x\"]"); }),
                  "labels: saw 1 names, needs 3");
}

TEST(CalibrateRecipe, LeavesOutStagesThatItDoesNotName) {
  const Scratch scratch;
  const CalibrateRecipe recipe =
      read_calibrate_recipe(written(scratch,
                                    "format = 1\nviews = 3\n[data]\npath = "
                                    "\"/data\"\n[joint]\nepochs = 4\ndevice_dropout = 0.25\n"));
  EXPECT_EQ(recipe.data.path, "/data");
  EXPECT_EQ(recipe.views, 3);
  EXPECT_EQ(recipe.alone.schedule.epochs, 0);
  EXPECT_EQ(recipe.boost.schedule.epochs, 0);
  EXPECT_EQ(recipe.joint.schedule.epochs, 4);
  EXPECT_EQ(recipe.joint.device_dropout, 0.25);
  EXPECT_EQ(recipe.head.schedule.epochs, 0);
  EXPECT_EQ(recipe.head.device_dropout, 0.5);
}

TEST(CalibrateRecipe, NamesTheNearestKeyInEachSection) {
  expect_contains(calibrate_refusal("[alone]\nepochs = 1\nrelation = 1\n"), "relations");
  expect_contains(calibrate_refusal("[boost]\nepochs = 1\nfocsu = 1\n"), "focus");
  expect_contains(calibrate_refusal("[joint]\nepochs = 1\ndevice_droput = 1\n"), "device_dropout");
  expect_contains(calibrate_refusal("[head]\nepoch = 1\n"), "epochs");
  expect_contains(calibrate_refusal("[jiont]\nepochs = 1\n"), "joint");
}

TEST(CalibrateRecipe, RefusesValuesOutOfRange) {
  expect_contains(calibrate_refusal("[joint]\nepochs = 1\ndevice_dropout = 1.5\n"),
                  "joint.device_dropout: saw 1.5");
  expect_contains(calibrate_refusal("[alone]\nepochs = 1\ntemperature = 0\n"),
                  "alone.temperature: saw 0");
}

TEST(CalibrateRecipe, ChecksWhatACallerFilledIn) {
  CalibrateRecipe recipe;
  recipe.joint.schedule.epochs = 1;
  EXPECT_NO_THROW(recipe.check());
  recipe.views = 0;
  EXPECT_EQ(message_of([&] { recipe.check(); }), "[recipe] views: saw 0, needs at least 1");
  recipe.views = 1;
  recipe.head.schedule.batch = 0;
  EXPECT_EQ(message_of([&] { recipe.check(); }), "[recipe] head.batch: saw 0, needs at least 1");
}

TEST(TrainRecipe, ChecksWhatACallerFilledIn) {
  TrainRecipe recipe = bars_recipe("anywhere", 0);
  EXPECT_EQ(message_of([&] { recipe.check(); }),
            "[recipe] schedule.epochs: saw 0, needs at least 1");
  recipe.schedule.epochs = 1;
  EXPECT_NO_THROW(recipe.check());
  recipe.ema = 1;
  EXPECT_EQ(message_of([&] { recipe.check(); }),
            "[recipe] ema: saw 1, needs 0 or more and less than 1");
  recipe.ema = 0;
  recipe.data.augmentation.splice = 0.5;
  EXPECT_EQ(message_of([&] { recipe.check(); }),
            "[recipe] data.splice: saw 0.5, needs 0 (a text made of two has no label)");
}

TEST(Recipes, EveryOneInTheRepositoryReads) {
  int train = 0, calibrate = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(CLEAVE_SOURCE_DIR) / "recipes")) {
    if (entry.path().extension() != ".toml") continue;
    const auto file = base::Reader::toml_file(entry.path());
    if (!file.has("data")) continue;  // a fleet
    if (file.has("model") && file.at("model").has("start")) {
      // A published checkpoint that is not here: the recipe reads up to it.
      const std::string error = message_of([&] { read_train_recipe(entry.path()); });
      EXPECT_NE(error.find("config.json] cannot read"), std::string::npos) << error;
    } else if (file.has("model")) {
      EXPECT_GT(read_train_recipe(entry.path()).schedule.epochs, 0) << entry.path();
      ++train;
    } else {
      EXPECT_GT(read_calibrate_recipe(entry.path()).joint.schedule.epochs, 0) << entry.path();
      ++calibrate;
    }
  }
  EXPECT_GE(train, 2);
  EXPECT_GE(calibrate, 4);
}

}  // namespace
}  // namespace cleave::calibrate
