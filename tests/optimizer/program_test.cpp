#include "optimizer/plan/program.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include <gtest/gtest.h>

#include "optimizer/plan/cost.hpp"
#include "tests/base/scratch.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::plan {
namespace {

using testing::message_of;

Plan three_parts() {
  const model::ModelConfig teacher = examples::fashion_vit();
  return examples::plan_of(
      teacher,
      {examples::part(teacher, "hub", 6, 128, 4, 256),
       examples::part(teacher, "box", 4, 96, 3, 128), examples::part(teacher, "cam", 2, 64, 2, 96)},
      "hub", "decomposed");
}

Plan local_plan() {
  const model::ModelConfig teacher = examples::fashion_vit();
  return examples::plan_of(teacher, {examples::part(teacher, "hub", 6, 192, 6, 768)}, "hub",
                           "local");
}

/// Parts of a model that generates, with a gated MLP and grouped heads.
Plan text_parts() {
  const model::ModelConfig teacher = examples::small_llama();
  Plan plan = examples::plan_of(teacher,
                                {examples::part(teacher, "hub", 4, 128, 6, 256),
                                 examples::part(teacher, "cam", 2, 64, 3, 96)},
                                "hub", "decomposed");
  plan.shape = examples::generated_texts();
  return plan;
}

Plan local_text_plan() {
  Plan plan = text_parts();
  plan.strategy = "local";
  plan.parts = {examples::part(plan.teacher, "hub", 4, 192, 12, 512)};
  return plan;
}

Plan generating(Plan plan) {
  plan.shape = examples::generated_texts();
  return plan;
}

/// Every plan of these tests; a new strategy adds a line.
std::vector<Plan> all_plans() {
  std::vector<Plan> plans = {three_parts(),
                             local_plan(),
                             three_parts(),
                             text_parts(),
                             local_text_plan(),
                             examples::tensor_plan(examples::fashion_vit(), 3),
                             generating(examples::tensor_plan(examples::small_llama(), 4)),
                             examples::pipeline_plan(examples::fashion_vit(), 3),
                             generating(examples::pipeline_plan(examples::small_llama(), 2))};
  std::reverse(plans[2].parts.begin(), plans[2].parts.end());
  return plans;
}

/// What the plan is for, of another batch.
RequestShape of_batch(const Plan& plan, std::int64_t batch) {
  return {batch, plan.shape.tokens, plan.shape.generate};
}

using Message = std::tuple<std::int32_t, std::int32_t, std::uint32_t>;  // from, to, tag

TEST(Strategies, AllAppearInTheTests) {
  std::set<std::string> tested;
  for (const Plan& plan : all_plans()) tested.insert(plan.strategy);
  for (const Strategy& strategy : strategies())
    EXPECT_TRUE(tested.count(std::string(strategy.name)));
}

TEST(Compile, WritesEachValueOnce) {
  for (const Plan& plan : all_plans())
    for (const Program& program : compile(plan, of_batch(plan, 2))) {
      std::vector<int> written(program.values.size(), 0);
      for (const Instruction& instruction : program.instructions) {
        for_operands(instruction, [&](ValueId operand) {
          EXPECT_EQ(written.at(static_cast<std::size_t>(operand)), 1)
              << "read before it is written";
        });
        const ValueId result = result_of(instruction);
        if (result >= 0) ++written.at(static_cast<std::size_t>(result));
      }
      EXPECT_EQ(written, std::vector<int>(program.values.size(), 1)) << to_text(program);
    }
}

TEST(Compile, GivesEveryReceiveExactlyOneSend) {
  for (const Plan& plan : all_plans()) {
    const std::vector<Program> programs = compile(plan, of_batch(plan, 2));
    std::map<Message, ValueInfo> sent, received;
    for (const Program& program : programs)
      for (const Instruction& instruction : program.instructions) {
        if (const auto* send = std::get_if<Send>(&instruction)) {
          const ValueInfo& value = program.values[static_cast<std::size_t>(send->value)];
          EXPECT_TRUE(sent.insert({{program.rank, send->peer, send->tag}, value}).second);
        }
        if (const auto* receive = std::get_if<Receive>(&instruction)) {
          const ValueInfo& value = program.values[static_cast<std::size_t>(receive->result)];
          EXPECT_TRUE(received.insert({{receive->peer, program.rank, receive->tag}, value}).second);
        }
      }
    ASSERT_EQ(sent.size(), received.size());
    for (const auto& [message, value] : sent) {
      ASSERT_TRUE(received.count(message));
      EXPECT_EQ(received.at(message).dims, value.dims);
      EXPECT_EQ(received.at(message).element, value.element);
    }
  }
}

TEST(Compile, HasOneProgramForEachRankAndOneOutput) {
  for (const Plan& plan : all_plans()) {
    const std::vector<Program> programs = compile(plan, of_batch(plan, 1));
    ASSERT_EQ(programs.size(), plan.parts.size() + 1);
    std::int64_t outputs = 0;
    for (std::size_t rank = 0; rank < programs.size(); ++rank) {
      EXPECT_EQ(programs[rank].rank, static_cast<std::int32_t>(rank));
      EXPECT_EQ(programs[rank].digest, programs.front().digest);
      outputs +=
          std::count_if(programs[rank].instructions.begin(), programs[rank].instructions.end(),
                        [](const Instruction& i) { return std::holds_alternative<Output>(i); });
    }
    EXPECT_EQ(outputs, 1);
  }
}

// A value counts from the instruction that writes it to the last that reads it.
TEST(RunningBytes, AreThoseOfTheValuesThatAreAlive) {
  Program program;
  constexpr std::int64_t width = 1000;
  const auto value = [&](std::int64_t count) {
    program.values.push_back({"v", base::Element::f32, {count}});
    return static_cast<ValueId>(program.values.size() - 1);
  };
  ValueId last = value(width);
  program.instructions.emplace_back(Input{last});
  for (std::uint32_t tag = 0; tag < 50; ++tag) {
    program.instructions.emplace_back(Send{last, 1, tag});
    last = value(width);
    program.instructions.emplace_back(Receive{last, 1, tag, false});
  }
  program.instructions.emplace_back(Output{last});
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * width);
  EXPECT_EQ(values_bytes(program), 4.0 * width);
  // One that is read at the end lives all along, and one that nobody reads only for a moment.
  program.instructions.back() = Output{0};
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * 2 * width);
  program.instructions.emplace_back(Receive{value(5 * width), 1, 99, false});
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * 5 * width);
}

