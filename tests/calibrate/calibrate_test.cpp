#include "calibrate/calibrate.hpp"

#include <cmath>
#include <fstream>

#include <gtest/gtest.h>

#include "calibrate/evaluate.hpp"
#include "decompose/decompose.hpp"
#include "model/config/hugging_face.hpp"
#include "model/dataset.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tests/calibrate/checkpoint.hpp"
#include "tests/calibrate/killed.hpp"
#include "tests/calibrate/task.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;
namespace fs = std::filesystem;

/// A teacher and what it is cut into; the bundle is copied for each run.
struct Cut {
  explicit Cut(bool classifiers = true)
      : teacher(bars_teacher(scratch)),
        bundle(bars_bundle(scratch, teacher, classifiers)),
        data(scratch / "bars") {}

  fs::path copy(const std::string& name) const {
    fs::copy(bundle, scratch / name, fs::copy_options::recursive);
    return scratch / name;
  }

  Scratch scratch;
  fs::path teacher, bundle, data;
};

base::ProgressCallback stop_at(int n) {
  return [n, count = 0](const base::Progress&) mutable { return ++count != n; };
}

double fused_accuracy(const fs::path& bundle, const fs::path& data) {
  const auto summary = evaluate(bundle, {}, {"idx", data, "test", 0}, false);
  for (const auto& row : summary.rows)
    if (row.what == "fused") return row.value;
  return -1;
}

TEST(Calibrate, RestoresWhatCuttingLost) {
  const Cut cut;
  const double before = fused_accuracy(cut.bundle, cut.data);
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data));
  ASSERT_TRUE(summary.finished);
  EXPECT_LT(before, 0.8);
  EXPECT_GT(fused_accuracy(cut.bundle, cut.data), 0.9);
  EXPECT_GT(summary.fused_quality, 0.9);
  EXPECT_GT(summary.teacher_quality, 0.9);
}

TEST(Calibrate, EveryTokenOfTheTeacherTeachesByItself) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.boost.schedule.epochs = recipe.head.schedule.epochs = 0;
  recipe.alone.labels = recipe.alone.soft_targets = recipe.alone.features = 0;
  recipe.joint.labels = recipe.joint.soft_targets = recipe.joint.features = 0;
  recipe.alone.relations = 0;
  recipe.alone.tokens = recipe.joint.tokens = 1;
  const double before = fused_accuracy(cut.bundle, cut.data);
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, recipe);
  EXPECT_GT(fused_accuracy(cut.bundle, cut.data), before + 0.1);
  EXPECT_LT(summary.epochs.back().loss, 0.5 * summary.epochs.front().loss);
}

TEST(Calibrate, SaysWhatEachStageBrought) {
  const Cut cut;
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data));
  ASSERT_EQ(summary.stages.size(), 4U);
  const std::vector<std::string> names = {"alone", "boost", "joint", "head"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(summary.stages[i].name, names[i]);
    EXPECT_GT(summary.stages[i].seconds, 0);
    if (i > 0) {
      EXPECT_EQ(summary.stages[i].before, summary.stages[i - 1].after);
    }
  }
  // Three parts alone, two boosted, three joint epochs, one of the head.
  EXPECT_EQ(summary.epochs.size(), 9U);
  EXPECT_EQ(summary.epochs[3].stage, "boost desk");
}

TEST(Calibrate, WritesABundleThatVerifies) {
  const Cut cut;
  const std::string identity = plan::Bundle(cut.bundle).identity();
  calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data));
  const plan::Bundle bundle(cut.bundle);
  EXPECT_NO_THROW(bundle.verify(""));
  EXPECT_NE(bundle.identity(), identity);
  EXPECT_EQ(bundle.manifest().teacher_digest, plan::digest_model(cut.teacher));
  // What the aggregator tells a device at fault by: of the last layer norm, so a few units.
  for (const double largest : bundle.largest_features(bundle.plan())) {
    EXPECT_GT(largest, 0.1);
    EXPECT_LT(largest, 100);
  }
  EXPECT_TRUE(fs::exists(cut.bundle / "parts/default/hub/keep.json"));
  EXPECT_TRUE(fs::exists(cut.bundle / "calibration.jsonl"));
}

