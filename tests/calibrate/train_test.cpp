#include "calibrate/train.hpp"

#include <cmath>
#include <fstream>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "base/file.hpp"
#include "base/reader.hpp"
#include "model/config/hugging_face.hpp"
#include "model/dataset.hpp"
#include "model/image.hpp"
#include "tests/calibrate/checkpoint.hpp"
#include "tests/calibrate/killed.hpp"
#include "tests/calibrate/task.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;

/// Stops the n-th time it is asked.
base::ProgressCallback stop_at(int n) {
  return [n, count = 0](const base::Progress&) mutable { return ++count != n; };
}

/// Stops at the end of an epoch, behind its checkpoint.
base::ProgressCallback stop_after_epoch(int n) {
  return [n, count = 0](const base::Progress& progress) mutable {
    return progress.total == 0 || progress.done < progress.total || ++count != n;
  };
}

TEST(Train, LearnsAndWritesAModelThatLoads) {
  const Scratch scratch;
  const TrainSummary summary = train(bars_recipe(bars(scratch), 6), scratch / "out");
  ASSERT_TRUE(summary.finished);
  ASSERT_EQ(summary.epochs.size(), 6U);
  EXPECT_LT(summary.epochs.back().loss, 0.5 * summary.epochs.front().loss);
  EXPECT_GT(summary.epochs.back().validation, 0.9);
  EXPECT_GT(summary.test, 0.9);
  EXPECT_EQ(model::load(scratch / "out").config.width, 16);
}

TEST(Train, WritesALineAnEpoch) {
  const Scratch scratch;
  train(bars_recipe(bars(scratch), 2), scratch / "out");
  std::ifstream log(scratch / "out/training.jsonl");
  std::vector<std::string> lines;
  for (std::string line; std::getline(log, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 2U);
  const auto last = base::Reader::json_text(lines[1], "log");
  EXPECT_EQ(last.at("epoch").integer(1, 9), 2);
  EXPECT_EQ(last.at("stage").text(), "train");
  EXPECT_TRUE(last.has("loss") && last.has("validation") && last.has("seconds"));
}

TEST(Train, IsTheSameOnAnyNumberOfThreads) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 1);
  recipe.threads = 1;
  train(recipe, scratch / "one");
  recipe.threads = 3;
  train(recipe, scratch / "three");
  EXPECT_EQ(bytes_of(scratch / "one/model.safetensors"),
            bytes_of(scratch / "three/model.safetensors"));
}

TEST(Train, DependsOnTheSeed) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 1);
  train(recipe, scratch / "one");
  recipe.seed = 2;
  train(recipe, scratch / "two");
  EXPECT_NE(bytes_of(scratch / "one/model.safetensors"),
            bytes_of(scratch / "two/model.safetensors"));
}

TEST(Train, ReadsAnswersSharpenedByTheTemperature) {
  const Scratch scratch;
  const auto data = bars(scratch);
  TrainRecipe recipe = bars_recipe(data, 1);
  recipe.start = bars_teacher(scratch);
  recipe.data.validation = 0;
  recipe.data.augmentation.flip = false;
  recipe.schedule.learning_rate = 0;
  recipe.temperature = 3;
  const auto summary = train(recipe, scratch / "again");
  const auto model = model::load(scratch / "teacher");
  const auto seen = model::read_dataset({"auto", data, "train"}, model.config);
  ASSERT_EQ(seen.size() % recipe.schedule.batch, 0);
  const auto logits = model::forward(model, model::inputs_of(model.config, seen.inputs));
  EXPECT_NEAR(summary.epochs[0].loss,
              at::cross_entropy_loss(logits * 3, seen.labels).item<double>(), 1e-4);
  EXPECT_TRUE(std::isnan(summary.epochs[0].validation));
}

