#include "optimizer/plan/transfer.hpp"

#include <gtest/gtest.h>

#include "optimizer/plan/program.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::plan {
namespace {

/// Two parts of the small ViT: one narrow and shallow, one wide.
Plan small_plan() {
  Plan plan;
  plan.teacher = examples::fashion_vit();
  plan.aggregator = "hub";
  PlanPart wide;
  wide.device = "hub";
  wide.sub_model().config = plan.teacher;
  wide.sub_model().config.width = 96;
  wide.sub_model().config.layers.assign(6, {3, 384});
  wide.sub_model().layers = {0, 1, 2, 3, 4, 5};
  PlanPart narrow = wide;
  narrow.device = "cam";
  narrow.sub_model().config.width = 48;
  narrow.sub_model().config.layers = {{1, 96}, {2, 0}, {1, 192}};
  narrow.sub_model().layers = {0, 3, 5};
  plan.parts = {wide, narrow};
  return plan;
}

TEST(Transferred, ToTheSameTeacherChangesNothing) {
  const Plan plan = small_plan();
  const Plan same = transferred(plan, plan.teacher);
  ASSERT_EQ(same.parts.size(), 2U);
  for (std::size_t p = 0; p < 2; ++p) {
    EXPECT_TRUE(same.parts[p].sub_model().config == plan.parts[p].sub_model().config);
    EXPECT_EQ(same.parts[p].sub_model().layers, plan.parts[p].sub_model().layers);
  }
}

TEST(Transferred, KeepsRelativeWidthsHeadsAndDepth) {
  const Plan large = transferred(small_plan(), examples::vit_base());
  ASSERT_EQ(large.parts.size(), 2U);
  EXPECT_EQ(large.parts[0].sub_model().config.width, 384);
  EXPECT_EQ(large.parts[0].sub_model().config.layers.size(), 12U);
  EXPECT_EQ(large.parts[0].sub_model().config.layers[7].heads, 6);
  EXPECT_EQ(large.parts[0].sub_model().config.layers[7].mlp_width, 1536);
  const PlanPart& narrow = large.parts[1];
  EXPECT_EQ(narrow.device, "cam");
  EXPECT_EQ(narrow.sub_model().config.width, 192);
  EXPECT_EQ(narrow.sub_model().layers, (std::vector<std::int64_t>{0, 1, 6, 7, 10, 11}));
  EXPECT_EQ(narrow.sub_model().config.layers[3].heads, 4);
  EXPECT_EQ(narrow.sub_model().config.layers[3].mlp_width, 0);
  EXPECT_EQ(narrow.sub_model().config.layers[4].mlp_width, 768);
  EXPECT_EQ(large.aggregator, "hub");
  EXPECT_TRUE(large.teacher == examples::vit_base());
  EXPECT_GT(large.parts[0].parameter_share, large.parts[1].parameter_share);
  EXPECT_GT(large.parts[0].compute_share, 0.2);
  EXPECT_EQ(compile(large, large.shape).size(), 3U);
}

TEST(Transferred, ToAShallowTeacherKeepsAtLeastAHeadAndAColumn) {
  const Plan tiny = transferred(small_plan(), examples::vit(2, 16, 1, 8, 4, 1, 3));
  EXPECT_EQ(tiny.parts[1].sub_model().layers, (std::vector<std::int64_t>{0, 1}));
  for (const auto& layer : tiny.parts[1].sub_model().config.layers) EXPECT_EQ(layer.heads, 1);
  EXPECT_EQ(tiny.parts[1].sub_model().config.width, 8);
}

TEST(Transferred, KeepsHeadsInWholeGroupsAndTheTextsItIsFor) {
  Plan plan;
  plan.teacher = examples::small_llama();
  plan.aggregator = "hub";
  plan.shape = examples::generated_texts();
  plan.parts = {examples::part(plan.teacher, "hub", 4, 96, 6, 256),
                examples::part(plan.teacher, "cam", 2, 48, 3, 64)};
  const Plan large = transferred(plan, examples::llama(8, 512, 32, 4, 1376, 500, 2048));
  EXPECT_TRUE(large.shape == plan.shape);
  EXPECT_EQ(large.parts[0].sub_model().config.layers[7].heads, 16);
  EXPECT_EQ(large.parts[0].sub_model().config.layers[7].mlp_width, 688);
  EXPECT_EQ(large.parts[1].sub_model().config.layers[0].heads, 8);
  EXPECT_EQ(compile(large, large.shape).size(), 3U);
}

TEST(Transferred, RefusesAPlanWithoutSubModels) {
  Plan plan = small_plan();
  plan.strategy = "local";
  EXPECT_THROW(transferred(plan, examples::vit_base()), std::invalid_argument);
}

}  // namespace
}  // namespace cleave::plan
