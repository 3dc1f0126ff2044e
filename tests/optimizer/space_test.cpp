#include "optimizer/decomposed/space.hpp"

#include <random>

#include <gtest/gtest.h>

#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/program.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::optimizer {
namespace {

Space space_of(const model::ModelConfig& teacher, const PlanOptions& options = {},
               const ImportanceProfile& importance = {}) {
  return Space(teacher, examples::three_devices(), options, importance);
}

Share any_share(const Space& space, std::mt19937_64& random) {
  Share share{};
  for (const Axis axis : all_axes)
    share[axis] = std::uniform_int_distribution<std::int32_t>(space.smallest()[axis],
                                                              space.largest()[axis])(random);
  return share;
}

model::ModelConfig cut_before() {
  auto teacher = examples::fashion_vit();
  teacher.layers[1] = {2, 200};
  teacher.layers[3] = {0, 768};
  teacher.layers[4] = {6, 0};
  return teacher;
}

PlanOptions generating() {
  PlanOptions options;
  options.shape = examples::generated_texts();
  return options;
}

/// What the space says about a share is what the plan's own rules say about its config.
void expect_exact(const model::ModelConfig& teacher, const PlanOptions& options = {}) {
  const Space space = space_of(teacher, options);
  const plan::Fleet fleet = examples::three_devices();
  const plan::Load load = plan::planned_load(options.shape);
  std::mt19937_64 random(3);
  for (int i = 0; i < 40; ++i) {
    const Share share = any_share(space, random);
    const model::ModelConfig config = space.config(share);
    for (std::size_t device = 0; device < fleet.devices.size(); ++device) {
      const double exact_s =
          fleet.devices[device].instruction_seconds() +
          fleet.devices[device].seconds(plan::kernels_of_model(config, load, false));
      EXPECT_NEAR(space.seconds(device, share), exact_s, 1e-9 * exact_s);
    }
    EXPECT_NEAR(space.weight_bytes(share), plan::weight_bytes(config), 0.5);
  }
}

TEST(Space, PricesAreThoseOfTheKernels) { expect_exact(examples::fashion_vit()); }

TEST(Space, PricesOfATeacherThatWasCutBeforeAreExactToo) { expect_exact(cut_before()); }

TEST(Space, PricesOfAGatedModelWithGroupedHeadsAreThoseOfTheKernels) {
  expect_exact(examples::small_llama(), generating());
}

void expect_memory_of_the_plan(const model::ModelConfig& teacher, const PlanOptions& options = {}) {
  const Space space = space_of(teacher, options);
  std::mt19937_64 random(5);
  for (int i = 0; i < 20; ++i) {
    const Share share = any_share(space, random);
    plan::Plan plan = examples::plan_of(teacher, {space.part(1, share)}, "hub", "decomposed");
    plan.shape = options.shape;
    const auto programs = plan::compile(plan, plan.shape);
    EXPECT_NEAR(space.model_bytes(share),
                plan::resident_bytes(programs[0], plan) + plan::working_bytes(programs[0], plan),
                0.5);
  }
}

TEST(Space, CountsMemoryAsThePlanDoes) { expect_memory_of_the_plan(examples::fashion_vit()); }

TEST(Space, CountsKeysAndValuesOfEveryLayer) {
  expect_memory_of_the_plan(examples::small_llama(), generating());
  auto cut = examples::small_llama();
  cut.layers = {{12, 512}, {6, 512}, {12, 256}, {3, 512}};
  expect_memory_of_the_plan(cut, generating());
}

TEST(Space, HandsOutWholeGroupsOfHeads) {
  const Space space = space_of(examples::small_llama(), generating());
  EXPECT_EQ(space.largest()[axis::heads], 4);
  EXPECT_EQ(space.value(axis::heads, 3), 9);
  EXPECT_TRUE(space.config(space.largest()) == examples::small_llama());
}

TEST(Space, KeepingEverythingIsTheTeacher) {
  for (const auto& teacher : {examples::fashion_vit(), cut_before()}) {
    const Space space = space_of(teacher);
    EXPECT_TRUE(space.config(space.largest()) == teacher);
    EXPECT_EQ(space.quality(space.largest()), 1);
    EXPECT_NEAR(space.parameter_share(space.largest()), 1, 1e-12);
  }
}

TEST(Space, QualityGrowsAlongEachAxis) {
  const Space space = space_of(examples::fashion_vit());
  std::mt19937_64 random(7);
  for (int i = 0; i < 50; ++i) {
    const Share share = any_share(space, random);
    for (const Axis axis : all_axes) {
      if (share[axis] == space.largest()[axis]) continue;
      Share more = share;
      ++more[axis];
      EXPECT_GT(space.quality(more), space.quality(share));
      EXPECT_LT(space.quality(more), 1 + 1e-12);
    }
  }
}

TEST(Space, FindsTheFewestColumnsForAQuality) {
  const Space space = space_of(examples::fashion_vit());
  Share share = space.largest();
  share[axis::width] = 10;
  Share half = share;
  half[axis::mlp] = 40;
  EXPECT_EQ(space.columns_above(share, space.quality(half)), 40);
  EXPECT_GT(space.columns_above(share, 1.0), space.largest()[axis::mlp]);
  EXPECT_EQ(space.columns_above(share, 0), space.smallest()[axis::mlp]);
}

TEST(Space, SpreadsLayersEvenlyAndKeepsTheEnds) {
  const Space space = space_of(examples::vit_base());
  EXPECT_EQ(space.layers(2), (std::vector<std::int64_t>{0, 11}));
  EXPECT_EQ(space.layers(4), (std::vector<std::int64_t>{0, 4, 7, 11}));
  for (std::int32_t count = 2; count <= 12; ++count) {
    const auto& layers = space.layers(count);
    ASSERT_EQ(layers.size(), static_cast<std::size_t>(count));
    EXPECT_EQ(layers.front(), 0);
    EXPECT_EQ(layers.back(), 11);
    for (std::size_t i = 1; i < layers.size(); ++i) EXPECT_LT(layers[i - 1], layers[i]);
  }
}

TEST(Space, KeepsTheImportantLayersBetweenTheEnds) {
  ImportanceProfile importance;
  importance.layers = {0.1, 0.4, 0.1, 0.2, 0.15, 0.05};
  const Space space = space_of(examples::fashion_vit(), {}, importance);
  EXPECT_EQ(space.layers(4), (std::vector<std::int64_t>{0, 1, 3, 5}));
}

TEST(Space, TakesTheMostImportantUnitsFirst) {
  ImportanceProfile importance;
  importance.channels.assign(192, 0.0);
  for (std::size_t i = 0; i < 16; ++i) importance.channels[i] = 1;
  const Space space = space_of(examples::fashion_vit(), {}, importance);
  Share share = space.largest();
  share[axis::width] = 2;  // the 16 channels that hold everything
  EXPECT_NEAR(space.quality(share), 1, 1e-12);
  share[axis::width] = 1;
  EXPECT_NEAR(space.quality(share), 0.75, 1e-12);
}

TEST(Space, AWidthThatIsNoMultipleOfTheStepCanBeKeptWhole) {
  PlanOptions options;
  options.width_step = 50;
  const Space space = space_of(examples::fashion_vit(), options);
  EXPECT_EQ(space.value(axis::width, 3), 150);
  EXPECT_EQ(space.value(axis::width, 4), 192);
  EXPECT_EQ(space.largest()[axis::width], 4);
}

}  // namespace
}  // namespace cleave::optimizer
