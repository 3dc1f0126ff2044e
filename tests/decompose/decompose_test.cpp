#include "decompose/decompose.hpp"

#include <algorithm>
#include <fstream>

#include <gtest/gtest.h>

#include "decompose/fit/heads.hpp"
#include "decompose/fit/unit_losses.hpp"
#include "model/config/hugging_face.hpp"
#include "model/fusion.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "optimizer/plan/weights.hpp"
#include "tests/decompose/planning.hpp"
#include "tests/decompose/running.hpp"
#include "tests/model/fixtures.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::decompose {
namespace {

using testing::expect_equal;
using testing::lively_model;
using testing::lively_teacher;
using testing::message_of;
using testing::names_below;
using testing::Scratch;
using testing::tiny_config;
using testing::tiny_plan;
using testing::whole_plan;

/// Channel c is worth 12 − c, a head or unit likewise: what is chosen is seen at a glance.
Importance descending_importance(const model::ModelConfig& config) {
  const auto down_from = [](std::int64_t size) {
    std::vector<double> values;
    for (std::int64_t i = size; i > 0; --i) values.push_back(static_cast<double>(i));
    return values;
  };
  Importance importance;
  importance.channels = down_from(config.width);
  importance.layers = down_from(config.num_layers());
  for (const auto& layer : config.layers) {
    importance.heads.push_back(down_from(layer.heads));
    importance.mlp.push_back(down_from(layer.mlp_width));
  }
  return importance;
}

SelectOptions discount(double value) {
  SelectOptions options;
  options.overlap_discount = value;
  return options;
}

// ---- select ----

TEST(Select, KeepsAsManyAsThePlanSays) {
  const auto plan = tiny_plan();
  const auto keeps = select(plan, descending_importance(tiny_config()));
  ASSERT_EQ(keeps.size(), 2u);
  for (std::size_t p = 0; p < 2; ++p) {
    EXPECT_TRUE(kept_config(tiny_config(), keeps[p]) == plan.parts[p].sub_model().config);
    EXPECT_EQ(keeps[p].layers, plan.parts[p].sub_model().layers);
  }
}

TEST(Select, FirstTakesTheMostImportant) {
  const auto keeps = select(tiny_plan(), descending_importance(tiny_config()));
  EXPECT_EQ(keeps[0].channels, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(keeps[0].heads, (std::vector<std::vector<std::int64_t>>{{0, 1}, {0}, {0, 1}}));
}

TEST(Select, NextTakesWhatIsLeftAndTheBestAgain) {
  // Held channels are worth 6, 5.5, 5 … now, those left 4, 3, 2, 1.
  const auto keeps = select(tiny_plan(), descending_importance(tiny_config()), discount(0.5));
  EXPECT_EQ(keeps[1].channels, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 8}));
  EXPECT_EQ(keeps[1].heads[0], (std::vector<std::int64_t>{0}));
}

TEST(Select, WithoutADiscountAllTakeTheSame) {
  const auto keeps = select(tiny_plan(), descending_importance(tiny_config()), discount(1));
  EXPECT_EQ(keeps[1].channels, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));
}

TEST(Select, WithFullDiscountOverlapsOnlyWhereItMust) {
  const auto keeps = select(tiny_plan(), descending_importance(tiny_config()), discount(0));
  EXPECT_EQ(keeps[1].channels, (std::vector<std::int64_t>{0, 1, 8, 9, 10, 11}));
  EXPECT_EQ(keeps[1].heads[0], (std::vector<std::int64_t>{2}));
}

TEST(Select, PartitionSharesNothing) {
  auto plan = tiny_plan();
  plan.parts[0].sub_model().config.width = 7;
  plan.parts[1].sub_model().config.width = 5;
  plan.parts[1].sub_model().config.layers[1].heads = 1;
  plan.partition = true;
  auto importance = descending_importance(tiny_config());
  std::fill(importance.channels.begin() + 4, importance.channels.end(), 0);  // dead units too
  const auto keeps = select(plan, importance, discount(1));
  const auto shared = [](const auto& a, const auto& b) {
    std::vector<std::int64_t> both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    return both.size();
  };
  EXPECT_EQ(shared(keeps[0].channels, keeps[1].channels), 0u);
  EXPECT_EQ(shared(keeps[0].heads[0], keeps[1].heads[0]), 0u);
  EXPECT_EQ(shared(keeps[0].heads[2], keeps[1].heads[1]), 0u);
}