TEST(Calibrate, DoneAgainChangesNothingAndAnotherRecipeGoesOnFromThere) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  calibrate(cut.bundle, cut.teacher, recipe);
  const auto once = contents(cut.bundle);
  EXPECT_EQ(calibrate(cut.bundle, cut.teacher, recipe).stages.size(), 4U);
  EXPECT_EQ(contents(cut.bundle), once);
  recipe.seed = 2;
  const CalibrateSummary more = calibrate(cut.bundle, cut.teacher, recipe);
  EXPECT_NE(contents(cut.bundle), once);
  EXPECT_GT(more.stages.front().before, 0.8);
}

TEST(Calibrate, TeachesPartsWithoutAClassifier) {
  const Cut cut(false);
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data));
  EXPECT_GT(summary.fused_quality, 0.9);
  EXPECT_EQ(model::load(cut.bundle / "parts/default/cam").config.classes, 0);
}

TEST(Calibrate, TellsWhatTheFitBroughtBeforeItsOwnStages) {
  const Cut cut;
  model::DatasetSource source;
  source.path = cut.data;
  source.split = "train";
  const auto data = model::read_dataset(source, model::read_config(cut.teacher));
  const plan::Plan plan = plan::Bundle(cut.bundle).plan();
  const decompose::Fitting fitting{data, {}};
  decompose::decompose(cut.teacher, {plan}, decompose::weight_importance(cut.teacher), cut.bundle,
                       {}, {}, &fitting);
  EXPECT_EQ(plan::weights_state(plan::Bundle(cut.bundle), plan), plan::WeightsState::fitted);
  for (const double largest : plan::Bundle(cut.bundle).largest_features(plan))
    EXPECT_GT(largest, 0.1);
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = 0;
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, recipe);
  ASSERT_EQ(summary.stages.size(), 5U);
  EXPECT_EQ(summary.stages[0].name, "cut");
  EXPECT_TRUE(std::isnan(summary.stages[0].before));
  EXPECT_EQ(summary.stages[1].name, "fit");
  EXPECT_EQ(summary.stages[1].before, summary.stages[0].after);
  EXPECT_GT(summary.stages[1].after, summary.stages[0].after);
  EXPECT_EQ(summary.stages[2].name, "closed-form head");
  EXPECT_EQ(summary.stages[2].before, summary.stages[1].after);
  EXPECT_EQ(summary.stages[2].after, summary.start_quality);
  EXPECT_EQ(summary.stages[3].name, "joint");
  EXPECT_EQ(summary.stages[3].before, summary.start_quality);
  EXPECT_FALSE(fs::exists(cut.bundle / ".work/cut"));
  // Said again by the run that is over; not of one that begins from what was calibrated.
  EXPECT_EQ(calibrate(cut.bundle, cut.teacher, recipe).stages.size(), 5U);
  recipe.seed = 2;
  EXPECT_EQ(calibrate(cut.bundle, cut.teacher, recipe).stages.size(), 2U);
}

TEST(Calibrate, StageWithoutEpochsIsLeftOut) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = recipe.joint.schedule.epochs = 0;
  const std::string part = bytes_of(cut.bundle / "parts/default/hub/model.safetensors");
  const std::string fusion = bytes_of(cut.bundle / "fusion/default/model.safetensors");
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, recipe);
  ASSERT_EQ(summary.stages.size(), 1U);
  // Only the head moved.
  EXPECT_EQ(bytes_of(cut.bundle / "parts/default/hub/model.safetensors"), part);
  EXPECT_NE(bytes_of(cut.bundle / "fusion/default/model.safetensors"), fusion);
}

TEST(Calibrate, AloneMovesPartsAndNotTheFusionHead) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.boost.schedule.epochs = recipe.joint.schedule.epochs = recipe.head.schedule.epochs = 0;
  const std::string part = bytes_of(cut.bundle / "parts/default/cam/model.safetensors");
  const std::string fusion = bytes_of(cut.bundle / "fusion/default/model.safetensors");
  calibrate(cut.bundle, cut.teacher, recipe);
  EXPECT_NE(bytes_of(cut.bundle / "parts/default/cam/model.safetensors"), part);
  EXPECT_EQ(bytes_of(cut.bundle / "fusion/default/model.safetensors"), fusion);
}

