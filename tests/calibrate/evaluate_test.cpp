#include "calibrate/evaluate.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/lanes.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tests/calibrate/task.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;

const QualityRow* find(const EvaluateSummary& summary, const std::string& what) {
  for (const QualityRow& row : summary.rows)
    if (row.what == what) return &row;
  return nullptr;
}

TEST(Evaluate, LooksAtEverySubset) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch);
  const auto bundle = bars_bundle(scratch, teacher);
  const EvaluateSummary summary =
      evaluate(bundle, teacher, {"auto", scratch / "bars", "test", 0}, false);
  EXPECT_EQ(summary.size, 128);
  std::vector<std::string> names;
  for (const QualityRow& row : summary.rows) names.push_back(row.what);
  EXPECT_EQ(names,
            (std::vector<std::string>{"teacher", "hub alone", "desk alone", "cam alone", "fused",
                                      "without cam", "without desk", "without hub"}));
  EXPECT_GT(find(summary, "teacher")->value, 0.9);
  EXPECT_EQ(find(summary, "without desk")->present, (std::vector<std::string>{"hub", "cam"}));
  EXPECT_FALSE(std::filesystem::exists(bundle / "measured.json"));
}

TEST(Evaluate, StoresItsTableBesideOtherFigures) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch, 1);
  const auto bundle = bars_bundle(scratch, teacher);
  plan::write_measured(bundle, "bench", {{"latency_s", 0.25}});
  const EvaluateSummary summary = evaluate(bundle, {}, {"idx", scratch / "bars", "test", 20}, true);
  EXPECT_EQ(find(summary, "teacher"), nullptr);
  const auto measured = plan::read_measured(bundle);
  EXPECT_EQ(measured.at("bench").at("latency_s"), 0.25);
  const auto& accuracy = measured.at("accuracy");
  EXPECT_EQ(accuracy.at("size"), 20);
  EXPECT_EQ(accuracy.at("bundle"), plan::Bundle(bundle).identity());
  EXPECT_EQ(accuracy.at("rows").size(), 7U);
  EXPECT_EQ(accuracy.at("rows")[3].at("value"), summary.rows[3].value);
}

TEST(Evaluate, ComputesOnAsManyThreadsAsItIsTold) {
  const Scratch scratch;
  const auto bundle = bars_bundle(scratch, bars_teacher(scratch, 1));
  const auto threads_with = [&](int lanes) {
    std::ptrdiff_t threads = 0;
    const auto count = [&](const base::Progress&) {
      threads = std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
      return true;
    };
    evaluate(bundle, {}, {"idx", scratch / "bars", "test", 0}, false, count, at::kCPU, lanes);
    return threads;
  };
  threads_with(1);  // threads that ended before are gone by now
  const auto few = threads_with(1);
  EXPECT_EQ(threads_with(5), few + 4);
}

TEST(Evaluate, APartThatKeepsEverythingIsTheTeacher) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch, 1);
  plan::Plan plan;
  plan.teacher = model::load(teacher).config;
  plan.aggregator = "hub";
  plan.parts = {{"hub", plan::SubModel{plan.teacher, {0, 1}}, 1, 1}};
  decompose::decompose(teacher, {plan}, decompose::weight_importance(teacher), scratch / "bundle");
  const EvaluateSummary summary =
      evaluate(scratch / "bundle", teacher, {"idx", scratch / "bars", "test", 0}, false);
  ASSERT_EQ(summary.rows.size(), 2U);
  EXPECT_EQ(summary.rows[1].what, "fused");
  EXPECT_EQ(summary.rows[0].value, summary.rows[1].value);
}

/// Two devices with rows of the teacher, in segments of two.
plan::Plan of_segments(const std::filesystem::path& teacher) {
  plan::Plan plan;
  plan.teacher = model::load(teacher).config;
  plan.strategy = "prism";
  plan.aggregator = "hub";
  plan.segments.emplace().compression = {200};
  plan::Share share = plan::whole_share(plan.teacher);
  share.rows = 1;
  plan.parts = {{"hub", share, 1, 1}, {"cam", share, 1, 1}};
  return plan;
}

TEST(Evaluate, AsksTheDevicesThatShareAModelTogether) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch, 1);
  const plan::Plan plan = of_segments(teacher);
  decompose::decompose(teacher, {plan}, decompose::weight_importance(teacher), scratch / "bundle");
  const model::Transformer whole = model::load(teacher);
  const auto as_the_teacher = [&](const plan::Plan& asked, const at::Tensor& pixels) {
    EXPECT_EQ(plan::digest_of(asked), plan::digest_of(plan::Bundle(scratch / "bundle").plan()));
    EXPECT_EQ(pixels.scalar_type(), at::kByte);
    return model::forward(whole, model::normalise_pixels(whole.config, pixels));
  };
  const EvaluateSummary summary =
      evaluate(scratch / "bundle", teacher, {"idx", scratch / "bars", "test", 0}, true, {},
               at::kCPU, 2, as_the_teacher);
  ASSERT_EQ(summary.rows.size(), 2U);
  EXPECT_EQ(summary.rows[1].what, "fused");
  EXPECT_EQ(summary.rows[1].present, (std::vector<std::string>{"hub", "cam"}));
  EXPECT_EQ(summary.rows[1].value, summary.rows[0].value);
  EXPECT_EQ(plan::read_measured(scratch / "bundle").at("accuracy").at("rows").size(), 2U);
}