TEST(Compile, LetsOnlyFuseAcceptWhatMayBeAbsent) {
  for (const Plan& plan : all_plans())
    for (const Program& program : compile(plan, of_batch(plan, 1))) {
      std::set<ValueId> absent;
      for (const Instruction& instruction : program.instructions) {
        const auto* receive = std::get_if<Receive>(&instruction);
        if (receive && receive->may_be_absent) absent.insert(receive->result);
        if (accepts_absent(instruction)) continue;
        for_operands(instruction, [&](ValueId operand) { EXPECT_FALSE(absent.count(operand)); });
      }
    }
}

TEST(Compile, WritesDecomposedAsDesigned) {
  std::string text;
  for (const Program& program : compile(three_parts(), {1})) text += to_text(program);
  EXPECT_EQ(text,
            "rank 0:\n"
            "  x = input()  # u8 [1, 1, 28, 28]\n"
            "  f_0 = sub_model(x, part 0)  # f32 [1, 1, 128]\n"
            "  send(f_0 -> 3, tag 0)\n"
            "rank 1:\n"
            "  x = input()  # u8 [1, 1, 28, 28]\n"
            "  f_1 = sub_model(x, part 1)  # f32 [1, 1, 96]\n"
            "  send(f_1 -> 3, tag 1)\n"
            "rank 2:\n"
            "  x = input()  # u8 [1, 1, 28, 28]\n"
            "  f_2 = sub_model(x, part 2)  # f32 [1, 1, 64]\n"
            "  send(f_2 -> 3, tag 2)\n"
            "rank 3:\n"
            "  f_0 = receive(<- 0, tag 0, may be absent)  # f32 [1, 1, 128]\n"
            "  f_1 = receive(<- 1, tag 1, may be absent)  # f32 [1, 1, 96]\n"
            "  f_2 = receive(<- 2, tag 2, may be absent)  # f32 [1, 1, 64]\n"
            "  y = fuse(f_0, f_1, f_2)  # f32 [1, 10]\n"
            "  output(y)\n");
}

TEST(Compile, WritesLocalAsDesigned) {
  std::string text;
  for (const Program& program : compile(local_plan(), {4})) text += to_text(program);
  EXPECT_EQ(text,
            "rank 0:\n"
            "  x = input()  # u8 [4, 1, 28, 28]\n"
            "  y = sub_model(x, part 0, with head)  # f32 [4, 10]\n"
            "  send(y -> 1, tag 0)\n"
            "rank 1:\n"
            "  y = receive(<- 0, tag 0)  # f32 [4, 10]\n"
            "  output(y)\n");
}