TEST(Calibrate, BoostLeavesTheFirstPartAsItIs) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.alone.schedule.epochs = recipe.joint.schedule.epochs = recipe.head.schedule.epochs = 0;
  const std::string first = bytes_of(cut.bundle / "parts/default/hub/model.safetensors");
  const std::string second = bytes_of(cut.bundle / "parts/default/desk/model.safetensors");
  calibrate(cut.bundle, cut.teacher, recipe);
  EXPECT_EQ(bytes_of(cut.bundle / "parts/default/hub/model.safetensors"), first);
  EXPECT_NE(bytes_of(cut.bundle / "parts/default/desk/model.safetensors"), second);
}

TEST(Calibrate, HeadThatSawDevicesAbsentAnswersBetterWithoutThem) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = 0;
  recipe.joint.device_dropout = 0;
  recipe.head.schedule.epochs = 6;
  const auto mean_of_subsets = [&](const std::string& name, double dropout) {
    recipe.head.device_dropout = dropout;
    const fs::path bundle = cut.copy(name);
    calibrate(bundle, cut.teacher, recipe);
    double sum = 0;
    for (const auto& row : evaluate(bundle, {}, {"idx", cut.data, "test", 0}, false).rows)
      if (row.what != "fused") sum += row.value;
    return sum / 6;
  };
  EXPECT_GT(mean_of_subsets("with", 0.8), mean_of_subsets("without", 0) + 0.02);
}

TEST(Calibrate, StoppedAndResumedGivesTheSameBundle) {
  const Cut cut;
  const CalibrateRecipe recipe = bars_calibration(cut.data);
  const fs::path whole = cut.copy("whole"), resumed = cut.copy("resumed");
  const CalibrateSummary once = calibrate(whole, cut.teacher, recipe);
  CalibrateSummary summary;
  int stops = 0;
  for (summary = calibrate(resumed, cut.teacher, recipe, stop_at(2));
       !summary.finished && stops < 100; ++stops)
    summary = calibrate(resumed, cut.teacher, recipe, stop_at(2 + stops % 3));
  EXPECT_GT(stops, 2);
  EXPECT_EQ(contents(resumed), contents(whole));
  EXPECT_EQ(summary.fused_quality, once.fused_quality);
  ASSERT_EQ(summary.stages.size(), once.stages.size());
  for (std::size_t i = 0; i < once.stages.size(); ++i)
    EXPECT_EQ(summary.stages[i].before, once.stages[i].before);
}

TEST(Calibrate, KilledAnywhereItResumesToTheSameBundle) {
  const Cut cut;
  const fs::path whole = cut.copy("whole"), killed = cut.copy("killed");
  calibrate(whole, cut.teacher, bars_calibration(cut.data));
  const Deaths deaths = run_until_it_survives({"calibrate", cut.data, killed, cut.teacher}, 15, 31);
  EXPECT_EQ(deaths.exit_code, 0);
  EXPECT_GT(deaths.killed, 0);
  EXPECT_EQ(contents(killed), contents(whole));
}

/// Every file below a folder with its digest, .work/ and logs too.
std::map<std::string, std::string> all_of(const fs::path& folder) {
  std::map<std::string, std::string> found;
  for (const std::string& name : names_below(folder))
    if (fs::is_regular_file(folder / name)) found[name] = base::sha256_file(folder / name);
  return found;
}

/// Stopped while the parts learn alone: teacher's answers and a checkpoint are there.
fs::path stopped_midway(const Cut& cut, const std::string& name) {
  const fs::path bundle = cut.copy(name);
  const auto stop = [](const base::Progress& progress) {
    return progress.what.rfind("boost", 0) != 0;
  };
  EXPECT_FALSE(calibrate(bundle, cut.teacher, bars_calibration(cut.data), stop).finished);
  return bundle;
}

TEST(Calibrate, RefusesADamagedFileOfItsWorkAndChangesNothing) {
  const Cut cut;
  const CalibrateRecipe recipe = bars_calibration(cut.data);
  const fs::path whole = cut.copy("whole"), bundle = stopped_midway(cut, "stopped");
  calibrate(whole, cut.teacher, recipe);
  for (const std::string name : {"checkpoint", "teacher-view-0", "teacher-view-1"}) {
    const fs::path file = bundle / ".work" / (name + ".safetensors");
    const std::string good = bytes_of(file), wanted = "[" + file.string() + "] ";
    const std::string remedy = name == "checkpoint" ? "to start anew" : "to compute them again";
    std::string flipped = good, cut_off = good;
    flipped[good.size() - 5] = static_cast<char>(flipped[good.size() - 5] ^ 4);
    cut_off.pop_back();
    for (const std::string& bytes : {flipped, cut_off}) {
      base::write_whole(file, bytes);
      const auto before = all_of(bundle);
      const std::string message = message_of([&] { calibrate(bundle, cut.teacher, recipe); });
      EXPECT_EQ(message.rfind(wanted, 0), 0U) << message;
      EXPECT_NE(message.find("needs to be deleted " + remedy), std::string::npos) << message;
      EXPECT_EQ(all_of(bundle), before) << name;
    }
    base::write_whole(file, good);
  }
  fs::remove(bundle / ".work/teacher-view-1.safetensors");
  EXPECT_TRUE(calibrate(bundle, cut.teacher, recipe).finished);
  EXPECT_EQ(contents(bundle), contents(whole));
}

