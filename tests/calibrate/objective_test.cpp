// What calibration makes small: every loss by hand, on weights that do not move.

#include <cmath>
#include <set>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "calibrate/augment.hpp"
#include "calibrate/calibrate.hpp"
#include "calibrate/fused.hpp"
#include "calibrate/loss.hpp"
#include "calibrate/split.hpp"
#include "model/dataset.hpp"
#include "model/lanes.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tests/calibrate/task.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;
namespace fs = std::filesystem;

// A teacher, what it is cut into, and a recipe that measures: no step moves anything, no row is
// kept apart, no stage has epochs.
class Objective : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    bars_bundle(*shared_, bars_teacher(*shared_, 1));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  static fs::path teacher() { return *shared_ / "teacher"; }
  static fs::path data() { return *shared_ / "bars"; }
  fs::path bundle(const std::string& name = "bundle") const {
    fs::copy(*shared_ / "bundle", own_ / name, fs::copy_options::recursive);
    return own_ / name;
  }

  static CalibrateRecipe still() {
    CalibrateRecipe recipe = bars_calibration(data());
    recipe.data.validation = 0;
    recipe.data.augmentation = {};
    recipe.data.augmentation.flip = false;
    recipe.data.augmentation.shift = 0;
    recipe.views = 1;
    recipe.compute = model::Compute::f32;
    for (auto* schedule : {&recipe.alone.schedule, &recipe.boost.schedule, &recipe.joint.schedule,
                           &recipe.head.schedule}) {
      schedule->epochs = 0;
      schedule->learning_rate = 0;
      schedule->warmup_epochs = 0;
      schedule->label_smoothing = 0;
    }
    recipe.alone.labels = recipe.alone.soft_targets = recipe.alone.features = 0;
    recipe.alone.relations = recipe.alone.tokens = 0;
    recipe.boost.labels = recipe.boost.soft_targets = recipe.boost.features = 0;
    for (auto* joint : {&recipe.joint, &recipe.head})
      joint->labels = joint->soft_targets = joint->features = joint->tokens =
          joint->device_dropout = 0;
    return recipe;
  }
  /// The mean loss of the stage with this number.
  double loss(const CalibrateRecipe& recipe, const fs::path& folder, std::size_t stage = 0) const {
    return calibrate(folder, teacher(), recipe).epochs.at(stage).loss;
  }
  double loss(const CalibrateRecipe& recipe) const {
    fs::remove_all(own_ / "bundle");
    return loss(recipe, bundle());
  }
  static model::Dataset rows() {
    return model::read_dataset({"idx", data(), "train", 0}, bars_config());
  }
  static at::Tensor pixels() { return model::inputs_of(bars_config(), rows().inputs); }
  static FusedModel fused() {
    const plan::Bundle bundle(*shared_ / "bundle");
    return load_fused(bundle, bundle.plan(), model::Compute::f32);
  }

  const c10::NoGradGuard no_grad_;
  static Scratch* shared_;
  Scratch own_;
};
Scratch* Objective::shared_ = nullptr;

TEST_F(Objective, WeighsLabelsAndTheTeachersAnswersAsTheRecipeSays) {
  const model::Transformer part = fused().parts[0], whole = model::load(teacher());
  const at::Tensor answers = model::classify(part, model::features(part, pixels()));
  const at::Tensor theirs = model::forward(whole, pixels());
  const double labels = label_loss(answers, rows().labels, 0).mean().item<double>();
  const double soft = soft_target_loss(answers, theirs, 3).mean().item<double>();
  EXPECT_GT(std::abs(labels - soft), 0.05);
  CalibrateRecipe recipe = still();
  recipe.alone.schedule.epochs = 1;
  recipe.alone.labels = 0.25;
  recipe.alone.soft_targets = 2;
  recipe.alone.temperature = 3;
  EXPECT_NEAR(loss(recipe), 0.25 * labels + 2 * soft, 2e-3);
}

TEST_F(Objective, ComparesAPartWithTheChannelsThatItKeeps) {
  const FusedModel model = fused();
  const model::Transformer whole = model::load(teacher());
  const at::Tensor theirs = model::features(whole, pixels());
  CalibrateRecipe recipe = still();
  recipe.alone.schedule.epochs = 1;
  recipe.alone.features = 3;
  const CalibrateSummary summary = calibrate(bundle(), teacher(), recipe);
  for (std::size_t p = 0; p < model.parts.size(); ++p) {
    const at::Tensor kept = model.fusion.parts[p].basis.argmax(0);
    EXPECT_NE(kept.max().item<std::int64_t>(), kept.numel() - 1) << "not the first ones";
    const at::Tensor mine = model::features(model.parts[p], pixels());
    const double expected = feature_loss(mine, theirs.index_select(2, kept)).mean().item<double>();
    EXPECT_NEAR(summary.epochs[p].loss, 3 * expected, 2e-3 * expected + 1e-4) << p;
  }
}