TEST(Evaluate, OfDevicesThatShareAModelNeedsAnswersOfTheirOwn) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch, 1);
  plan::Plan plan = of_segments(teacher);
  const auto refusal = [&](const std::string& name) {
    decompose::decompose(teacher, {plan}, decompose::weight_importance(teacher), scratch / name);
    return message_of([&] {
      evaluate(scratch / name, {}, {"idx", scratch / "bars", "test", 0}, false);
    });
  };
  EXPECT_EQ(refusal("near"), "[" + (scratch / "near").string() +
                                 "] plan 'default': strategy prism runs on an engine: saw none");
  plan.strategy = "voltage";
  plan.segments.reset();
  EXPECT_EQ(refusal("exact"),
            "[" + (scratch / "exact").string() +
                "] plan 'default': strategy voltage answers as the teacher does: evaluate the "
                "teacher's folder");
}

/// Makes `model` answer one class, whatever it sees.
void answer_always(const std::filesystem::path& folder, std::int64_t answer) {
  model::Transformer model = model::load(folder);
  model["head.weight"].zero_();
  model["head.bias"].zero_();
  model["head.bias"][answer] = 1;
  model::save(model, folder);
}

/// A test split of bars that are all of one class.
void write_one_class(const std::filesystem::path& folder, char label, int count) {
  std::filesystem::create_directories(folder);
  const auto rows = static_cast<std::uint32_t>(count);
  write_split(folder, "t10k", rows, 1);
  write_bytes(
      folder / "t10k-labels-idx1-ubyte",
      big_endian(0x801) + big_endian(rows) + std::string(static_cast<std::size_t>(count), label));
}

TEST(Evaluate, WarnsWhereTheWholeHasNothingRight) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch, 1);
  answer_always(teacher, 2);
  plan::Plan plan;
  plan.teacher = model::load(teacher).config;
  plan.aggregator = "hub";
  plan.parts = {{"hub", plan::SubModel{plan.teacher, {0, 1}}, 1, 1}};
  decompose::decompose(teacher, {plan}, decompose::weight_importance(teacher), scratch / "bundle");
  write_one_class(scratch / "wrong", 1, 8);
  write_one_class(scratch / "right", 2, 8);
  const auto judged = [&](const std::string& data) {
    const model::DatasetSource source{"idx", scratch / data, "test", 0};
    return std::pair(evaluate_model(teacher, source).remarks,
                     evaluate(scratch / "bundle", teacher, source, false).remarks);
  };
  const auto [model, bundle] = judged("wrong");
  for (const base::Remarks& remarks : {model, bundle}) {
    ASSERT_EQ(remarks.size(), 1U);
    EXPECT_EQ(remarks[0].what, "nothing_right");
    EXPECT_TRUE(remarks[0].warning);
    EXPECT_EQ(remarks[0].text.find("[test] no answer is right: 0.00 %"), 0U) << remarks[0].text;
  }
  const auto [good_model, good_bundle] = judged("right");
  EXPECT_TRUE(good_model.empty());
  EXPECT_TRUE(good_bundle.empty());
}

TEST(Evaluate, RefusesAnotherTeacher) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch, 1);
  const auto bundle = bars_bundle(scratch, teacher);
  const auto other = scratch / "other";
  train(bars_recipe(scratch / "bars", 2), other);
  EXPECT_EQ(message_of([&] {
              evaluate(bundle, other, {"idx", scratch / "bars", "test", 0}, true);
            }),
            "[" + other.string() + "] teacher: saw digest " +
                plan::digest_model(other).substr(0, 12) + ", " + bundle.string() +
                " was cut from " + plan::digest_model(teacher).substr(0, 12));
  EXPECT_FALSE(std::filesystem::exists(bundle / "measured.json"));
}

TEST(Evaluate, RefusesAPartWhoseDigestIsWrong) {
  const Scratch scratch;
  const auto bundle = bars_bundle(scratch, bars_teacher(scratch, 1));
  write_bytes(bundle / "parts/default/cam/config.json", "{}");
  const std::string message = message_of([&] {
    evaluate(bundle, {}, {"idx", scratch / "bars", "test", 0}, false);
  });
  EXPECT_NE(message.find("parts/default/cam/config.json] size: saw 2 bytes"), std::string::npos)
      << message;
}