TEST(Train, StoppedAndResumedGivesTheSameWeights) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch));
  recipe.mixup = 0.4;
  recipe.ema = 0.9;
  recipe.data.augmentation.shift = 1;
  const TrainSummary whole = train(recipe, scratch / "whole");
  // The first report comes within the first epoch, the second at some epoch's end or within it.
  const TrainSummary within = train(recipe, scratch / "resumed", stop_at(1));
  EXPECT_FALSE(within.finished);
  EXPECT_NE(within.message.find("goes on from"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(scratch / "resumed/model.safetensors"));
  EXPECT_FALSE(train(recipe, scratch / "resumed", stop_at(2)).finished);
  const TrainSummary resumed = train(recipe, scratch / "resumed");
  EXPECT_TRUE(resumed.finished);
  ASSERT_EQ(resumed.epochs.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(resumed.epochs[i].loss, whole.epochs[i].loss);
  EXPECT_EQ(bytes_of(scratch / "resumed/model.safetensors"),
            bytes_of(scratch / "whole/model.safetensors"));
}

TEST(Train, GoesOnWithoutAValidationSplit) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch));
  recipe.data.validation = 0;
  const TrainSummary whole = train(recipe, scratch / "whole");
  // Until an epoch is behind it.
  for (int n = 2; !std::filesystem::exists(scratch / "resumed/training.jsonl"); ++n)
    ASSERT_FALSE(train(recipe, scratch / "resumed", stop_at(n)).finished);
  const TrainSummary resumed = train(recipe, scratch / "resumed");
  ASSERT_EQ(resumed.epochs.size(), 3U);
  EXPECT_TRUE(std::isnan(resumed.epochs[0].validation));
  EXPECT_EQ(bytes_of(scratch / "resumed/model.safetensors"),
            bytes_of(scratch / "whole/model.safetensors"));
}

TEST(Train, KilledAnywhereItResumesToTheSameWeights) {
  const Scratch scratch;
  const auto data = bars(scratch);
  train(bars_recipe(data), scratch / "whole");
  const Deaths deaths = run_until_it_survives({"train", data, scratch / "killed"}, 20, 23);
  EXPECT_EQ(deaths.exit_code, 0);
  EXPECT_GT(deaths.killed, 0);
  EXPECT_EQ(contents(scratch / "killed"), contents(scratch / "whole"));
}

TEST(Train, DoesNotReplaceAModelThatItDidNotMake) {
  const Scratch scratch;
  const auto data = bars(scratch);
  model::save(model::random_model(bars_config(), 5), scratch / "mine");
  const auto weights = bytes_of(scratch / "mine/model.safetensors");
  EXPECT_EQ(message_of([&] { train(bars_recipe(data, 1), scratch / "mine"); }),
            "[" + (scratch / "mine").string() +
                "] holds a model: saw no training.jsonl of a training, needs a new or an empty "
                "folder, or --force to lose it");
  EXPECT_EQ(bytes_of(scratch / "mine/model.safetensors"), weights);
  train(bars_recipe(data, 1), scratch / "trained");
  EXPECT_NO_THROW(train(bars_recipe(data, 1), scratch / "trained"));
}

TEST(Train, RefusesTheCheckpointOfAnotherRecipe) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch));
  train(recipe, scratch / "out", stop_at(1));
  recipe.schedule.learning_rate = 1e-4;
  const std::string message = message_of([&] { train(recipe, scratch / "out"); });
  EXPECT_NE(message.find("checkpoint: belongs to a run with another recipe"), std::string::npos)
      << message;
}