// The manifest says that a calibration has begun only once it has.
TEST(Calibrate, RefusesForeignAnswersOfTheTeacherBeforeItBegins) {
  const Cut cut;
  const fs::path bundle = cut.copy("fresh");
  fs::create_directories(bundle / ".work");
  write_bytes(bundle / ".work/teacher-view-1.safetensors", "rubbish");
  const auto before = all_of(bundle);
  EXPECT_NE(message_of([&] {
              calibrate(bundle, cut.teacher, bars_calibration(cut.data));
            }).find("teacher-view-1.safetensors"),
            std::string::npos);
  EXPECT_EQ(all_of(bundle), before);
}

TEST(Calibrate, RefusesACheckpointThatIsNotOfItsRecipe) {
  const Cut cut;
  const CalibrateRecipe recipe = bars_calibration(cut.data);
  const fs::path whole = cut.copy("whole"), bundle = stopped_midway(cut, "stopped");
  calibrate(whole, cut.teacher, recipe);
  const fs::path checkpoint = bundle / ".work/checkpoint.safetensors";
  const std::string good = bytes_of(checkpoint);
  const auto states = impossible_states();  // those that the test of train does not tell better
  for (const std::string field : {"epoch: saw 1000000000", "stage: saw 99", "closed: saw true",
                                  "records: saw none of", "notes.alone"}) {
    forge_state(checkpoint, states.at(field));
    const auto before = all_of(bundle);
    const std::string message = message_of([&] { calibrate(bundle, cut.teacher, recipe); });
    EXPECT_EQ(message.rfind("[" + checkpoint.string() + "] " + field, 0), 0U)
        << field << ": " << message;
    EXPECT_EQ(all_of(bundle), before) << field;
    base::write_whole(checkpoint, good);
  }
  EXPECT_TRUE(calibrate(bundle, cut.teacher, recipe).finished);
  EXPECT_EQ(contents(bundle), contents(whole));
}

std::vector<std::string> texts_of(const base::Remarks& remarks) {
  std::vector<std::string> texts;
  for (const auto& remark : remarks)
    if (remark.what == "other_split") texts.push_back(remark.text);
  return texts;
}

// Its quality on rows that it learned from says nothing, nor does what is lost against it.
TEST(Calibrate, WarnsWhereTheTeacherLearnedFromWhatIsHeldOut) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = recipe.joint.schedule.epochs = 0;
  EXPECT_TRUE(texts_of(calibrate(cut.copy("same"), cut.teacher, recipe).remarks).empty());
  recipe.data.validation = 32;
  EXPECT_TRUE(texts_of(calibrate(cut.copy("fewer"), cut.teacher, recipe).remarks).empty());
  recipe.data.validation = 80;
  const fs::path bundle = cut.copy("more");
  std::string said;
  const CalibrateSummary more =
      calibrate(bundle, cut.teacher, recipe, [&](const base::Progress& progress) {
        if (progress.total == 0) said += progress.note;
        return true;
      });
  ASSERT_EQ(texts_of(more.remarks).size(), 1U);
  EXPECT_EQ(texts_of(more.remarks)[0].rfind("[teacher] split: held out 64 of 448 rows (digest ", 0),
            0U)
      << texts_of(more.remarks)[0];
  EXPECT_EQ(said.rfind("warning: [teacher] split: ", 0), 0U) << said;
  // What is calibrated says which rows it did not learn from, and the next calibration compares.
  const auto part = model::load(bundle / "parts/default/hub").config;
  EXPECT_EQ(part.held_out.count, 80);
  recipe.data.split = SplitBy::last;
  recipe.data.validation = 64;
  EXPECT_EQ(texts_of(calibrate(bundle, cut.teacher, recipe).remarks).size(), 2U);
}