TEST(Quality, CountsRightAnswersHoweverTheyAreSharedOut) {
  const Scratch scratch;
  const auto model = model::load(bars_teacher(scratch, 3));
  const auto data = model::read_dataset({"idx", scratch / "bars", "test", 0}, model.config);
  model::Lanes one(1), two(2);
  const double whole = quality(model, data, one);
  EXPECT_EQ(quality(model, data, two), whole);
  const at::Tensor answers =
      model::forward(model, model::inputs_of(model.config, data.inputs)).argmax(1);
  EXPECT_DOUBLE_EQ(whole, answers.eq(data.labels).to(at::kDouble).mean().item<double>());
  model::Dataset wrong = data;
  wrong.labels = (data.labels + 1) % 4;
  EXPECT_LT(quality(model, wrong, one), 1 - whole + 1e-9);
}

// Embeddings that the model leaves at their length are judged by their direction all the same.
TEST(Quality, LooksAtDirectionsHoweverLongEmbeddingsAre) {
  model::ModelConfig config;
  config.task = model::Task::embedding;
  const at::Tensor answers = at::tensor({3.0F, 4.0F, 0.0F, 2.0F}).view({2, 2});
  EXPECT_TRUE(at::equal(directions_of(config, answers), answers)) << "scaled already";
  config.normalised = false;
  const model::Dataset data;
  EXPECT_TRUE(at::allclose(marks(config, data, 0, answers),
                           at::tensor({0.6F, 0.8F, 0.0F, 1.0F}).view({2, 2})));
}

TEST(Quality, IsNoNumberWithoutRows) {
  const auto model = model::random_model(bars_config(), 1);
  model::Dataset none;
  none.inputs = at::empty({0, 1, 8, 8}, at::kByte);
  none.labels = at::empty({0}, at::kLong);
  model::Lanes lanes(1);
  EXPECT_TRUE(std::isnan(quality(model, none, lanes)));
}

// Nats of two windows of three tokens; of the second only the last counts.
TEST(Quality, CountsTheTokensThatAWindowJudges) {
  model::ModelConfig config;
  config.task = model::Task::causal_lm;
  model::Dataset data;
  data.stream = at::tensor({0, 1, 0, 1, 1}, at::kInt);
  data.inputs = at::stack({data.stream.narrow(0, 0, 4), data.stream.narrow(0, 1, 4)});
  at::manual_seed(1);
  const at::Tensor answers = at::randn({2, 3, 2});
  const at::Tensor nats = -at::log_softmax(answers, -1);
  const auto sum = [&](std::int64_t row, std::int64_t from) {
    double total = 0;
    for (std::int64_t i = from; i < 3; ++i)
      total += nats[row][i][data.inputs[row][i + 1].item<int>()].item<double>();
    return total;
  };
  EXPECT_NEAR(quality_of(config, data, marks(config, data, 0, answers)),
              (sum(0, 0) + sum(1, 0)) / 6, 1e-6);
  data.judged = at::tensor({3, 1}, at::kLong);
  EXPECT_NEAR(quality_of(config, data, marks(config, data, 0, answers)),
              (sum(0, 0) + sum(1, 2)) / 4, 1e-6);
}

TEST(Quality, CountsTheTokensThatAreMasked) {
  model::ModelConfig config;
  config.task = model::Task::masked_lm;
  constexpr std::int64_t none = model::Dataset::no_label;
  model::Dataset data;
  data.inputs = at::zeros({2, 3}, at::kInt);
  data.labels = at::tensor(std::vector<std::int64_t>{none, 1, none, 0, 1, none}).view({2, 3});
  at::manual_seed(1);
  const at::Tensor answers = at::randn({2, 3, 2});
  const at::Tensor nats = -at::log_softmax(answers, -1);
  const double sum = (nats[0][1][1] + nats[1][0][0] + nats[1][1][1]).item<double>();
  EXPECT_NEAR(quality_of(config, data, marks(config, data, 0, answers)), sum / 3, 1e-6);
}

// By hand: ranks 0 1 2 3 and 0 2.5 2.5 1 (a tie shares its mean rank).
TEST(Quality, SpearmanIsPearsonOfRanks) {
  const at::Tensor a = at::tensor({1.0, 2.0, 3.0, 9.0});
  EXPECT_DOUBLE_EQ(spearman(a, at::tensor({10.0, 20.0, 30.0, 31.0})), 1);
  EXPECT_DOUBLE_EQ(spearman(a, at::tensor({4.0, 3.0, 2.0, 1.0})), -1);
  EXPECT_NEAR(spearman(a, at::tensor({0.0, 5.0, 5.0, 1.0})), 1.5 / std::sqrt(5 * 4.5), 1e-12);
  EXPECT_EQ(spearman(a, at::tensor({7.0, 7.0, 7.0, 7.0})), 0);
}

TEST(Measure, SaysWhatIsMoreOrAbove) {
  const auto accuracy = measure_named("accuracy"), nats = measure_named("nats");
  EXPECT_EQ(compared(accuracy, 0.90, 0.88), "-2.00");
  EXPECT_EQ(compared(accuracy, 0.90, 0.91), "+1.00");
  EXPECT_EQ(compared(accuracy, 0.90, 0.90), "+0.00");
  EXPECT_EQ(compared(nats, 1.6, 1.68), "+5.00");  // worse: above
  EXPECT_EQ(compared(nats, 1.6, std::nan("")), "–");
}

}  // namespace
}  // namespace cleave::calibrate