TEST_F(Objective, ComparesRelationsWithTheTeachersLayerThatAPartKeeps) {
  // A teacher whose first block adds nothing: its second alone is as good.
  model::Transformer whole = model::load(teacher());
  for (auto& [name, tensor] : whole.tensors)
    if (name.rfind("blocks.0.attention.output", 0) == 0 || name.rfind("blocks.0.mlp.down", 0) == 0)
      tensor.zero_();
  model::save(whole, own_ / "lazy");
  plan::Plan plan;
  plan.teacher = model::load(own_ / "lazy").config;
  plan.aggregator = "hub";
  plan::PlanPart part;
  part.device = "hub";
  part.sub_model().config = plan.teacher;
  part.sub_model().config.layers.resize(1);
  part.sub_model().layers = {1};
  plan.parts = {part};
  decompose::decompose(own_ / "lazy", {plan}, decompose::weight_importance(own_ / "lazy"),
                       own_ / "cut");
  CalibrateRecipe recipe = still();
  recipe.alone.schedule.epochs = 1;
  recipe.alone.relations = recipe.alone.soft_targets = recipe.alone.features = 1;
  EXPECT_NEAR(calibrate(own_ / "cut", own_ / "lazy", recipe).epochs[0].loss, 0, 1e-4);
}

TEST_F(Objective, AsksTheTeacherAboutTheVeryViewsThatAPartSees) {
  // A part that keeps everything has nothing to learn, whatever the view.
  plan::Plan plan;
  plan.teacher = model::load(teacher()).config;
  plan.aggregator = "hub";
  plan.parts = {{"hub", plan::SubModel{plan.teacher, {0, 1}}, 1, 1}};
  decompose::decompose(teacher(), {plan}, decompose::weight_importance(teacher()), own_ / "whole");
  CalibrateRecipe recipe = still();
  recipe.data.augmentation.flip = true;
  recipe.data.augmentation.shift = 2;
  recipe.views = 2;
  recipe.joint.schedule.epochs = 4;
  recipe.joint.soft_targets = recipe.joint.features = 1;
  for (const EpochRecord& epoch : calibrate(own_ / "whole", teacher(), recipe).epochs)
    EXPECT_NEAR(epoch.loss, 0, 1e-4) << epoch.epoch;
}

TEST_F(Objective, GoesThroughItsViewsInTurn) {
  CalibrateRecipe recipe = still();
  recipe.data.augmentation.shift = 2;
  recipe.views = 2;
  recipe.joint.schedule.epochs = 4;
  recipe.joint.labels = 1;
  const auto epochs = calibrate(bundle(), teacher(), recipe).epochs;
  EXPECT_NEAR(epochs[0].loss, epochs[2].loss, 1e-5);
  EXPECT_NEAR(epochs[1].loss, epochs[3].loss, 1e-5);
  EXPECT_GT(std::abs(epochs[0].loss - epochs[1].loss), 1e-4);
}

TEST_F(Objective, ShufflesTheRowsAnewInEveryEpoch) {
  CalibrateRecipe recipe = still();
  recipe.joint.schedule.epochs = 2;
  recipe.joint.schedule.batch = 300;  // 148 rows are left over, others each time
  recipe.joint.labels = 1;
  const auto epochs = calibrate(bundle(), teacher(), recipe).epochs;
  EXPECT_GT(std::abs(epochs[0].loss - epochs[1].loss), 1e-5);
}

TEST_F(Objective, SharesTheLossBetweenAllDevicesAndThoseThatAreThere) {
  CalibrateRecipe recipe = still();
  recipe.joint.schedule.epochs = 1;
  recipe.joint.labels = 1;
  const double all = loss(recipe);
  recipe.joint.device_dropout = 1;
  const double some = loss(recipe);
  EXPECT_GT(std::abs(all - some), 1e-3);
  recipe.joint.device_dropout = 0.25;
  EXPECT_NEAR(loss(recipe), 0.75 * all + 0.25 * some, 1e-4);
}