TEST(Calibrate, SaysNothingOfATeacherFromElsewhere) {
  Cut cut;
  model::Transformer teacher = model::load(cut.teacher);
  teacher.config.held_out = {};
  model::save(teacher, cut.scratch / "elsewhere");
  fs::remove_all(cut.bundle);
  bars_bundle(cut.scratch, cut.scratch / "elsewhere");
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = recipe.joint.schedule.epochs = 0;
  EXPECT_TRUE(calibrate(cut.bundle, cut.scratch / "elsewhere", recipe).remarks.empty());
}

TEST(Calibrate, RefusesAnotherTeacher) {
  const Cut cut;
  train(bars_recipe(cut.data, 1), cut.scratch / "other");
  const std::string message =
      message_of([&] { calibrate(cut.bundle, cut.scratch / "other", bars_calibration(cut.data)); });
  EXPECT_NE(message.find("teacher: saw digest"), std::string::npos) << message;
}

TEST(Calibrate, RefusesAPartWhoseDigestIsWrong) {
  const Cut cut;
  const fs::path weights = cut.bundle / "parts/default/desk/model.safetensors";
  std::string bytes = bytes_of(weights);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(weights, bytes);
  const std::string message =
      message_of([&] { calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data)); });
  EXPECT_NE(message.find("parts/default/desk/model.safetensors] digest: saw"), std::string::npos)
      << message;
}

TEST(Calibrate, RefusesARecipeThatDoesNothing) {
  const Cut cut;
  CalibrateRecipe recipe;
  recipe.data.path = cut.data;
  EXPECT_EQ(message_of([&] { calibrate(cut.bundle, cut.teacher, recipe); }),
            "[recipe] epochs: every stage has 0, needs one with more");
}

TEST(Calibrate, RefusesLabelsOfTextsMadeOfTwo) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.data.augmentation.splice = 0.5;
  recipe.alone.labels = 0.3;
  EXPECT_EQ(message_of([&] { calibrate(cut.bundle, cut.teacher, recipe); }),
            "[recipe] alone.labels: saw a weight, needs 0 (a text made of two has no label)");
}

/// A head that learns in leaps.
CalibrateRecipe spoiling(const fs::path& data) {
  CalibrateRecipe recipe = bars_calibration(data);
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = recipe.joint.schedule.epochs = 0;
  recipe.head.schedule.epochs = 3;
  recipe.head.schedule.learning_rate = 30;
  recipe.head.schedule.warmup_epochs = 0;
  recipe.head.schedule.clip_norm = 0;
  return recipe;
}

plan::WeightsState weights_of(const fs::path& folder) {
  const plan::Bundle bundle(folder);
  return plan::weights_state(bundle, bundle.plan());
}

TEST(Calibrate, KeepsTheWeightsThatItBeganWithWhereItsOwnAreWorse) {
  const Cut cut;
  calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data));
  const auto good = contents(cut.bundle);
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, spoiling(cut.data));
  EXPECT_TRUE(summary.finished);
  EXPECT_TRUE(summary.rejected);
  EXPECT_LT(summary.fused_quality, summary.start_quality);
  EXPECT_EQ(summary.message, "it ended worse than it began: the bundle keeps its weights");
  EXPECT_EQ(contents(cut.bundle), good);
  EXPECT_EQ(weights_of(cut.bundle), plan::WeightsState::calibrated);
  // The same call says the same.
  const CalibrateSummary again = calibrate(cut.bundle, cut.teacher, spoiling(cut.data));
  EXPECT_TRUE(again.rejected);
  EXPECT_EQ(again.start_quality, summary.start_quality);
  EXPECT_EQ(again.fused_quality, summary.fused_quality);
  EXPECT_EQ(contents(cut.bundle), good);
}

TEST(Calibrate, KeepsTheStartingMeasureOverAStop) {
  const Cut cut;
  calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data));
  const fs::path whole = cut.copy("whole"), resumed = cut.copy("resumed");
  const CalibrateSummary once = calibrate(whole, cut.teacher, spoiling(cut.data));
  int stops = 0;
  CalibrateSummary summary;
  for (; !summary.finished && stops < 100; ++stops)
    summary = calibrate(resumed, cut.teacher, spoiling(cut.data), stop_at(2));
  EXPECT_GT(stops, 2);
  EXPECT_TRUE(summary.rejected);
  EXPECT_EQ(summary.start_quality, once.start_quality);
  EXPECT_EQ(contents(resumed), contents(whole));
}