TEST(Train, ReplacesTheModelOfAnotherRecipeOnlyWithForceAndAtTheEnd) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 2);
  const auto out = scratch / "out";
  train(recipe, out);
  EXPECT_TRUE(train(recipe, out).finished);  // the same recipe is done
  const auto old = contents(out);
  const std::string log = bytes_of(out / "training.jsonl");
  recipe.seed = 9;
  const std::string message = message_of([&] { train(recipe, out); });
  EXPECT_NE(message.find("another recipe, data or start, which made the model in " + out.string() +
                         "; needs another folder, or --force to lose it"),
            std::string::npos)
      << message;
  EXPECT_EQ(contents(out), old);
  const auto after_an_epoch = [](const base::Progress& now) { return now.done < now.total; };
  EXPECT_FALSE(train(recipe, out, after_an_epoch, Group(), at::kCPU, true).finished);
  EXPECT_EQ(contents(out), old) << "whole until the new one is there";
  EXPECT_EQ(bytes_of(out / "training.jsonl"), log);
  EXPECT_TRUE(train(recipe, out).finished);  // continues: no force is needed
  EXPECT_NE(contents(out), old);
  EXPECT_NE(bytes_of(out / "training.jsonl"), log);
  EXPECT_FALSE(std::filesystem::exists(out / ".work/training.jsonl"));
  train(recipe, scratch / "straight");
  EXPECT_EQ(contents(out), contents(scratch / "straight"));
}

TEST(Train, DoesNotReplaceATrainedModelWithoutItsCheckpoint) {
  const Scratch scratch;
  const TrainRecipe recipe = bars_recipe(bars(scratch), 1);
  train(recipe, scratch / "out");
  std::filesystem::remove_all(scratch / "out/.work");
  const auto old = contents(scratch / "out");
  EXPECT_EQ(message_of([&] { train(recipe, scratch / "out"); }),
            "[" + (scratch / "out").string() +
                "] holds a trained model: saw no checkpoint to continue from, needs a new or an "
                "empty folder, or --force to lose it");
  EXPECT_EQ(contents(scratch / "out"), old);
  EXPECT_TRUE(train(recipe, scratch / "out", {}, Group(), at::kCPU, true).finished);
}

TEST(Train, DoesNotWriteIntoABundle) {
  const Scratch scratch;
  const auto bundle = bars_bundle(scratch, bars_teacher(scratch, 1));
  std::filesystem::create_directories(bundle / ".work");
  const auto before = contents(bundle);
  for (const bool force : {false, true})
    EXPECT_EQ(message_of([&] {
                train(bars_recipe(scratch / "bars", 1), bundle, {}, Group(), at::kCPU, force);
              }),
              "[" + bundle.string() + "] is a bundle, needs a model's folder");
  EXPECT_EQ(contents(bundle), before);
}

TEST(Train, GivesAModelWithoutAHeadOneForTheClassesOfTheData) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 4);
  model::Transformer headless = model::load(bars_teacher(scratch));
  headless.config.classes = 0;
  headless.tensors.erase("head.weight");
  headless.tensors.erase("head.bias");
  model::save(headless, scratch / "headless");
  recipe.start = scratch / "headless";
  recipe.model = headless.config;
  const TrainSummary summary = train(recipe, scratch / "out");
  const model::Transformer trained = model::load(scratch / "out");
  EXPECT_EQ(trained.config.classes, 4);
  EXPECT_GT(summary.test, 0.9);
  // The rest began where the start ended.
  EXPECT_LT((trained["embedding.patch.weight"] - headless["embedding.patch.weight"])
                .abs()
                .max()
                .item<double>(),
            0.5);
}

TEST(Train, DoesNotReplaceWhatItStartsFrom) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 1);
  train(recipe, scratch / "out");
  recipe.start = scratch / "out";
  EXPECT_EQ(
      message_of([&] { train(recipe, scratch / "out"); }),
      "[" + (scratch / "out").string() + "] is the model to start from, needs another folder");
  EXPECT_NO_THROW(train(recipe, scratch / "next"));
}

TEST(Train, GoesOnWithTheSameDataWhereverTheyLieAndWithNoOther) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch));
  train(recipe, scratch / "out", stop_at(1));
  std::filesystem::rename(scratch / "bars", scratch / "moved");
  recipe.data.path = scratch / "moved";
  write_split(scratch / "moved", "train", 448, 2);
  const std::string message = message_of([&] { train(recipe, scratch / "out"); });
  EXPECT_NE(message.find("checkpoint: belongs to a run with another recipe, data or start"),
            std::string::npos)
      << message;
  write_split(scratch / "moved", "train", 448, 1);
  const TrainSummary summary = train(recipe, scratch / "out");
  EXPECT_TRUE(summary.finished);
  EXPECT_EQ(summary.epochs.size(), 3U);
}