TEST(Select, RefusesForeignImportanceAndOptions) {
  auto importance = descending_importance(tiny_config());
  importance.channels.pop_back();
  EXPECT_EQ(message_of([&] { select(tiny_plan(), importance); }),
            "[importance] channels: saw 11 values, needs 12");
  EXPECT_EQ(
      message_of([&] { select(tiny_plan(), descending_importance(tiny_config()), discount(2)); }),
      "[select] options.overlap_discount: saw 2.000000, needs 0..1");
}

// ---- decompose ----

struct Cut {
  explicit Cut(const model::ModelConfig& config = tiny_config())
      : teacher(lively_teacher(scratch, config)) {}
  DecomposeSummary operator()(const plan::Plan& plan,
                              const base::ProgressCallback& progress = {}) const {
    return decompose(teacher, {plan}, descending_importance(plan.teacher), out(), progress);
  }
  std::filesystem::path out() const { return scratch / "bundle"; }

  Scratch scratch;
  std::filesystem::path teacher;
};

TEST(Decompose, WritesABundleThatVerifies) {
  const Cut cut;
  const auto summary = cut(tiny_plan());
  const plan::Bundle bundle(cut.out());
  EXPECT_NO_THROW(bundle.verify(""));
  EXPECT_EQ(bundle.identity(), summary.manifest.identity());
  EXPECT_EQ(bundle.manifest().teacher_digest, plan::digest_model(cut.teacher));
  const auto plan = bundle.plan();
  EXPECT_EQ(plan.teacher_digest, plan::digest_model(cut.teacher));
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const auto folder = bundle.part_path(plan, plan.parts[p].device);
    EXPECT_TRUE(model::load(folder).config == tiny_plan().parts[p].sub_model().config);
    EXPECT_TRUE(read_keep(folder / "keep.json") == summary.keeps[p]);
  }
  const auto fusion = model::load_fusion(bundle.fusion_path(plan), true);
  ASSERT_EQ(fusion.parts.size(), 2u);
  EXPECT_EQ(fusion.parts[1].device, "cam");
  EXPECT_TRUE(
      at::equal(fusion.parts[1].basis, model::channel_basis(summary.keeps[1].channels, 12, "cam")));
  EXPECT_EQ(names_below(cut.scratch.path() / "bundle").count(".work"), 0u);
}

TEST(Decompose, PartsAreTheSlicesThatWereSelected) {
  const Cut cut;
  const auto summary = cut(tiny_plan());
  for (const std::size_t p : {0, 1}) {
    slice(cut.teacher, summary.keeps[p], cut.scratch / "slice");
    const auto part = cut.out() / "parts/default" / tiny_plan().parts[p].device;
    EXPECT_EQ(base::read_text(part / "model.safetensors"),
              base::read_text(cut.scratch / "slice/model.safetensors"));
    EXPECT_EQ(base::read_text(part / "config.json"),
              base::read_text(cut.scratch / "slice/config.json"));
  }
}