TEST(Compile, GivesTheSameDigestEverywhere) {
  // A change here breaks agents of another version: raise the protocol's version with it.
  EXPECT_EQ(compile(three_parts(), {1}).front().digest,
            "4e6a26b169329da7430c36a9db34058e0ac643ac48ea66a69ad502d2045912d1");
  EXPECT_EQ(compile(local_plan(), {1}).front().digest,
            "b0921ae46a3ecd4ed2137d3378c8e6c98915d420d1fc224506c08d634afa6a2a");
}

TEST(Compile, TellsOtherShapesAndSharesApart) {
  const std::string digest = compile(three_parts(), {1}).front().digest;
  EXPECT_NE(compile(three_parts(), {2}).front().digest, digest);
  Plan plan = three_parts();
  std::swap(plan.parts[0], plan.parts[1]);
  EXPECT_NE(compile(plan, {1}).front().digest, digest);
  plan = three_parts();
  plan.parts[2].config.width = 72;
  EXPECT_NE(compile(plan, {1}).front().digest, digest);
  plan = three_parts();
  plan.parts[0].device = "elsewhere";
  plan.prediction.latency_s = 3;
  EXPECT_EQ(compile(plan, {1}).front().digest, digest) << "names and figures are not part of it";
}

TEST(Compile, FollowsTheRanksWhenDevicesArePermuted) {
  Plan plan = three_parts();
  std::rotate(plan.parts.begin(), plan.parts.begin() + 1, plan.parts.end());
  const std::vector<Program> programs = compile(plan, {1}), before = compile(three_parts(), {1});
  for (std::size_t rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(programs[rank].values[1].dims, before[(rank + 1) % 3].values[1].dims);
    EXPECT_EQ(resident_bytes(programs[rank], plan),
              resident_bytes(before[(rank + 1) % 3], three_parts()));
  }
}

TEST(Compile, RefusesABatchOutOfRange) {
  EXPECT_EQ(message_of([] { compile(three_parts(), {0}); }),
            "[compile] shape.batch: saw 0, needs 1..65536");
  EXPECT_EQ(message_of([] { compile(three_parts(), {65537}); }),
            "[compile] shape.batch: saw 65537, needs 1..65536");
}

TEST(Compile, ChecksThePlan) {
  Plan plan = three_parts();
  plan.parts[0].config.width = 1000;
  EXPECT_NE(message_of([&] { compile(plan, {1}); }).find("keeps 1000, the teacher has 192"),
            std::string::npos);
}

TEST(Price, CountsTheKernelsOfPartsAndFusion) {
  const Plan plan = three_parts();
  const std::vector<Program> programs = compile(plan, {2});
  EXPECT_TRUE(kernels_of(programs[0].instructions[0], programs[0], plan).empty());
  EXPECT_TRUE(kernels_of(programs[0].instructions[2], programs[0], plan).empty());
  const auto part = kernels_of(programs[1].instructions[1], programs[1], plan);
  EXPECT_EQ(part.size(), kernels_of_model(plan.parts[1].config, {2, 0, 0}, false).size());
  EXPECT_EQ(part.back().rows, 2);
  EXPECT_EQ(part.back().columns, 96);
  const auto fusion = kernels_of(programs[3].instructions[3], programs[3], plan);
  EXPECT_EQ(fusion.size(), kernels_of_fusion(plan.teacher, {128, 96, 64}, {2, 0, 0}).size());
}

TEST(Price, KnowsWhatEachRankHolds) {
  const Plan plan = three_parts();
  const std::vector<Program> programs = compile(plan, {1});
  EXPECT_EQ(resident_bytes(programs[2], plan), serving_bytes + weight_bytes(plan.parts[2].config));
  // Seven sets of parts, each part in four: A^S [192, Σ D_p], b^S [192]; the classifier [10, 192]
  // with its bias.
  EXPECT_EQ(resident_bytes(programs[3], plan),
            serving_bytes + 4.0 * (192 * 4 * (128 + 96 + 64) + 7 * 192 + 10 * 192 + 10));
  // Five parts share a head: A_p [192, D_p], b_p, m_p, c_p [192] of each.
  Plan five = plan;
  five.parts.push_back(plan.parts[1]);
  five.parts.back().device = "fourth";
  five.parts.push_back(plan.parts[2]);
  five.parts.back().device = "fifth";
  EXPECT_EQ(resident_bytes(compile(five, {1})[5], five),
            serving_bytes + 4.0 * (192 * (128 + 2 * 96 + 2 * 64) + 5 * 3 * 192 + 10 * 192 + 10));
  const std::vector<Program> local = compile(local_plan(), {1});
  EXPECT_EQ(resident_bytes(local[0], local_plan()),
            serving_bytes + weight_bytes(examples::fashion_vit()));
  EXPECT_EQ(resident_bytes(local[1], local_plan()), serving_bytes);
}