TEST(Train, LearnsFromATextOfOneWindow) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "data");
  for (const std::string split : {"train", "test"})
    write_bytes(scratch / ("data/" + split + ".txt"), "sixteen letters and one: more ");
  TrainRecipe recipe;
  recipe.data.path = scratch / "data";
  recipe.data.length = 29;
  recipe.model = model::testing::tiny_text_config(model::Family::gpt2);
  recipe.model.vocabulary = recipe.model.classes = 256;
  recipe.model.context = 29;
  recipe.schedule.epochs = 3;
  recipe.schedule.batch = 4;
  EXPECT_EQ(train(recipe, scratch / "out").epochs.size(), 3U);
}

TEST(Train, RefusesABrokenCheckpoint) {
  const Scratch scratch;
  const TrainRecipe recipe = bars_recipe(bars(scratch));
  train(recipe, scratch / "out", stop_at(1));
  write_bytes(scratch / "out/.work/checkpoint.safetensors", "not a checkpoint");
  const std::string message = message_of([&] { train(recipe, scratch / "out"); });
  EXPECT_NE(message.find("checkpoint.safetensors"), std::string::npos) << message;
}

// Its digest is right, so a program wrote it: an epoch of 10^9 was once "trained".
TEST(Train, RefusesACheckpointThatIsNotOfItsRecipe) {
  const Scratch scratch;
  const TrainRecipe recipe = bars_recipe(bars(scratch));
  train(recipe, scratch / "whole");
  const auto checkpoint = scratch / "out/.work/checkpoint.safetensors";
  train(recipe, scratch / "out", stop_after_epoch(1));
  const std::string good = bytes_of(checkpoint);
  ASSERT_EQ(read_checkpoint_state(checkpoint)["epoch"], 1);
  for (const auto& [field, change] : impossible_states()) {
    forge_state(checkpoint, change);
    const std::string forged = bytes_of(checkpoint);
    const std::string message = message_of([&] { train(recipe, scratch / "out"); });
    EXPECT_EQ(message.rfind("[" + checkpoint.string() + "] " + field, 0), 0U)
        << field << ": " << message;
    EXPECT_EQ(bytes_of(checkpoint), forged);
    EXPECT_FALSE(std::filesystem::exists(scratch / "out/model.safetensors"));
    base::write_whole(checkpoint, good);
  }
  EXPECT_TRUE(train(recipe, scratch / "out").finished);
  EXPECT_EQ(bytes_of(scratch / "out/model.safetensors"),
            bytes_of(scratch / "whole/model.safetensors"));
}

TEST(Train, RefusesAValidationSplitOfEverything) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch));
  recipe.data.validation = 448;
  const std::string message = message_of([&] { train(recipe, scratch / "out"); });
  EXPECT_EQ(message, "[recipe] data.validation: saw 448, needs fewer than the 448 rows there are");
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
}

TEST(Train, SaysWhenTheLossIsNoNumber) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch));
  recipe.schedule.learning_rate = 1e30;
  recipe.schedule.clip_norm = 0;
  const std::string message = message_of([&] { train(recipe, scratch / "out"); });
  EXPECT_NE(message.find("loss: is no longer a number"), std::string::npos) << message;
}

TEST(Train, LeavesTheNumberOfThreadsAsItWas) {
  const Scratch scratch;
  at::set_num_threads(3);
  train(bars_recipe(bars(scratch), 1), scratch / "out");
  EXPECT_EQ(at::get_num_threads(), 3);
}

