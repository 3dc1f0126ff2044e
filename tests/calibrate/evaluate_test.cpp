#include "calibrate/evaluate.hpp"

#include <cmath>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "calibrate/lanes.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tests/calibrate/task.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;

const AccuracyRow* find(const EvaluateSummary& summary, const std::string& what) {
  for (const AccuracyRow& row : summary.rows)
    if (row.what == what) return &row;
  return nullptr;
}

TEST(Evaluate, LooksAtEverySubset) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch);
  const auto bundle = bars_bundle(scratch, teacher);
  const EvaluateSummary summary =
      evaluate(bundle, teacher, {"auto", scratch / "bars", "test", 0}, false);
  EXPECT_EQ(summary.images, 128);
  std::vector<std::string> names;
  for (const AccuracyRow& row : summary.rows) names.push_back(row.what);
  EXPECT_EQ(names,
            (std::vector<std::string>{"teacher", "hub alone", "desk alone", "cam alone", "fused",
                                      "without cam", "without desk", "without hub"}));
  EXPECT_GT(find(summary, "teacher")->accuracy, 0.9);
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
  EXPECT_EQ(accuracy.at("images"), 20);
  EXPECT_EQ(accuracy.at("bundle"), plan::Bundle(bundle).identity());
  EXPECT_EQ(accuracy.at("rows").size(), 7U);
  EXPECT_EQ(accuracy.at("rows")[3].at("accuracy"), summary.rows[3].accuracy);
}

TEST(Evaluate, APartThatKeepsEverythingIsTheTeacher) {
  const Scratch scratch;
  const auto teacher = bars_teacher(scratch, 1);
  plan::Plan plan;
  plan.teacher = model::load(teacher).config;
  plan.aggregator = "hub";
  plan.parts = {{"hub", plan.teacher, {0, 1}, 1, 1}};
  decompose::decompose(teacher, plan, decompose::weight_importance(teacher), scratch / "bundle");
  const EvaluateSummary summary =
      evaluate(scratch / "bundle", teacher, {"idx", scratch / "bars", "test", 0}, false);
  ASSERT_EQ(summary.rows.size(), 2U);
  EXPECT_EQ(summary.rows[1].what, "fused");
  EXPECT_EQ(summary.rows[0].accuracy, summary.rows[1].accuracy);
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

TEST(Accuracy, CountsRightAnswersHoweverTheyAreSharedOut) {
  const Scratch scratch;
  const auto model = model::load(bars_teacher(scratch, 3));
  const auto data = model::read_dataset({"idx", scratch / "bars", "test", 0}, model.config);
  const double whole = accuracy(model, data, 7);
  Lanes lanes(2);
  EXPECT_EQ(accuracy(model, data, lanes), whole);
  model::Dataset wrong = data;
  wrong.labels = (data.labels + 1) % 4;
  EXPECT_LT(accuracy(model, wrong), 1 - whole + 1e-9);
}

TEST(Accuracy, IsNoNumberWithoutImages) {
  const auto model = model::random_model(bars_config(), 1);
  const model::Dataset none{at::empty({0, 1, 8, 8}, at::kByte), at::empty({0}, at::kLong), {}};
  EXPECT_TRUE(std::isnan(accuracy(model, none)));
}

}  // namespace
}  // namespace cleave::calibrate
