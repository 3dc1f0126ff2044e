// A masked language model: importance, cut, calibration and evaluation on running text.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "calibrate/calibrate.hpp"
#include "calibrate/evaluate.hpp"
#include "calibrate/split.hpp"
#include "decompose/importance.hpp"
#include "tests/calibrate/task.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;
namespace fs = std::filesystem;

/// A BERT of 20 words, and a text of them.
struct Masked {
  Masked() {
    model::ModelConfig config = model::testing::tiny_text_config(model::Family::bert);
    config.task = model::Task::masked_lm;
    config.classes = config.vocabulary;
    model::Transformer lively = model::random_model(config, 1);
    at::manual_seed(1);
    for (auto& [name, tensor] : lively.tensors) tensor = tensor + 0.3 * at::randn_like(tensor);
    model::save(lively, teacher);
    write_bytes(
        teacher / "vocab.txt",
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\nn\no\n");
    fs::create_directories(scratch / "data");
    std::string text;
    for (int i = 0; i < 2000; ++i)
      text += std::string(1, static_cast<char>('a' + i * i % 15)) + " ";
    write_bytes(scratch / "data/train.txt", text);
    write_bytes(scratch / "data/test.txt", text.substr(0, 600));
    const auto tokenizer = tokenizer_of(config, teacher);
    model::DatasetSource source;
    source.path = scratch / "data";
    source.tokenizer = tokenizer.get();
    decompose::decompose(teacher, {two_text_parts(config)},
                         decompose::measure_importance(lively, read_dataset(source, config)),
                         bundle);
  }

  double fused() const {
    model::DatasetSource source;
    source.path = scratch / "data";
    for (const auto& row : evaluate(bundle, teacher, source, false).rows)
      if (row.what == "fused") return row.value;
    return -1;
  }

  CalibrateRecipe recipe() const {
    CalibrateRecipe recipe = bars_calibration(scratch / "data");
    recipe.data.validation = 16;
    for (auto* schedule : {&recipe.alone.schedule, &recipe.boost.schedule, &recipe.joint.schedule,
                           &recipe.head.schedule}) {
      schedule->batch = 8;
      schedule->epochs = 3;
    }
    recipe.joint.schedule.epochs = 10;
    return recipe;
  }

  Scratch scratch;
  fs::path teacher = scratch / "teacher", bundle = scratch / "bundle";
};

TEST(MaskedLanguageModel, IsCalibratedTowardsItsTeacher) {
  const Masked made;
  CalibrateRecipe recipe = made.recipe();
  recipe.alone.labels = recipe.joint.labels = 0;
  recipe.alone.schedule.epochs = recipe.boost.schedule.epochs = recipe.head.schedule.epochs = 0;
  const CalibrateSummary summary = calibrate(made.bundle, made.teacher, recipe);
  EXPECT_EQ(summary.measure.name, "nats");
  EXPECT_LT(summary.epochs.back().loss, 0.5 * summary.epochs.front().loss);
}

TEST(MaskedLanguageModel, LearnsWhatIsMaskedFromTheText) {
  const Masked made;
  CalibrateRecipe recipe = made.recipe();
  recipe.alone.soft_targets = recipe.joint.soft_targets = 0;
  recipe.alone.features = recipe.joint.features = 0;
  recipe.alone.labels = recipe.joint.labels = 1;
  const double before = made.fused();
  calibrate(made.bundle, made.teacher, recipe);
  EXPECT_LT(made.fused(), 0.8 * before);
}

}  // namespace
}  // namespace cleave::calibrate