/// Pictures of bars in folders of classes: what is bright lies further below for each.
void write_classes(const std::filesystem::path& folder, const std::vector<std::string>& names,
                   int count) {
  for (std::size_t c = 0; c < names.size(); ++c) {
    std::filesystem::create_directories(folder / names[c]);
    for (int i = 0; i < count; ++i) {
      model::Image image{8, 8, 1, std::vector<std::uint8_t>(64, 60)};
      for (std::size_t pixel = 16 * c; pixel < 16 * c + 16; ++pixel)
        image.pixels[pixel] =
            static_cast<std::uint8_t>(160 + (i * 7 + static_cast<int>(pixel)) % 60);
      model::write_png(image, folder / names[c] / (std::to_string(i) + ".png"));
    }
  }
}

std::vector<std::string> kinds_of(const base::Remarks& remarks) {
  std::vector<std::string> kinds;
  for (const auto& remark : remarks) kinds.push_back(remark.what);
  return kinds;
}

// Folders are read sorted by class: what is cut off their end would be one class.
TEST(Train, LearnsEveryClassOfFoldersAndKeepsTheirNames) {
  const Scratch scratch;
  const std::vector<std::string> names = {"ant", "bee", "cat", "dog"};
  write_classes(scratch / "data/train", names, 24);
  write_classes(scratch / "data/test", names, 4);
  TrainRecipe recipe = bars_recipe(scratch / "data", 12);
  recipe.data.validation = 16;
  recipe.data.train_limit = 64;
  recipe.schedule.batch = 8;
  const TrainSummary summary = train(recipe, scratch / "out");
  EXPECT_TRUE(summary.remarks.empty());
  EXPECT_GT(summary.epochs.back().validation, 0.9);
  EXPECT_GT(summary.test, 0.9);
  const model::ModelConfig config = model::read_config(scratch / "out");
  EXPECT_EQ(config.labels, names);
  EXPECT_EQ(config.held_out.rows, 96);
  EXPECT_EQ(config.held_out.count, 16);
}

TEST(Train, IsNotJudgedByClassesThatItDoesNotLearn) {
  const Scratch scratch;
  write_classes(scratch / "data/train", {"ant", "bee", "cat", "dog"}, 6);
  write_classes(scratch / "data/test", {"ant", "cat", "eel"}, 2);
  TrainRecipe recipe = bars_recipe(scratch / "data", 1);
  recipe.data.validation = 0;
  recipe.schedule.batch = 8;
  std::string said;
  const TrainSummary summary = train(recipe, scratch / "out", [&](const base::Progress& progress) {
    if (progress.total == 0) said += progress.note + "\n";
    return true;
  });
  ASSERT_TRUE(summary.finished);
  EXPECT_TRUE(std::isnan(summary.test));
  EXPECT_EQ(kinds_of(summary.remarks), std::vector<std::string>{"unknown_class"});
  EXPECT_NE(said.find("warning: [" + (scratch / "data/test").string() +
                      "] class: saw 'eel', which is none of the model's labels"),
            std::string::npos)
      << said;
  EXPECT_EQ(model::read_config(scratch / "out").labels.size(), 4U);
}

TEST(Train, WarnsOfClassesThatItNeverSees) {
  const Scratch scratch;
  const std::vector<std::string> names = {"ant", "bee", "cat", "dog"};
  write_classes(scratch / "data/train", names, 8);
  write_classes(scratch / "data/test", names, 1);
  TrainRecipe recipe = bars_recipe(scratch / "data", 12);
  recipe.data.split = SplitBy::last;
  recipe.data.validation = 8;
  recipe.data.train_limit = 16;
  recipe.schedule.batch = 8;
  const TrainSummary summary = train(recipe, scratch / "out");
  ASSERT_EQ(kinds_of(summary.remarks),
            (std::vector<std::string>{"unseen_classes", "nothing_right"}));
  EXPECT_EQ(summary.remarks[0].text, "[" + (scratch / "data/train").string() +
                                         "] training never sees 2 of 4 classes: cat, dog");
  EXPECT_TRUE(summary.remarks[0].warning && summary.remarks[1].warning);
  EXPECT_EQ(summary.epochs.back().validation, 0);
}