TEST_F(Objective, BoostsWhatThePartsBeforeMissed) {
  CalibrateRecipe recipe = still();
  recipe.boost.schedule.epochs = 1;
  recipe.boost.schedule.batch = 64;
  recipe.boost.labels = 1;
  recipe.boost.focus = 2;
  const FusedModel model = fused();
  const auto features = features_of(model, pixels());
  const at::Tensor labels = rows().labels;
  const auto epochs = calibrate(bundle(), teacher(), recipe).epochs;
  const std::int64_t count = labels.size(0), batch = 64, steps = count / batch;
  const std::int64_t pieces = Group().pieces();
  for (std::size_t part = 1; part < 3; ++part) {
    std::vector<at::Tensor> with(3), before(3);
    for (std::size_t p = 0; p <= part; ++p) with[p] = features[p];
    for (std::size_t p = 0; p < part; ++p) before[p] = features[p];
    const auto answer = [&](const std::vector<at::Tensor>& there) {
      return model::answer(model.fusion, model::fuse(model.fusion, there));
    };
    const at::Tensor now = answer(with), then = answer(before);
    const auto order = shuffled(count, {recipe.seed, part - 1, 0});
    const at::Tensor places = at::tensor(order, at::kLong);
    double sum = 0;
    for (std::int64_t piece = 0; piece < steps * pieces; ++piece) {
      const model::Slice mine = model::slice_of(batch, piece % pieces, pieces);
      const at::Tensor some = places.narrow(0, piece / pieces * batch + mine.begin, mine.size());
      const at::Tensor wanted = labels.index_select(0, some);
      const at::Tensor missed = attention_to_errors(then.index_select(0, some), wanted, 2);
      sum += (label_loss(now.index_select(0, some), wanted, 0) * missed).mean().item<double>() *
             static_cast<double>(mine.size()) / static_cast<double>(batch);
    }
    EXPECT_NEAR(epochs[part - 1].loss, sum / static_cast<double>(steps), 1e-4) << part;
  }
}

TEST_F(Objective, EndsItsScheduleWithTheLastStep) {
  // The only step is the last one, whose rate is 0.
  CalibrateRecipe recipe = still();
  recipe.joint.schedule.epochs = 1;
  recipe.joint.schedule.batch = rows().size();
  recipe.joint.schedule.learning_rate = 0.1;
  recipe.joint.labels = 1;
  const fs::path folder = bundle();
  const std::string before = bytes_of(folder / "parts/default/hub/model.safetensors");
  calibrate(folder, teacher(), recipe);
  EXPECT_EQ(bytes_of(folder / "parts/default/hub/model.safetensors"), before);
}

TEST_F(Objective, DoesNotTakeTheTeachersAnswersAboutOtherData) {
  CalibrateRecipe recipe = still();
  recipe.joint.schedule.epochs = 1;
  recipe.joint.soft_targets = 1;
  fs::create_directories(own_ / "others");
  write_split(own_ / "others", "train", 448, 17);
  write_split(own_ / "others", "t10k", 16, 18);
  CalibrateRecipe other = recipe;
  other.data.path = own_ / "others";
  const fs::path first = bundle("first"), second = bundle("second");
  loss(other, first);
  const double expected = loss(recipe);
  fs::create_directories(second / ".work");
  fs::copy(first / ".work/teacher-view-0.safetensors", second / ".work/teacher-view-0.safetensors");
  EXPECT_EQ(loss(recipe, second), expected);
}

TEST_F(Objective, DoesNotLearnFromTheRowsThatDecide) {
  // Other labels in the rows that are kept apart change no weight.
  CalibrateRecipe recipe = bars_calibration(data());
  recipe.boost.schedule.epochs = 0;
  recipe.data.validation = 0;
  recipe.data.train_limit = 64;
  const Split few = read_split(recipe.data, bars_config());
  recipe.data.train_limit = 0;
  recipe.data.validation = 384;
  const Split split = read_split(recipe.data, bars_config());
  EXPECT_EQ(few.training.size(), 64);
  EXPECT_EQ(split.training.size(), 64);
  EXPECT_EQ(split.validation.size(), 384);
  std::set<std::string> learned;
  const auto text_of = [](const at::Tensor& row) {
    const at::Tensor flat = row.contiguous();
    return std::string(static_cast<const char*>(flat.data_ptr()), flat.nbytes());
  };
  const at::Tensor training = split.training.rows(at::arange(64));
  const at::Tensor validation = split.validation.rows(at::arange(384));
  for (std::int64_t i = 0; i < 64; ++i) learned.insert(text_of(training[i]));
  for (std::int64_t i = 0; i < 384; ++i) EXPECT_EQ(learned.count(text_of(validation[i])), 0U) << i;
}

TEST(Average, IsWhatIsJudgedAndKept) {
  const Scratch scratch;
  TrainRecipe recipe = bars_recipe(bars(scratch), 2);
  recipe.ema = 0.9;
  const TrainSummary summary = train(recipe, scratch / "out");
  const auto kept = model::load(scratch / "out");
  const Split split = read_split(recipe.data, recipe.model);
  model::Lanes lanes(2);
  EXPECT_EQ(summary.epochs.back().validation, quality(kept, split.validation, lanes));
  // The weights themselves learn as without it; once it is kept, the checkpoint has them there.
  recipe.ema = 0;
  train(recipe, scratch / "plain");
  const auto plain = model::load(scratch / "plain");
  const model::TensorFiles checkpoint(scratch / "out/.work/checkpoint.safetensors");
  for (const auto& [name, tensor] : plain.tensors) {
    const auto& entry = checkpoint.at("average." + name);
    EXPECT_TRUE(model::read_tensor(checkpoint, entry).equal(tensor)) << name;
  }
  EXPECT_FALSE(kept.tensors.begin()->second.equal(plain.tensors.begin()->second));
}

}  // namespace
}  // namespace cleave::calibrate