TEST(Calibrate, AsGoodAsBeforeIsNotWorse) {
  const Cut cut;
  CalibrateRecipe recipe = spoiling(cut.data);
  recipe.head.schedule.learning_rate = 0;
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, recipe);
  EXPECT_EQ(summary.start_quality, summary.fused_quality);
  EXPECT_FALSE(summary.rejected);
}

TEST(Calibrate, NotesInTheManifestHowFarItCame) {
  const Cut cut;
  EXPECT_EQ(weights_of(cut.bundle), plan::WeightsState::uncalibrated);
  // Good weights that no calibration is noted of.
  const fs::path spoilt = cut.copy("spoilt");
  calibrate(spoilt, cut.teacher, bars_calibration(cut.data));
  plan::write_manifest(spoilt, "default", plan::digest_model(cut.teacher));
  const std::string identity = plan::Bundle(spoilt).identity();
  EXPECT_TRUE(calibrate(spoilt, cut.teacher, spoiling(cut.data)).rejected);
  EXPECT_EQ(weights_of(spoilt), plan::WeightsState::rejected);
  EXPECT_EQ(plan::Bundle(spoilt).identity(), identity);
  calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data), stop_at(2));
  EXPECT_EQ(weights_of(cut.bundle), plan::WeightsState::unfinished);
  calibrate(cut.bundle, cut.teacher, bars_calibration(cut.data));
  EXPECT_EQ(weights_of(cut.bundle), plan::WeightsState::calibrated);
  // The first calibration still holds while another one is under way.
  calibrate(cut.bundle, cut.teacher, spoiling(cut.data), stop_at(2));
  EXPECT_EQ(weights_of(cut.bundle), plan::WeightsState::calibrated);
}

TEST(Calibrate, WithoutAValidationSplitNobodyKnowsWhichIsBetter) {
  const Cut cut;
  CalibrateRecipe recipe = spoiling(cut.data);
  recipe.data.validation = 0;
  const CalibrateSummary summary = calibrate(cut.bundle, cut.teacher, recipe);
  EXPECT_TRUE(std::isnan(summary.start_quality));
  EXPECT_FALSE(summary.rejected);
  EXPECT_NO_THROW(calibrate(cut.bundle, cut.teacher, recipe));
  const auto before = contents(cut.bundle);
  recipe.seed = 2;
  EXPECT_EQ(message_of([&] { calibrate(cut.bundle, cut.teacher, recipe); }),
            "[" + cut.bundle.string() +
                "] was calibrated by another recipe, and without data.validation nobody can tell "
                "which is better; needs a validation split, or --force to lose the first");
  EXPECT_EQ(contents(cut.bundle), before);
  calibrate(cut.bundle, cut.teacher, recipe, {}, Group(), at::kCPU, true);
  EXPECT_NE(contents(cut.bundle), before);
}

TEST(Calibrate, GivesUpAnothersCheckpointOnlyWithForce) {
  const Cut cut;
  const CalibrateRecipe recipe = bars_calibration(cut.data);
  calibrate(cut.bundle, cut.teacher, spoiling(cut.data), stop_at(3));
  const std::string message = message_of([&] { calibrate(cut.bundle, cut.teacher, recipe); });
  EXPECT_NE(message.find("another recipe, data or start; needs another folder, or --force"),
            std::string::npos)
      << message;
  EXPECT_TRUE(calibrate(cut.bundle, cut.teacher, recipe, {}, Group(), at::kCPU, true).finished);
}

TEST(Calibrate, SaysWhenTheTargetIsMissed) {
  const Cut cut;
  CalibrateRecipe recipe = bars_calibration(cut.data);
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = recipe.joint.schedule.epochs = 0;
  recipe.head.schedule.learning_rate = 0;
  recipe.target_loss_points = 0.1;
  EXPECT_TRUE(calibrate(cut.copy("missed"), cut.teacher, recipe).below_target);
  recipe.target_loss_points = 100;
  EXPECT_FALSE(calibrate(cut.copy("met"), cut.teacher, recipe).below_target);
}

}  // namespace
}  // namespace cleave::calibrate