TEST(Train, WarnsOfATestSplitOfWhichNothingIsRight) {
  const Scratch scratch;
  write_classes(scratch / "data/train", {"ant", "bee", "cat", "dog"}, 8);
  write_classes(scratch / "data/test", {"ant", "bee", "cat", "dog"}, 1);
  for (const std::string name : {"ant", "bee"})
    for (const auto& image : std::filesystem::directory_iterator(scratch / "data/test" / name))
      std::filesystem::remove(image.path());
  TrainRecipe recipe = bars_recipe(scratch / "data", 12);
  recipe.data.split = SplitBy::last;
  recipe.data.validation = 0;
  recipe.data.train_limit = 16;
  recipe.schedule.batch = 8;
  std::string said;
  const TrainSummary summary = train(recipe, scratch / "out", [&](const base::Progress& progress) {
    if (progress.total == 0) said += progress.note + "\n";
    return true;
  });
  EXPECT_EQ(summary.test, 0);
  ASSERT_FALSE(summary.remarks.empty());
  EXPECT_EQ(summary.remarks.back().what, "nothing_right");
  EXPECT_TRUE(summary.remarks.back().warning);
  EXPECT_NE(said.find("warning: [test] no answer is right: 0.00 %"), std::string::npos) << said;
}

// A published encoder without a head learns labels: its own weights, a new head, texts of unequal
// length, and the tokenizer goes with it.
TEST(Train, FineTunesAnEncoderOnLabelledTexts) {
  const Scratch scratch;
  model::ModelConfig config = model::testing::tiny_text_config(model::Family::bert);
  config.vocabulary = 256;
  const model::Transformer encoder = model::random_model(config, 1);
  model::save(encoder, scratch / "encoder");
  model::write_byte_tokenizer(scratch / "encoder");
  std::string first, second;
  for (int i = 0; i < 120; ++i) {
    const std::string line =
        std::string(static_cast<std::size_t>(1 + i % 9), i % 2 == 0 ? 'a' : 'z') + "\t" +
        (i % 2 == 0 ? "low" : "high") + "\n";
    (i < 96 ? first : second) += line;
  }
  base::write_whole(scratch / "train.tsv", first);
  base::write_whole(scratch / "test.tsv", second);
  const std::string text =
      "format = 1\ndropout = 0.1\n[data]\nformat = \"tsv\"\npath = \".\"\nvalidation = "
      "12\n[model]\n"
      "start = \"encoder\"\ntask = \"classification\"\nclasses = 2\nlabels = [\"low\", \"high\"]\n"
      "[schedule]\nepochs = 8\nbatch = 8\nlearning_rate = 0.01\n";
  const TrainRecipe recipe = train_recipe_from_toml(text, scratch / "recipe.toml");
  EXPECT_THROW(train_recipe_from_toml(text, scratch / "recipe.toml", scratch / "nowhere"),
               std::runtime_error);  // another start is asked for
  const TrainSummary summary = train(recipe, scratch / "out");
  EXPECT_EQ(summary.measure.name, "accuracy");
  EXPECT_GT(summary.test, 0.95);
  const model::Transformer tuned = model::load(scratch / "out");
  EXPECT_EQ(tuned.config.labels, (std::vector<std::string>{"low", "high"}));
  EXPECT_EQ(tuned.config.task, model::Task::classification);
  EXPECT_EQ(model::read_tokenizer(scratch / "out").vocabulary_size(), 256);
  // The first step left the start behind, but not far.
  const at::Tensor before = encoder["blocks.0.mlp.up.weight"];
  EXPECT_FALSE(tuned["blocks.0.mlp.up.weight"].equal(before));
}

}  // namespace
}  // namespace cleave::calibrate