TEST(Decompose, WritesPartsThatWereFitted) {
  for (const auto stream : {Stream::channels, Stream::components}) {
    const Cut cut;
    model::Dataset data;
    data.inputs = (testing::seeded({40, 1, 8, 8}, 6) * 40 + 128).clamp(0, 255).to(at::kByte);
    Fitting fitting{data, {}};
    fitting.options.stream = stream;
    std::int64_t told = 0;
    const auto summary = decompose(
        cut.teacher, {tiny_plan()}, descending_importance(tiny_config()), cut.out(),
        [&](const base::Progress& progress) { return told += progress.what == "fit", true; }, {},
        &fitting);
    EXPECT_GT(told, 0);
    const plan::Bundle bundle(cut.out());
    EXPECT_NO_THROW(bundle.verify(""));
    const auto plan = bundle.plan();
    const FitRows rows(tiny_config(), data, fitting.options.batch);
    // Heads and columns are chosen by what the refitted rest cannot make up for.
    auto importance = descending_importance(tiny_config());
    const auto losses = unit_losses(cut.teacher, rows, fitting.options.writer_ridge);
    importance.heads = losses.heads;
    importance.mlp = losses.mlp;
    const auto chosen = select(plan, importance);
    std::vector<model::Transformer> parts;
    for (std::size_t p = 0; p < 2; ++p) {
      slice(cut.teacher, summary.keeps[p], cut.scratch / "slice");
      parts.push_back(model::load(cut.scratch / "slice"));
      EXPECT_EQ(summary.keeps[p].stream, stream);
      EXPECT_EQ(summary.keeps[p].heads, chosen[p].heads);
      EXPECT_EQ(summary.keeps[p].mlp, chosen[p].mlp);
      EXPECT_TRUE(read_keep(bundle.part_path(plan, plan.parts[p].device) / "keep.json") ==
                  summary.keeps[p]);
    }
    const auto fit = fit_parts(cut.teacher, summary.keeps, std::move(parts), rows, fitting.options);
    auto fusion = model::make_fusion(lively_model(),
                                     {{"hub", 0, 0, fit.parts[0].basis, fit.parts[0].origin},
                                      {"cam", 0, 0, fit.parts[1].basis, fit.parts[1].origin}});
    fit_heads(fusion, fit, fitting.options.head_ridge);
    const auto written = model::load_fusion(bundle.fusion_path(plan), true);
    for (std::size_t s = 0; s < 3; ++s)
      testing::expect_equal(written.subsets[s].weight, fusion.subsets[s].weight);
    for (std::size_t p = 0; p < 2; ++p) {
      const auto part = model::load(bundle.part_path(plan, plan.parts[p].device));
      for (const auto& [name, tensor] : fit.parts[p].model.tensors)
        testing::expect_equal(part[name], tensor);
      testing::expect_equal(written.parts[p].basis, fit.parts[p].basis);
    }
  }
}

TEST(Decompose, OnePartThatKeepsEverythingIsTheTeacherBitForBit) {
  for (const auto& config : {tiny_config(), testing::tiny_distilled_config()}) {
    const Cut cut(config);
    cut(whole_plan(config, {"hub"}));
    const plan::Bundle bundle(cut.out());
    const auto plan = bundle.plan();
    const auto part = model::load(bundle.part_path(plan, "hub"));
    const auto fusion = model::load_fusion(bundle.fusion_path(plan));
    const auto x = testing::pictures(config, 3);
    const auto answer = model::answer(fusion, model::fuse(fusion, {model::features(part, x)}));
    testing::expect_equal(answer, model::forward(lively_model(config), x));
  }
}