TEST(Price, CountsValuesAndActivationsOrLoading) {
  Plan plan = three_parts();
  const std::vector<Program> eight = compile(plan, {8});
  EXPECT_EQ(working_bytes(eight[0], plan),
            forward_bytes(plan.parts[0].config, {8, 0, 0}) + 8 * 28 * 28 + 4 * 8 * 128);
  // Few tokens through a wide model: its largest matrix outweighs them while it is loaded.
  plan.teacher = examples::vit(2, 1024, 8, 28, 14, 1, 10);
  plan.parts = {examples::part(plan.teacher, "hub", 2, 1024, 8, 4096)};
  const std::vector<Program> wide = compile(plan, {1});
  EXPECT_EQ(working_bytes(wide[0], plan), 4.0 * 1024 * 4096);
}

/// Working bytes of a rank where `generate` tokens follow the prompt.
double working_bytes_of(Plan plan, std::size_t rank, std::int64_t generate) {
  plan.shape.generate = generate;
  return working_bytes(compile(plan, plan.shape).at(rank), plan);
}

TEST(Price, GrowsByKeysAndValuesOfEachTokenThatIsGenerated) {
  // 2 · layers · H/G · K numbers of each of two texts.
  const auto more = [](const Plan& plan, std::size_t rank) {
    return working_bytes_of(plan, rank, 160) - working_bytes_of(plan, rank, 60);
  };
  EXPECT_EQ(more(text_parts(), 0), 100 * 2 * 4.0 * 2 * 4 * (6 / 3) * 16);
  EXPECT_EQ(more(text_parts(), 1), 100 * 2 * 4.0 * 2 * 2 * (3 / 3) * 16);
  EXPECT_EQ(more(text_parts(), 2), 0) << "the aggregator keeps none";
  EXPECT_EQ(more(local_text_plan(), 0), 100 * 2 * 4.0 * 2 * 4 * (12 / 3) * 16);
}

TEST(Price, HoldsThePromptsPassBesideItsCache) {
  const Plan plan = text_parts();
  const std::vector<Program> programs = compile(plan, plan.shape);
  // A token in and a feature out, of two texts; what a prompt of 100 computes in; 160 tokens kept.
  const double values = 2 * (4 + 4 * 128);
  EXPECT_EQ(
      working_bytes(programs[0], plan),
      values + forward_bytes(plan.parts[0].config, {2, 100, 0}) + 2 * 160 * 4.0 * 2 * 4 * 2 * 16);
}

TEST(Price, OfATextIsThatOfOneTokenHalfWay) {
  const Plan plan = text_parts();
  const std::vector<Program> programs = compile(plan, plan.shape);
  std::set<std::int64_t> seen;
  for (const Kernel& kernel : kernels_of(programs[0].instructions[1], programs[0], plan)) {
    if (kernel.kind == KernelKind::attention) seen.insert(kernel.columns);
    if (kernel.kind == KernelKind::matmul) {
      EXPECT_EQ(kernel.rows, 2);
    }
  }
  EXPECT_EQ(seen, std::set<std::int64_t>{100 + 60 / 2 + 1});
  EXPECT_EQ(programs[0].values[0].dims, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(programs[0].values[1].dims, (std::vector<std::int64_t>{2, 1, 128}));
}

TEST(Price, TheHeadOfALanguageModelIsTheAggregators) {
  const Plan plan = text_parts();
  const std::vector<Program> programs = compile(plan, plan.shape);
  // Three sets of parts, each part in two; the head [500, 192].
  EXPECT_EQ(resident_bytes(programs[2], plan),
            serving_bytes + 4.0 * (192 * 2 * (128 + 64) + 3 * 192 + 500 * 192));
  const auto fusion = kernels_of(programs[2].instructions[2], programs[2], plan);
  EXPECT_EQ(fusion.back().columns, 500);
  EXPECT_EQ(fusion.back().rows, 2);
}

TEST(Price, CountsBytesOfAValue) {
  EXPECT_EQ((ValueInfo{"x", base::Element::u8, {2, 3, 4}}.bytes()), 24);
  EXPECT_EQ((ValueInfo{"x", base::Element::f32, {2, 3, 4}}.bytes()), 96);
}

TEST(FindStrategy, ListsTheKnownOnes) {
  EXPECT_EQ(find_strategy("decomposed").name, "decomposed");
  EXPECT_EQ(message_of([] { find_strategy("magic"); }),
            "[strategy] saw 'magic', needs one of local, decomposed, pipeline, tensor");
}

}  // namespace
}  // namespace cleave::plan