TEST(Decompose, GivesLocalTheWholeTeacherAndNothingToFuse) {
  const Cut cut;
  auto plan = whole_plan(tiny_config(), {"hub"});
  plan.strategy = "local";
  cut(plan);
  EXPECT_EQ(base::read_text(cut.out() / "parts/default/hub/model.safetensors"),
            base::read_text(cut.teacher / "model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(cut.out() / "fusion"));
}

TEST(Decompose, GivesEachDeviceWhatItsShareReadsAndNothingElse) {
  const Scratch scratch;
  const auto teacher = lively_teacher(scratch);
  const auto whole = model::load(teacher);
  const auto plan = examples::tensor_plan(tiny_config(), 2);
  const auto summary = decompose(teacher, {plan}, {}, scratch / "bundle");
  const plan::Bundle bundle(scratch / "bundle");
  bundle.verify("");
  EXPECT_EQ(plan::weights_state(bundle, bundle.plan()), plan::WeightsState::exact);
  EXPECT_FALSE(std::filesystem::exists(scratch / "bundle" / "parts"));
  for (std::size_t rank = 0; rank < 2; ++rank) {
    const auto held = model::load_holding(bundle.part_path(plan, plan.parts[rank].device));
    const auto needed = plan::holding_of({plan}, plan.parts[rank].device);
    ASSERT_EQ(held.tensors.size(), needed.size());
    for (const auto& some : needed)
      expect_equal(held[some.name],
                   whole[some.name].narrow(some.axis, some.range.begin, some.range.size()));
  }
  // The head answers on the first alone.
  EXPECT_NE(model::load_holding(scratch / "bundle/holdings/d0").find("head.weight"), nullptr);
  EXPECT_EQ(model::load_holding(scratch / "bundle/holdings/d1").find("head.weight"), nullptr);
}

TEST(Decompose, FitsNothingOfAShare) {
  const Scratch scratch;
  const auto teacher = lively_teacher(scratch);
  model::Dataset data;
  const Fitting fitting{data, {}};
  EXPECT_EQ(
      message_of([&] {
        decompose(teacher, {examples::tensor_plan(tiny_config(), 2)}, {}, scratch / "bundle", {},
                  {}, &fitting);
      }),
      "[decompose] plan: saw strategy 'tensor', which takes the teacher's weights as they are: "
      "nothing of it is fitted");
  EXPECT_FALSE(std::filesystem::exists(scratch / "bundle"));
}

TEST(Decompose, GivesAPartWithoutClassesNoClassifier) {
  const Cut cut;
  auto plan = tiny_plan();
  plan.parts[1].sub_model().config.classes = 0;
  cut(plan);
  EXPECT_EQ(model::read_config(cut.out() / "parts/default/hub").classes, 5);
  EXPECT_EQ(model::read_config(cut.out() / "parts/default/cam").classes, 0);
}

TEST(Decompose, TellsWhatIsCoveredAndShared) {
  const Cut cut;
  const auto summary = cut(tiny_plan());
  // Of 12 channels and 8 heads: hub holds channels 0-7 and 5 heads, cam channels 0-3, 8 and 9, head
  // 2 of the first layer, heads 0 and 2 of the last.
  EXPECT_DOUBLE_EQ(summary.covered, (10 + 7) / 20.0);
  EXPECT_DOUBLE_EQ(summary.shared, (4 + 1) / 20.0);
}

TEST(Decompose, IsTheSameTwice) {
  const Cut a, b;
  EXPECT_EQ(a(tiny_plan()).manifest.identity(), b(tiny_plan()).manifest.identity());
}

TEST(Decompose, ReplacesABundleWholly) {
  const Cut cut;
  cut(whole_plan(tiny_config(), {"hub", "old"}));
  std::filesystem::create_directories(cut.out() / ".work/cache");
  for (const char* file :
       {".work/cache/teacher", "calibration.jsonl", "measured.json", "hosts.toml"}) {
    std::ofstream(cut.out() / file) << "x";
  }
  auto local = whole_plan(tiny_config(), {"hub"});
  local.strategy = "local";
  cut(local);
  EXPECT_EQ(names_below(cut.out()),
            (std::set<std::string>{
                "hosts.toml", "manifest.json", "parts", "parts/default", "parts/default/hub",
                "parts/default/hub/config.json", "parts/default/hub/keep.json",
                "parts/default/hub/model.safetensors", "parts/default/hub/preprocessor_config.json",
                "plans", "plans/default.json"}));
  EXPECT_NO_THROW(plan::Bundle(cut.out()).verify(""));
}

TEST(Decompose, KeepsWhatWasMeasuredWhereItCannotReplace) {
  const Cut cut;
  cut(tiny_plan());
  std::filesystem::create_directories(cut.out() / ".work/cache");
  const std::vector<std::string> traces{".work/cache/teacher", "calibration.jsonl",
                                        "measured.json"};
  for (const auto& file : traces) std::ofstream(cut.out() / file) << "x";
  // A folder that stands where a file must go stops the commit.
  std::filesystem::remove(cut.out() / "plans/default.json");
  std::filesystem::create_directories(cut.out() / "plans/default.json/inside");
  EXPECT_NE(message_of([&] { cut(tiny_plan()); }).find("Is a directory"), std::string::npos);
  for (const auto& file : traces) EXPECT_TRUE(std::filesystem::exists(cut.out() / file)) << file;
}

TEST(Decompose, KnowsWhatWouldBeLost) {
  const Cut cut;
  EXPECT_NO_THROW(expect_nothing_lost(cut.out()));
  cut(tiny_plan());
  EXPECT_NO_THROW(expect_nothing_lost(cut.out()));
  std::ofstream(cut.out() / "measured.json") << "{}";  // measured again in a moment
  EXPECT_NO_THROW(expect_nothing_lost(cut.out()));
  const auto lost = [&](const std::string& what) {
    return "[" + cut.out().string() + "] holds a bundle that was calibrated: saw " + what +
           "; needs another folder, or --force to lose them";
  };
  std::filesystem::create_directories(cut.out() / ".work");
  EXPECT_NO_THROW(expect_nothing_lost(cut.out()));
  std::ofstream(cut.out() / ".work/checkpoint.safetensors") << "x";
  const std::string work = ".work (a calibration's checkpoint and the teacher's answers)";
  EXPECT_EQ(message_of([&] { expect_nothing_lost(cut.out()); }), lost(work));
  std::ofstream(cut.out() / "calibration.jsonl") << "x";
  EXPECT_EQ(message_of([&] { expect_nothing_lost(cut.out()); }),
            lost("calibration.jsonl, " + work));
  // A copy without log and checkpoint has the weights.
  std::filesystem::remove_all(cut.out() / ".work");
  std::filesystem::remove(cut.out() / "calibration.jsonl");
  plan::write_calibration(cut.out(), "default", plan::CalibrationState::rejected);
  EXPECT_NO_THROW(expect_nothing_lost(cut.out()));
  plan::write_calibration(cut.out(), "default", plan::CalibrationState::done);
  EXPECT_EQ(message_of([&] { expect_nothing_lost(cut.out()); }),
            lost("the calibrated weights of plan 'default'"));
  cut(tiny_plan());
  EXPECT_NO_THROW(expect_nothing_lost(cut.out()));
}

TEST(Decompose, RefusesAFolderThatIsNoBundle) {
  const Cut cut;
  std::filesystem::create_directories(cut.out());
  std::ofstream(cut.out() / "cat.png") << "x";
  EXPECT_EQ(message_of([&] { cut(tiny_plan()); }),
            "[" + cut.out().string() +
                "] exists and is no bundle: saw no manifest.json, needs a new, an empty or such a "
                "folder");
  EXPECT_EQ(names_below(cut.out()), std::set<std::string>{"cat.png"});
}

TEST(Decompose, RefusesAPlanOfAnotherModel) {
  const Cut cut;
  auto other = tiny_config();
  other.layers[1].mlp_width = 18;
  EXPECT_EQ(message_of([&] {
              cut(whole_plan(other, {"hub"}));
            }).find("[decompose] plan.teacher: made for another model (width 12, 3 layers, "),
            0u);
  auto plan = tiny_plan();
  plan.teacher_digest = std::string(64, '0');
  EXPECT_EQ(message_of([&] { cut(plan); }), "[decompose] plan.teacher_digest: saw " +
                                                plan.teacher_digest + ", the teacher has " +
                                                plan::digest_model(cut.teacher));
  EXPECT_FALSE(std::filesystem::exists(cut.out()));
}

TEST(Decompose, RefusesAPlanThatKeepsMoreThanThereIs) {
  const Cut cut;
  auto plan = tiny_plan();
  plan.parts[0].sub_model().config.layers[1].heads = 3;
  EXPECT_EQ(message_of([&] { cut(plan); }),
            "[check] plan.parts[0].config.layers[1].heads: keeps 3, the teacher has 2");
  EXPECT_FALSE(std::filesystem::exists(cut.out()));
}

TEST(Decompose, RefusesATokenizerOfAnotherModel) {
  const Scratch scratch;
  const auto config = model::testing::tiny_text_config(model::Family::gpt2);
  const auto teacher = lively_teacher(scratch, config);
  auto plan = whole_plan(config, {"hub"});
  plan.shape.tokens = 8;
  const auto cut = [&] {
    decompose(teacher, {plan}, weight_importance(teacher), scratch / "bundle");
  };
  EXPECT_NO_THROW(cut()) << "a model without a tokenizer";
  std::filesystem::remove_all(scratch / "bundle");
  model::write_byte_tokenizer(teacher);
  EXPECT_EQ(message_of(cut), "[" + teacher.string() +
                                 "] tokenizer: saw 256 tokens, needs at most the model's "
                                 "vocabulary of 20");
  EXPECT_FALSE(std::filesystem::exists(scratch / "bundle"));
}

TEST(Decompose, CountsTensorsAndStopsOnRequest) {
  const Cut cut;
  base::Progress first;
  const auto stop = [&](const base::Progress& now) {
    first = now;
    return false;
  };
  EXPECT_EQ(message_of([&] { cut(tiny_plan(), stop); }), "[cut hub] stopped on request");
  EXPECT_EQ(first.done, 0);
  EXPECT_EQ(first.total, static_cast<std::int64_t>(
                             model::parameters(tiny_plan().parts[0].sub_model().config).size() +
                             model::parameters(tiny_plan().parts[1].sub_model().config).size()));
  EXPECT_EQ(names_below(cut.scratch.path()).count("bundle"), 0u);
}

}  // namespace
}  // namespace cleave::decompose
