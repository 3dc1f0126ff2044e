#include "optimizer/plan/program.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <tuple>

#include <gtest/gtest.h>

#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/weights.hpp"
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

Plan prompted(Plan plan) {
  plan.shape = {2, 100, 0};
  return plan;
}

Plan clustering(Plan plan) {
  plan.segments->content = Segments::Content::clusters;
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
                             generating(examples::pipeline_plan(examples::small_llama(), 2)),
                             examples::voltage_plan(examples::fashion_vit(), 5),
                             examples::hepti_rows_plan(examples::fashion_vit(), 5),
                             examples::hepti_columns_plan(examples::fashion_vit(), 5),
                             generating(examples::hepti_columns_plan(examples::small_llama(), 3)),
                             examples::hepti_heads_plan(examples::fashion_vit(), 5),
                             generating(examples::hepti_heads_plan(examples::small_llama(), 4)),
                             examples::galaxy_plan(examples::fashion_vit(), 5),
                             generating(examples::galaxy_plan(examples::small_llama(), 3)),
                             generating(examples::voltage_plan(examples::small_llama(), 2)),
                             examples::prism_plan(examples::fashion_vit(), 5),
                             clustering(examples::prism_plan(examples::fashion_vit(), 3)),
                             clustering(prompted(examples::prism_plan(examples::small_llama(), 3))),
                             generating(examples::prism_plan(examples::small_llama(), 2))};
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
      std::set<std::string> names;
      for (const ValueInfo& value : program.values)
        EXPECT_TRUE(names.insert(value.name).second) << value.name << " stands for two values";
      for (const Instruction& instruction : program.instructions) {
        for_operands(instruction, [&](ValueId operand) {
          EXPECT_EQ(written.at(static_cast<std::size_t>(operand)), 1)
              << "read before it is written";
        });
        for_results(instruction,
                    [&](ValueId result) { ++written.at(static_cast<std::size_t>(result)); });
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

// A value counts from the instruction that writes it to the last that reads it; and one on its way,
// which nobody may write again.
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
  constexpr double sent = 4.0 * width;
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * width + sent);
  EXPECT_EQ(values_bytes(program), 4.0 * width + sent);
  // One that is read at the end lives all along, and one that nobody reads only for a moment.
  program.instructions.back() = Output{0};
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * 2 * width + sent);
  program.instructions.emplace_back(Receive{value(5 * width), 1, 99, false});
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * 5 * width + sent);
  // Another link has another one on its way, where it is another value.
  program.instructions.insert(program.instructions.end() - 1, Send{0, 2, 100});
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * 5 * width + sent);
  program.instructions.insert(program.instructions.end() - 1, Send{last, 3, 100});
  EXPECT_EQ(running_bytes(program, local_plan()), 4.0 * 5 * width + 2 * sent);
}

TEST(RunningBytes, CountEveryResultOfAnInstruction) {
  Program program;
  for (const std::int64_t count : {100, 30, 7})
    program.values.push_back({"v", base::Element::f32, {1, count, 1}});
  Cluster cluster;
  cluster.x = 0;
  cluster.centres = 1;
  cluster.marks = 2;
  program.instructions = {Input{0}, cluster, Output{2}};
  EXPECT_EQ(values_bytes(program), 4 * (100 + 30 + 7));
  program.instructions = {Input{0}, cluster, Output{0}};
  EXPECT_EQ(values_bytes(program), 4 * (100 + 30 + 7)) << "also one that nobody reads";
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

std::string text_of(const Plan& plan, const RequestShape& shape) {
  std::string text;
  for (const Program& program : compile(plan, shape)) text += to_text(program);
  return text;
}

TEST(Compile, WritesDecomposedAsDesigned) {
  const model::ModelConfig teacher = examples::fashion_vit();
  const Plan plan = examples::plan_of(teacher,
                                      {examples::part(teacher, "hub", 1, 128, 4, 256),
                                       examples::part(teacher, "cam", 1, 64, 2, 96)},
                                      "hub", "decomposed");
  EXPECT_EQ(text_of(plan, {1}), R"(rank 0:
  x = receive(<- 2, tag 0)  # u8 [1, 1, 28, 28]
  x1 = embed(x, part 0, with positions)  # f32 [1, 50, 128]
  h2 = norm(x1, part 0, layer 0, attention)  # f32 [1, 50, 128]
  k3 = project(h2, part 0, layer 0, key, heads 0:4)  # f32 [1, 50, 128]
  v4 = project(h2, part 0, layer 0, value, heads 0:4)  # f32 [1, 50, 128]
  q5 = project(h2, part 0, layer 0, query, heads 0:4)  # f32 [1, 50, 128]
  a6 = attend(q5, k3, v4, part 0, layer 0, heads 0:4)  # f32 [1, 50, 128]
  p7 = project_out(a6, part 0, layer 0, heads 0:4, with bias)  # f32 [1, 50, 128]
  x8 = add(x1, p7)  # f32 [1, 50, 128]
  h9 = norm(x8, part 0, layer 0, mlp)  # f32 [1, 50, 128]
  u10 = mlp_up(h9, part 0, layer 0, columns 0:256)  # f32 [1, 50, 256]
  m11 = mlp_down(u10, part 0, layer 0, columns 0:256, with bias)  # f32 [1, 50, 128]
  x12 = add(x8, m11)  # f32 [1, 50, 128]
  f13 = read_out(x12, part 0)  # f32 [1, 1, 128]
  send(f13 -> 2, tag 0)
rank 1:
  x = receive(<- 2, tag 0)  # u8 [1, 1, 28, 28]
  x1 = embed(x, part 1, with positions)  # f32 [1, 50, 64]
  h2 = norm(x1, part 1, layer 0, attention)  # f32 [1, 50, 64]
  k3 = project(h2, part 1, layer 0, key, heads 0:2)  # f32 [1, 50, 64]
  v4 = project(h2, part 1, layer 0, value, heads 0:2)  # f32 [1, 50, 64]
  q5 = project(h2, part 1, layer 0, query, heads 0:2)  # f32 [1, 50, 64]
  a6 = attend(q5, k3, v4, part 1, layer 0, heads 0:2)  # f32 [1, 50, 64]
  p7 = project_out(a6, part 1, layer 0, heads 0:2, with bias)  # f32 [1, 50, 64]
  x8 = add(x1, p7)  # f32 [1, 50, 64]
  h9 = norm(x8, part 1, layer 0, mlp)  # f32 [1, 50, 64]
  u10 = mlp_up(h9, part 1, layer 0, columns 0:96)  # f32 [1, 50, 96]
  m11 = mlp_down(u10, part 1, layer 0, columns 0:96, with bias)  # f32 [1, 50, 64]
  x12 = add(x8, m11)  # f32 [1, 50, 64]
  f13 = read_out(x12, part 1)  # f32 [1, 1, 64]
  send(f13 -> 2, tag 1)
rank 2:
  x = input()  # u8 [1, 1, 28, 28]
  send(x -> 0, tag 0)
  send(x -> 1, tag 0)
  f_0 = receive(<- 0, tag 0, may be absent)  # f32 [1, 1, 128]
  f_1 = receive(<- 1, tag 1, may be absent)  # f32 [1, 1, 64]
  y = fuse(f_0, f_1)  # f32 [1, 10]
  output(y)
)");
}

TEST(Compile, WritesLocalAsDesigned) {
  EXPECT_EQ(text_of(whole_plan(examples::vit(1, 192, 3, 28, 4, 1, 10), "hub"), {4}), R"(rank 0:
  x = receive(<- 1, tag 0)  # u8 [4, 1, 28, 28]
  x1 = embed(x, part 0, with positions)  # f32 [4, 50, 192]
  h2 = norm(x1, part 0, layer 0, attention)  # f32 [4, 50, 192]
  k3 = project(h2, part 0, layer 0, key, heads 0:3)  # f32 [4, 50, 192]
  v4 = project(h2, part 0, layer 0, value, heads 0:3)  # f32 [4, 50, 192]
  q5 = project(h2, part 0, layer 0, query, heads 0:3)  # f32 [4, 50, 192]
  a6 = attend(q5, k3, v4, part 0, layer 0, heads 0:3)  # f32 [4, 50, 192]
  p7 = project_out(a6, part 0, layer 0, heads 0:3, with bias)  # f32 [4, 50, 192]
  x8 = add(x1, p7)  # f32 [4, 50, 192]
  h9 = norm(x8, part 0, layer 0, mlp)  # f32 [4, 50, 192]
  u10 = mlp_up(h9, part 0, layer 0, columns 0:768)  # f32 [4, 50, 768]
  m11 = mlp_down(u10, part 0, layer 0, columns 0:768, with bias)  # f32 [4, 50, 192]
  x12 = add(x8, m11)  # f32 [4, 50, 192]
  f13 = read_out(x12, part 0)  # f32 [4, 1, 192]
  y14 = head(f13, part 0)  # f32 [4, 10]
  send(y14 -> 1, tag 0)
rank 1:
  x = input()  # u8 [4, 1, 28, 28]
  send(x -> 0, tag 0)
  y_0 = receive(<- 0, tag 0)  # f32 [4, 10]
  output(y_0)
)");
}

TEST(Compile, WritesTensorAsDesigned) {
  EXPECT_EQ(text_of(examples::tensor_plan(examples::llama(1, 32, 4, 2, 48, 100, 64), 2), {1, 3}),
            R"(rank 0:
  x = receive(<- 2, tag 0)  # i32 [1, 3]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:50, with positions)  # f32 [1, 3, 32]
  s3 = slice(x2, axis 1, 0:2)  # f32 [1, 2, 32]
  send(s3 -> 1, tag 0)
  s4 = slice(x2, axis 1, 2:3)  # f32 [1, 1, 32]
  t0_1 = receive(<- 1, tag 0)  # f32 [1, 1, 32]
  x6 = add(t0_1, s4)  # f32 [1, 1, 32]
  send(x6 -> 1, tag 1)
  t1_1 = receive(<- 1, tag 1)  # f32 [1, 2, 32]
  c8 = concat(t1_1, x6, axis 1)  # f32 [1, 3, 32]
  h9 = norm(c8, layer 0, attention)  # f32 [1, 3, 32]
  k10 = project(h9, layer 0, key, heads 0:1)  # f32 [1, 3, 8]
  v11 = project(h9, layer 0, value, heads 0:1)  # f32 [1, 3, 8]
  q12 = project(h9, layer 0, query, heads 0:1)  # f32 [1, 3, 16]
  a13 = attend(q12, k10, v11, lengths, layer 0, heads 0:1, texts 0:1)  # f32 [1, 3, 16]
  p14 = project_out(a13, layer 0, heads 0:1)  # f32 [1, 3, 32]
  s15 = slice(p14, axis 1, 0:2)  # f32 [1, 2, 32]
  send(s15 -> 1, tag 2)
  s16 = slice(p14, axis 1, 2:3)  # f32 [1, 1, 32]
  t2_1 = receive(<- 1, tag 2)  # f32 [1, 1, 32]
  x18 = add(t2_1, s16)  # f32 [1, 1, 32]
  send(x18 -> 1, tag 3)
  t3_1 = receive(<- 1, tag 3)  # f32 [1, 2, 32]
  c20 = concat(t3_1, x18, axis 1)  # f32 [1, 3, 32]
  x21 = add(c8, c20)  # f32 [1, 3, 32]
  h22 = norm(x21, layer 0, mlp)  # f32 [1, 3, 32]
  u23 = mlp_up(h22, layer 0, columns 0:24)  # f32 [1, 3, 24]
  m24 = mlp_down(u23, layer 0, columns 0:24)  # f32 [1, 3, 32]
  s25 = slice(m24, axis 1, 0:2)  # f32 [1, 2, 32]
  send(s25 -> 1, tag 4)
  s26 = slice(m24, axis 1, 2:3)  # f32 [1, 1, 32]
  t4_1 = receive(<- 1, tag 4)  # f32 [1, 1, 32]
  x28 = add(t4_1, s26)  # f32 [1, 1, 32]
  send(x28 -> 1, tag 5)
  t5_1 = receive(<- 1, tag 5)  # f32 [1, 2, 32]
  c30 = concat(t5_1, x28, axis 1)  # f32 [1, 3, 32]
  x31 = add(x21, c30)  # f32 [1, 3, 32]
  f32 = read_out(x31, lengths)  # f32 [1, 1, 32]
  y33 = head(f32, vocabulary 0:50)  # f32 [1, 1, 50]
  send(y33 -> 2, tag 0)
rank 1:
  x = receive(<- 2, tag 0)  # i32 [1, 3]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 50:100)  # f32 [1, 3, 32]
  s3 = slice(x2, axis 1, 2:3)  # f32 [1, 1, 32]
  send(s3 -> 0, tag 0)
  s4 = slice(x2, axis 1, 0:2)  # f32 [1, 2, 32]
  t0_0 = receive(<- 0, tag 0)  # f32 [1, 2, 32]
  x6 = add(t0_0, s4)  # f32 [1, 2, 32]
  send(x6 -> 0, tag 1)
  t1_0 = receive(<- 0, tag 1)  # f32 [1, 1, 32]
  c8 = concat(x6, t1_0, axis 1)  # f32 [1, 3, 32]
  h9 = norm(c8, layer 0, attention)  # f32 [1, 3, 32]
  k10 = project(h9, layer 0, key, heads 1:2)  # f32 [1, 3, 8]
  v11 = project(h9, layer 0, value, heads 1:2)  # f32 [1, 3, 8]
  q12 = project(h9, layer 0, query, heads 1:2)  # f32 [1, 3, 16]
  a13 = attend(q12, k10, v11, lengths, layer 0, heads 1:2, texts 0:1)  # f32 [1, 3, 16]
  p14 = project_out(a13, layer 0, heads 1:2)  # f32 [1, 3, 32]
  s15 = slice(p14, axis 1, 2:3)  # f32 [1, 1, 32]
  send(s15 -> 0, tag 2)
  s16 = slice(p14, axis 1, 0:2)  # f32 [1, 2, 32]
  t2_0 = receive(<- 0, tag 2)  # f32 [1, 2, 32]
  x18 = add(t2_0, s16)  # f32 [1, 2, 32]
  send(x18 -> 0, tag 3)
  t3_0 = receive(<- 0, tag 3)  # f32 [1, 1, 32]
  c20 = concat(x18, t3_0, axis 1)  # f32 [1, 3, 32]
  x21 = add(c8, c20)  # f32 [1, 3, 32]
  h22 = norm(x21, layer 0, mlp)  # f32 [1, 3, 32]
  u23 = mlp_up(h22, layer 0, columns 24:48)  # f32 [1, 3, 24]
  m24 = mlp_down(u23, layer 0, columns 24:48)  # f32 [1, 3, 32]
  s25 = slice(m24, axis 1, 2:3)  # f32 [1, 1, 32]
  send(s25 -> 0, tag 4)
  s26 = slice(m24, axis 1, 0:2)  # f32 [1, 2, 32]
  t4_0 = receive(<- 0, tag 4)  # f32 [1, 2, 32]
  x28 = add(t4_0, s26)  # f32 [1, 2, 32]
  send(x28 -> 0, tag 5)
  t5_0 = receive(<- 0, tag 5)  # f32 [1, 1, 32]
  c30 = concat(x28, t5_0, axis 1)  # f32 [1, 3, 32]
  x31 = add(x21, c30)  # f32 [1, 3, 32]
  f32 = read_out(x31, lengths)  # f32 [1, 1, 32]
  y33 = head(f32, vocabulary 50:100)  # f32 [1, 1, 50]
  send(y33 -> 2, tag 0)
rank 2:
  x = input()  # i32 [1, 3]
  send(x -> 0, tag 0)
  send(x -> 1, tag 0)
  y_0 = receive(<- 0, tag 0)  # f32 [1, 1, 50]
  y_1 = receive(<- 1, tag 0)  # f32 [1, 1, 50]
  c3 = concat(y_0, y_1, axis 2)  # f32 [1, 1, 100]
  output(c3)
)");
}

/// A tensor plan of one layer on two devices, whose values travel as int8.
Plan in_int8() {
  Plan plan = examples::tensor_plan(examples::llama(1, 32, 4, 2, 48, 100, 64), 2);
  plan.wire = base::Element::scaled_i8;
  return plan;
}

// What is reduced first is cast, and once more when it is whole; it is handed on as it came, and
// its owner reads what the others read.
TEST(Compile, CastsWhatGoesBetweenAgents) {
  const std::string text = text_of(in_int8(), {1, 3});
  EXPECT_NE(text.find(R"(
  s3 = slice(x2, axis 1, 0:2)  # f32 [1, 2, 32]
  w4 = cast(s3)  # int8 [1, 2, 32]
  send(w4 -> 1, tag 0)
  s5 = slice(x2, axis 1, 2:3)  # f32 [1, 1, 32]
  t0_1 = receive(<- 1, tag 0)  # int8 [1, 1, 32]
  w7 = cast(t0_1)  # f32 [1, 1, 32]
  x8 = add(w7, s5)  # f32 [1, 1, 32]
  w9 = cast(x8)  # int8 [1, 1, 32]
  send(w9 -> 1, tag 1)
  t1_1 = receive(<- 1, tag 1)  # int8 [1, 2, 32]
  w11 = cast(t1_1)  # f32 [1, 2, 32]
  w12 = cast(w9)  # f32 [1, 1, 32]
  c13 = concat(w11, w12, axis 1)  # f32 [1, 3, 32]
)"),
            std::string::npos)
      << text;
  for (const Program& program : compile(in_int8(), {1, 3}))
    for (const Instruction& instruction : program.instructions)
      if (const auto* send = std::get_if<Send>(&instruction)) {
        const bool outside = send->peer == 2 || program.rank == 2;
        EXPECT_EQ(program.values.at(static_cast<std::size_t>(send->value)).element ==
                      base::Element::scaled_i8,
                  !outside);
      }
}

TEST(Compile, CastsNothingThatTravelsAsItIsComputed) {
  Plan plan = in_int8();
  plan.wire = base::Element::f32;
  for (const auto element : {base::Element::f32, base::Element::f64})
    for (const Program& program : compile(plan, {1, 3}, element))
      EXPECT_EQ(find_first<Cast>(program), nullptr);
  const auto alone = examples::tensor_plan(plan.teacher, 1);
  Plan small = alone;
  small.wire = base::Element::scaled_i8;
  EXPECT_EQ(compile(small, {1, 3}).front().digest, compile(alone, {1, 3}).front().digest);
}

TEST(Price, OfACastIsOnePassOverWhatIsCast) {
  const Plan plan = in_int8();
  const Program program = compile(plan, {1, 3}).front();
  int casts = 0;
  for (const Instruction& instruction : program.instructions)
    if (const auto* cast = std::get_if<Cast>(&instruction)) {
      const auto kernels = kernels_of(instruction, program, plan);
      ASSERT_EQ(kernels.size(), 1u);
      EXPECT_EQ(kernels[0].kind, KernelKind::elementwise);
      EXPECT_EQ(kernels[0].rows, program.values.at(static_cast<std::size_t>(cast->x)).dims.at(1));
      EXPECT_EQ(kernels[0].columns, 32);
      ++casts;
    }
  EXPECT_EQ(casts, 3 * 5);
}

TEST(Compile, WritesPipelineAsDesigned) {
  EXPECT_EQ(text_of(examples::pipeline_plan(examples::vit(2, 64, 2, 28, 14, 1, 10), 2), {3}),
            R"(rank 0:
  x = receive(<- 2, tag 0)  # u8 [3, 1, 28, 28]
  x1 = embed(x, with positions)  # f32 [3, 5, 64]
  s2 = slice(x1, axis 0, 0:2)  # f32 [2, 5, 64]
  h3 = norm(s2, layer 0, attention)  # f32 [2, 5, 64]
  k4 = project(h3, layer 0, key, heads 0:2)  # f32 [2, 5, 64]
  v5 = project(h3, layer 0, value, heads 0:2)  # f32 [2, 5, 64]
  q6 = project(h3, layer 0, query, heads 0:2)  # f32 [2, 5, 64]
  a7 = attend(q6, k4, v5, layer 0, heads 0:2, texts 0:2)  # f32 [2, 5, 64]
  p8 = project_out(a7, layer 0, heads 0:2, with bias)  # f32 [2, 5, 64]
  x9 = add(s2, p8)  # f32 [2, 5, 64]
  h10 = norm(x9, layer 0, mlp)  # f32 [2, 5, 64]
  u11 = mlp_up(h10, layer 0, columns 0:256)  # f32 [2, 5, 256]
  m12 = mlp_down(u11, layer 0, columns 0:256, with bias)  # f32 [2, 5, 64]
  x13 = add(x9, m12)  # f32 [2, 5, 64]
  send(x13 -> 1, tag 0)
  s14 = slice(x1, axis 0, 2:3)  # f32 [1, 5, 64]
  h15 = norm(s14, layer 0, attention)  # f32 [1, 5, 64]
  k16 = project(h15, layer 0, key, heads 0:2)  # f32 [1, 5, 64]
  v17 = project(h15, layer 0, value, heads 0:2)  # f32 [1, 5, 64]
  q18 = project(h15, layer 0, query, heads 0:2)  # f32 [1, 5, 64]
  a19 = attend(q18, k16, v17, layer 0, heads 0:2, texts 2:3)  # f32 [1, 5, 64]
  p20 = project_out(a19, layer 0, heads 0:2, with bias)  # f32 [1, 5, 64]
  x21 = add(s14, p20)  # f32 [1, 5, 64]
  h22 = norm(x21, layer 0, mlp)  # f32 [1, 5, 64]
  u23 = mlp_up(h22, layer 0, columns 0:256)  # f32 [1, 5, 256]
  m24 = mlp_down(u23, layer 0, columns 0:256, with bias)  # f32 [1, 5, 64]
  x25 = add(x21, m24)  # f32 [1, 5, 64]
  send(x25 -> 1, tag 1)
rank 1:
  x_0 = receive(<- 0, tag 0)  # f32 [2, 5, 64]
  h1 = norm(x_0, layer 1, attention)  # f32 [2, 5, 64]
  k2 = project(h1, layer 1, key, heads 0:2)  # f32 [2, 5, 64]
  v3 = project(h1, layer 1, value, heads 0:2)  # f32 [2, 5, 64]
  q4 = project(h1, layer 1, query, heads 0:2)  # f32 [2, 5, 64]
  a5 = attend(q4, k2, v3, layer 1, heads 0:2, texts 0:2)  # f32 [2, 5, 64]
  p6 = project_out(a5, layer 1, heads 0:2, with bias)  # f32 [2, 5, 64]
  x7 = add(x_0, p6)  # f32 [2, 5, 64]
  h8 = norm(x7, layer 1, mlp)  # f32 [2, 5, 64]
  u9 = mlp_up(h8, layer 1, columns 0:256)  # f32 [2, 5, 256]
  m10 = mlp_down(u9, layer 1, columns 0:256, with bias)  # f32 [2, 5, 64]
  x11 = add(x7, m10)  # f32 [2, 5, 64]
  x_1 = receive(<- 0, tag 1)  # f32 [1, 5, 64]
  h13 = norm(x_1, layer 1, attention)  # f32 [1, 5, 64]
  k14 = project(h13, layer 1, key, heads 0:2)  # f32 [1, 5, 64]
  v15 = project(h13, layer 1, value, heads 0:2)  # f32 [1, 5, 64]
  q16 = project(h13, layer 1, query, heads 0:2)  # f32 [1, 5, 64]
  a17 = attend(q16, k14, v15, layer 1, heads 0:2, texts 2:3)  # f32 [1, 5, 64]
  p18 = project_out(a17, layer 1, heads 0:2, with bias)  # f32 [1, 5, 64]
  x19 = add(x_1, p18)  # f32 [1, 5, 64]
  h20 = norm(x19, layer 1, mlp)  # f32 [1, 5, 64]
  u21 = mlp_up(h20, layer 1, columns 0:256)  # f32 [1, 5, 256]
  m22 = mlp_down(u21, layer 1, columns 0:256, with bias)  # f32 [1, 5, 64]
  x23 = add(x19, m22)  # f32 [1, 5, 64]
  c24 = concat(x11, x23, axis 0)  # f32 [3, 5, 64]
  f25 = read_out(c24)  # f32 [3, 1, 64]
  y26 = head(f25)  # f32 [3, 10]
  send(y26 -> 2, tag 0)
rank 2:
  x = input()  # u8 [3, 1, 28, 28]
  send(x -> 0, tag 0)
  y_1 = receive(<- 1, tag 0)  # f32 [3, 10]
  output(y_1)
)");
}

// Devices with a part of the vocabulary send what decides the choice; the aggregator chooses.
TEST(Compile, ChoosesTokensOnTheDevices) {
  const Plan plan = examples::tensor_plan(examples::llama(1, 32, 4, 2, 48, 100, 64), 2);
  RequestShape shape{1, 1, 0, 8};
  const auto programs = compile(plan, shape);
  const auto lines_of = [](const Program& program, const std::vector<std::string>& words) {
    std::istringstream text(to_text(program));
    std::string found;
    for (std::string line; std::getline(text, line);)
      for (const std::string& word : words)
        if (line.find(word) != std::string::npos) {
          found += line + "\n";
          break;
        }
    return found;
  };
  EXPECT_EQ(lines_of(programs[1], {"kept", "head(", "best(", "-> 2", "<- 2"}),
            R"(  x = receive(<- 2, tag 0)  # i32 [1, 1]
  kept = keep_ids(x)  # i32 [1]
  y19 = head(f18, vocabulary 50:100)  # f32 [1, 1, 50]
  sampling = receive(<- 2, tag 1)  # i64 [1, 8]
  t21 = best(y19, sampling, kept, vocabulary 50:100, k 8)  # f64 [1, 22]
  send(t21 -> 2, tag 0)
)");
  EXPECT_EQ(to_text(programs[2]), R"(rank 2:
  x = input()  # i32 [1, 1]
  send(x -> 0, tag 0)
  send(x -> 1, tag 0)
  sampling = input(sampling)  # i64 [1, 8]
  send(sampling -> 0, tag 1)
  y_0 = receive(<- 0, tag 0)  # f64 [1, 22]
  send(sampling -> 1, tag 1)
  y_1 = receive(<- 1, tag 0)  # f64 [1, 22]
  token = sample(y_0, y_1, sampling)  # f64 [1, 3]
  output(token)
)");
  // Where that is not certain, from all that they kept.
  shape.from_kept = true;
  EXPECT_EQ(text_of(plan, shape), R"(rank 0:
  y0 = kept_logits(vocabulary 0:50)  # f32 [1, 1, 50]
  send(y0 -> 2, tag 0)
rank 1:
  y0 = kept_logits(vocabulary 50:100)  # f32 [1, 1, 50]
  send(y0 -> 2, tag 0)
rank 2:
  sampling = input(sampling)  # i64 [1, 8]
  y_0 = receive(<- 0, tag 0)  # f32 [1, 1, 50]
  y_1 = receive(<- 1, tag 0)  # f32 [1, 1, 50]
  c3 = concat(y_0, y_1, axis 2)  # f32 [1, 1, 100]
  t4 = best(c3, sampling, vocabulary 0:100, k 100)  # f64 [1, 206]
  token = sample(t4, sampling)  # f64 [1, 3]
  output(token)
)");
  // A token that is planned is priced so.
  EXPECT_NE(find_first<Best>(compile(plan, {1, 4, 8})[0]), nullptr);
  EXPECT_EQ(find_first<Best>(compile(plan, {1, 4, 0})[0]), nullptr);
}

// Who computes in a later step alone needs to know what the text has.
TEST(Compile, KeepsIdsOnEveryDeviceThatMayChoose) {
  const Plan plan = examples::voltage_plan(examples::llama(1, 32, 4, 2, 48, 100, 64), 2);
  const auto prompt = compile(plan, {1, 8, 0, 8}), step = compile(plan, {1, 1, 0, 8});
  for (std::size_t rank = 0; rank < 2; ++rank) {
    EXPECT_NE(find_first<KeepIds>(prompt[rank]), nullptr);
    EXPECT_EQ(find_first<Best>(prompt[rank]) != nullptr, rank == 0);
    EXPECT_NE(find_first<Best>(step[rank]), nullptr);
  }
}

TEST(Price, CountsWhatChoosingTakes) {
  const Plan plan = examples::tensor_plan(examples::llama(1, 32, 4, 2, 48, 100, 64), 2);
  const auto programs = compile(plan, {2, 1, 0, 8});
  const Best& best = *find_first<Best>(programs[0]);
  const auto kernels = kernels_of(best, programs[0], plan);
  ASSERT_EQ(kernels.size(), 1u);
  EXPECT_EQ(kernels[0].kind, KernelKind::elementwise);
  EXPECT_EQ(kernels[0].rows * kernels[0].columns, 3 * 2 * 50);
  EXPECT_EQ(kernels_of(*find_first<SampleToken>(programs[2]), programs[2], plan).size(), 2u);
  // Ids of 30 tokens and penalised logits of 50, of two texts.
  const auto logits = compile(plan, {2, 1, 0});
  EXPECT_EQ(cache_bytes(programs[0], plan, 2, 30) - cache_bytes(logits[0], plan, 2, 30),
            2 * 8 * (30 + 50));
}

TEST(Compile, WritesVoltageAsDesigned) {
  plan::Plan text = examples::voltage_plan(examples::llama(1, 32, 4, 2, 48, 100, 64), 2);
  EXPECT_EQ(text_of(text, {1, 4}), R"(rank 0:
  x = receive(<- 2, tag 0)  # i32 [1, 4]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:100, rows 0:3, with positions)  # f32 [1, 3, 32]
  h3 = norm(x2, layer 0, attention)  # f32 [1, 3, 32]
  send(h3 -> 1, tag 0)
  t0_1 = receive(<- 1, tag 0)  # f32 [1, 1, 32]
  c5 = concat(h3, t0_1, axis 1)  # f32 [1, 4, 32]
  k6 = project(c5, layer 0, key, heads 0:2)  # f32 [1, 4, 16]
  v7 = project(c5, layer 0, value, heads 0:2)  # f32 [1, 4, 16]
  q8 = project(h3, layer 0, query, heads 0:2)  # f32 [1, 3, 32]
  a9 = attend(q8, k6, v7, lengths, layer 0, heads 0:2, texts 0:1, rows 0:3, kept 0:2)  # f32 [1, 3, 32]
  p10 = project_out(a9, layer 0, heads 0:2, with bias)  # f32 [1, 3, 32]
  x11 = add(x2, p10)  # f32 [1, 3, 32]
  h12 = norm(x11, layer 0, mlp)  # f32 [1, 3, 32]
  u13 = mlp_up(h12, layer 0, columns 0:48)  # f32 [1, 3, 48]
  m14 = mlp_down(u13, layer 0, columns 0:48, with bias)  # f32 [1, 3, 32]
  x15 = add(x11, m14)  # f32 [1, 3, 32]
  t1_1 = receive(<- 1, tag 1)  # f32 [1, 1, 32]
  c17 = concat(x15, t1_1, axis 1)  # f32 [1, 4, 32]
  f18 = read_out(c17, lengths)  # f32 [1, 1, 32]
  y19 = head(f18, vocabulary 0:100)  # f32 [1, 1, 100]
  send(y19 -> 2, tag 0)
rank 1:
  x = receive(<- 2, tag 0)  # i32 [1, 4]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:100, rows 3:4, with positions)  # f32 [1, 1, 32]
  h3 = norm(x2, layer 0, attention)  # f32 [1, 1, 32]
  send(h3 -> 0, tag 0)
  t0_0 = receive(<- 0, tag 0)  # f32 [1, 3, 32]
  c5 = concat(t0_0, h3, axis 1)  # f32 [1, 4, 32]
  k6 = project(c5, layer 0, key, heads 0:2)  # f32 [1, 4, 16]
  v7 = project(c5, layer 0, value, heads 0:2)  # f32 [1, 4, 16]
  q8 = project(h3, layer 0, query, heads 0:2)  # f32 [1, 1, 32]
  a9 = attend(q8, k6, v7, lengths, layer 0, heads 0:2, texts 0:1, rows 3:4)  # f32 [1, 1, 32]
  p10 = project_out(a9, layer 0, heads 0:2, with bias)  # f32 [1, 1, 32]
  x11 = add(x2, p10)  # f32 [1, 1, 32]
  h12 = norm(x11, layer 0, mlp)  # f32 [1, 1, 32]
  u13 = mlp_up(h12, layer 0, columns 0:48)  # f32 [1, 1, 48]
  m14 = mlp_down(u13, layer 0, columns 0:48, with bias)  # f32 [1, 1, 32]
  x15 = add(x11, m14)  # f32 [1, 1, 32]
  send(x15 -> 0, tag 1)
rank 2:
  x = input()  # i32 [1, 4]
  send(x -> 0, tag 0)
  send(x -> 1, tag 0)
  y_0 = receive(<- 0, tag 0)  # f32 [1, 1, 100]
  output(y_0)
)");
}

// Several tokens that continue a text go by the heads, columns and tokens of a step.
TEST(Compile, ContinuesByHeadsAndColumnsWhatRowsBegan) {
  const auto teacher = examples::llama(2, 32, 4, 2, 48, 100, 64);
  const RequestShape begins{1, 8, 0}, continues = examples::continuing(1, 8);
  Plan by_heads = examples::hepti_heads_plan(teacher, 2);
  const auto shares = shares_by_weight(teacher, {3, 1});
  for (std::size_t p = 0; p < 2; ++p) by_heads.parts[p].runs = shares[p];
  const std::string expected = compile(by_heads, begins).front().digest;
  for (const auto& plan :
       {examples::voltage_plan(teacher, 2), examples::hepti_rows_plan(teacher, 2)}) {
    EXPECT_EQ(compile(plan, continues).front().digest, expected) << plan.strategy;
    EXPECT_NE(compile(plan, begins).front().digest, expected) << plan.strategy;
    EXPECT_EQ(compile(plan, examples::continuing(1, 1)).front().digest,
              compile(plan, {1, 1, 0}).front().digest);
  }
  // Where heads are divided already, keys and values lie where they are needed.
  const Plan galaxy = examples::galaxy_plan(teacher, 2);
  EXPECT_EQ(compile(galaxy, continues).front().digest, compile(galaxy, begins).front().digest);
  // With PRISM the last device has all of them.
  const auto prism = compile(examples::prism_plan(teacher, 2), continues);
  EXPECT_TRUE(prism[0].instructions.empty());
  EXPECT_FALSE(prism[1].instructions.empty());
}

// Whoever sums what continues a text needs a link for it.
TEST(Shapes, NameEveryPeerOfAContinuedText) {
  Plan plan = examples::hepti_rows_plan(examples::llama(2, 32, 4, 1, 48, 100, 64), 4);
  plan.overlap = true;
  plan.all_reduce = AllReduce::direct;
  std::set<std::int32_t> peers;
  for (const RequestShape& shape : shapes_of(plan))
    peers.merge(peers_of(compile(plan, shape).at(3)));
  for (const std::int32_t peer : peers_of(compile(plan, examples::continuing(1, 8)).at(3)))
    EXPECT_EQ(peers.count(peer), 1u) << peer;
}

TEST(Compile, AnswersForEveryTokenWhereTheShapeAsks) {
  const auto teacher = examples::llama(1, 32, 4, 2, 48, 100, 64);
  const RequestShape every_token = examples::every_token(2, 6);
  for (const auto& plan :
       {examples::voltage_plan(teacher, 2), examples::prism_plan(teacher, 2),
        examples::pipeline_plan(teacher, 1), examples::tensor_plan(teacher, 2)}) {
    const auto programs = compile(plan, every_token);
    const auto* output = find_first<Output>(programs.back());
    EXPECT_EQ(programs.back().values.at(static_cast<std::size_t>(output->value)).dims,
              (std::vector<std::int64_t>{2, 6, 100}))
        << plan.strategy;
  }
  for (const Plan& plan : {examples::voltage_plan(examples::fashion_vit(), 2), text_parts()})
    EXPECT_EQ(message_of([&] { compile(plan, every_token); }),
              "[compile] shape.every_token: saw it of the strategy '" + plan.strategy +
                  "', needs a causal language model that is not cut");
}

TEST(Compile, WritesReorderedProductsAsDesigned) {
  Plan plan = examples::voltage_plan(examples::vit(1, 32, 2, 8, 4, 1, 10), 2);
  plan.reordered = true;
  plan.parts[1].share()->rows = 1;
  const std::string text = text_of(plan, {1, 0});
  EXPECT_NE(
      text.find("  q5 = project(h2, layer 0, query, heads 0:2)  # f32 [1, 1, 32]\n"
                "  a6 = attend_inputs(q5, c4, layer 0, heads 0:2, rows 4:5)  # f32 [1, 1, 32]\n"
                "  p7 = project_out(a6, layer 0, heads 0:2, with bias)  # f32 [1, 1, 32]\n"),
      std::string::npos)
      << text;
}

TEST(Compile, WritesGalaxyAsDesigned) {
  EXPECT_EQ(text_of(examples::galaxy_plan(examples::vit(1, 96, 12, 28, 14, 1, 10), 2), {1}),
            R"(rank 0:
  x = receive(<- 2, tag 0)  # u8 [1, 1, 28, 28]
  x1 = embed(x, rows 0:1, with positions)  # f32 [1, 1, 96]
  h2 = norm(x1, layer 0, attention)  # f32 [1, 1, 96]
  send(h2 -> 1, tag 0)
  t0_1 = receive(<- 1, tag 0)  # f32 [1, 4, 96]
  k4 = project(h2, layer 0, key, heads 0:11)  # f32 [1, 1, 88]
  k5 = project(t0_1, layer 0, key, heads 0:11)  # f32 [1, 4, 88]
  c6 = concat(k4, k5, axis 1)  # f32 [1, 5, 88]
  v7 = project(h2, layer 0, value, heads 0:11)  # f32 [1, 1, 88]
  v8 = project(t0_1, layer 0, value, heads 0:11)  # f32 [1, 4, 88]
  c9 = concat(v7, v8, axis 1)  # f32 [1, 5, 88]
  q10 = project(h2, layer 0, query, heads 0:11)  # f32 [1, 1, 88]
  q11 = project(t0_1, layer 0, query, heads 0:11)  # f32 [1, 4, 88]
  c12 = concat(q10, q11, axis 1)  # f32 [1, 5, 88]
  a13 = attend(c12, c6, c9, layer 0, heads 0:11)  # f32 [1, 5, 88]
  s14 = slice(a13, axis 1, 1:5)  # f32 [1, 4, 88]
  p15 = project_out(s14, layer 0, heads 0:11)  # f32 [1, 4, 96]
  send(p15 -> 1, tag 1)
  s16 = slice(a13, axis 1, 0:1)  # f32 [1, 1, 88]
  p17 = project_out(s16, layer 0, heads 0:11)  # f32 [1, 1, 96]
  t1_1 = receive(<- 1, tag 1)  # f32 [1, 1, 96]
  x19 = add(t1_1, p17)  # f32 [1, 1, 96]
  b20 = add_bias(x19, layer 0, attention)  # f32 [1, 1, 96]
  x21 = add(x1, b20)  # f32 [1, 1, 96]
  h22 = norm(x21, layer 0, mlp)  # f32 [1, 1, 96]
  send(h22 -> 1, tag 2)
  t2_1 = receive(<- 1, tag 2)  # f32 [1, 4, 96]
  u24 = mlp_up(h22, layer 0, columns 0:230)  # f32 [1, 1, 230]
  u25 = mlp_up(t2_1, layer 0, columns 0:230)  # f32 [1, 4, 230]
  m26 = mlp_down(u25, layer 0, columns 0:230)  # f32 [1, 4, 96]
  send(m26 -> 1, tag 3)
  m27 = mlp_down(u24, m26, layer 0, columns 0:230)  # f32 [1, 1, 96]
  t3_1 = receive(<- 1, tag 3)  # f32 [1, 1, 96]
  x29 = add(t3_1, m27)  # f32 [1, 1, 96]
  b30 = add_bias(x29, layer 0, mlp)  # f32 [1, 1, 96]
  x31 = add(x21, b30)  # f32 [1, 1, 96]
  f32 = read_out(x31)  # f32 [1, 1, 96]
  y33 = head(f32)  # f32 [1, 10]
  send(y33 -> 2, tag 0)
rank 1:
  x = receive(<- 2, tag 0)  # u8 [1, 1, 28, 28]
  x1 = embed(x, rows 1:5, with positions)  # f32 [1, 4, 96]
  h2 = norm(x1, layer 0, attention)  # f32 [1, 4, 96]
  send(h2 -> 0, tag 0)
  t0_0 = receive(<- 0, tag 0)  # f32 [1, 1, 96]
  k4 = project(h2, layer 0, key, heads 11:12)  # f32 [1, 4, 8]
  k5 = project(t0_0, layer 0, key, heads 11:12)  # f32 [1, 1, 8]
  c6 = concat(k5, k4, axis 1)  # f32 [1, 5, 8]
  v7 = project(h2, layer 0, value, heads 11:12)  # f32 [1, 4, 8]
  v8 = project(t0_0, layer 0, value, heads 11:12)  # f32 [1, 1, 8]
  c9 = concat(v8, v7, axis 1)  # f32 [1, 5, 8]
  q10 = project(h2, layer 0, query, heads 11:12)  # f32 [1, 4, 8]
  q11 = project(t0_0, layer 0, query, heads 11:12)  # f32 [1, 1, 8]
  c12 = concat(q11, q10, axis 1)  # f32 [1, 5, 8]
  a13 = attend(c12, c6, c9, layer 0, heads 11:12)  # f32 [1, 5, 8]
  s14 = slice(a13, axis 1, 0:1)  # f32 [1, 1, 8]
  p15 = project_out(s14, layer 0, heads 11:12)  # f32 [1, 1, 96]
  send(p15 -> 0, tag 1)
  s16 = slice(a13, axis 1, 1:5)  # f32 [1, 4, 8]
  p17 = project_out(s16, layer 0, heads 11:12)  # f32 [1, 4, 96]
  t1_0 = receive(<- 0, tag 1)  # f32 [1, 4, 96]
  x19 = add(t1_0, p17)  # f32 [1, 4, 96]
  b20 = add_bias(x19, layer 0, attention)  # f32 [1, 4, 96]
  x21 = add(x1, b20)  # f32 [1, 4, 96]
  h22 = norm(x21, layer 0, mlp)  # f32 [1, 4, 96]
  send(h22 -> 0, tag 2)
  t2_0 = receive(<- 0, tag 2)  # f32 [1, 1, 96]
  u24 = mlp_up(h22, layer 0, columns 230:384)  # f32 [1, 4, 154]
  u25 = mlp_up(t2_0, layer 0, columns 230:384)  # f32 [1, 1, 154]
  m26 = mlp_down(u25, layer 0, columns 230:384)  # f32 [1, 1, 96]
  send(m26 -> 0, tag 3)
  m27 = mlp_down(u24, m26, layer 0, columns 230:384)  # f32 [1, 4, 96]
  t3_0 = receive(<- 0, tag 3)  # f32 [1, 4, 96]
  x29 = add(t3_0, m27)  # f32 [1, 4, 96]
  b30 = add_bias(x29, layer 0, mlp)  # f32 [1, 4, 96]
  x31 = add(x21, b30)  # f32 [1, 4, 96]
rank 2:
  x = input()  # u8 [1, 1, 28, 28]
  send(x -> 0, tag 0)
  send(x -> 1, tag 0)
  y_0 = receive(<- 0, tag 0)  # f32 [1, 10]
  output(y_0)
)");
}

// One block over seven rows, 5 : 2, in segments of two: the first device's means go to the second
// one, which answers; nothing goes back but what a short text's last token brings.
TEST(Compile, WritesPrismAsDesigned) {
  plan::Plan text = examples::prism_plan(examples::llama(1, 32, 4, 2, 48, 100, 64), 2);
  text.segments->compression = {200};
  EXPECT_EQ(text_of(text, {1, 7}), R"(rank 0:
  x = receive(<- 2, tag 0)  # i32 [1, 7]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:100, rows 0:5, with positions)  # f32 [1, 5, 32]
  h3 = norm(x2, layer 0, attention)  # f32 [1, 5, 32]
  z4 = segment_means(h3, lengths, rows 0:5, segments 3)  # f32 [1, 3, 32]
  send(z4 -> 1, tag 0)
  g5 = marks(lengths, rows 0:5, segments 5)  # f32 [1, 5, 2]
  k6 = project(h3, layer 0, key, heads 0:2)  # f32 [1, 5, 16]
  v7 = project(h3, layer 0, value, heads 0:2)  # f32 [1, 5, 16]
  q8 = project(h3, layer 0, query, heads 0:2)  # f32 [1, 5, 32]
  a9 = attend(q8, k6, v7, lengths, g5, layer 0, heads 0:2, texts 0:1, rows 0:5)  # f32 [1, 5, 32]
  p10 = project_out(a9, layer 0, heads 0:2, with bias)  # f32 [1, 5, 32]
  x11 = add(x2, p10)  # f32 [1, 5, 32]
  h12 = norm(x11, layer 0, mlp)  # f32 [1, 5, 32]
  u13 = mlp_up(h12, layer 0, columns 0:48)  # f32 [1, 5, 48]
  m14 = mlp_down(u13, layer 0, columns 0:48, with bias)  # f32 [1, 5, 32]
  x15 = add(x11, m14)  # f32 [1, 5, 32]
  f16 = read_out(x15, lengths, rows 0:5)  # f32 [1, 1, 32]
  send(f16 -> 1, tag 2)
rank 1:
  x = receive(<- 2, tag 0)  # i32 [1, 7]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:100, rows 5:7, with positions)  # f32 [1, 2, 32]
  h3 = norm(x2, layer 0, attention)  # f32 [1, 2, 32]
  z0_0 = receive(<- 0, tag 0)  # f32 [1, 3, 32]
  g5 = marks(lengths, rows 0:5, segments 3)  # f32 [1, 3, 2]
  g6 = marks(lengths, rows 5:7, segments 2)  # f32 [1, 2, 2]
  c7 = concat(z0_0, h3, axis 1)  # f32 [1, 5, 32]
  c8 = concat(g5, g6, axis 1)  # f32 [1, 5, 2]
  k9 = project(c7, layer 0, key, heads 0:2)  # f32 [1, 5, 16]
  v10 = project(c7, layer 0, value, heads 0:2)  # f32 [1, 5, 16]
  q11 = project(h3, layer 0, query, heads 0:2)  # f32 [1, 2, 32]
  a12 = attend(q11, k9, v10, lengths, c8, layer 0, heads 0:2, texts 0:1, rows 3:5, kept 0:2)  # f32 [1, 2, 32]
  p13 = project_out(a12, layer 0, heads 0:2, with bias)  # f32 [1, 2, 32]
  x14 = add(x2, p13)  # f32 [1, 2, 32]
  h15 = norm(x14, layer 0, mlp)  # f32 [1, 2, 32]
  u16 = mlp_up(h15, layer 0, columns 0:48)  # f32 [1, 2, 48]
  m17 = mlp_down(u16, layer 0, columns 0:48, with bias)  # f32 [1, 2, 32]
  x18 = add(x14, m17)  # f32 [1, 2, 32]
  f19 = read_out(x18, lengths, rows 5:7)  # f32 [1, 1, 32]
  f_0 = receive(<- 0, tag 2)  # f32 [1, 1, 32]
  x21 = add(f19, f_0)  # f32 [1, 1, 32]
  y22 = head(x21, vocabulary 0:100)  # f32 [1, 1, 100]
  send(y22 -> 2, tag 0)
rank 2:
  x = input()  # i32 [1, 7]
  send(x -> 0, tag 0)
  send(x -> 1, tag 0)
  y_1 = receive(<- 1, tag 0)  # f32 [1, 1, 100]
  output(y_1)
)");
  EXPECT_EQ(text_of(clustering(text), {1, 7}), R"(rank 0:
  x = receive(<- 2, tag 0)  # i32 [1, 7]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:100, rows 0:5, with positions)  # f32 [1, 5, 32]
  h3 = norm(x2, layer 0, attention)  # f32 [1, 5, 32]
  z4, g5 = cluster(h3, lengths, rows 0:5, segments 3)  # f32 [1, 3, 32], f32 [1, 3, 2]
  send(z4 -> 1, tag 0)
  send(g5 -> 1, tag 1)
  g6 = marks(lengths, rows 0:5, segments 5)  # f32 [1, 5, 2]
  k7 = project(h3, layer 0, key, heads 0:2)  # f32 [1, 5, 16]
  v8 = project(h3, layer 0, value, heads 0:2)  # f32 [1, 5, 16]
  q9 = project(h3, layer 0, query, heads 0:2)  # f32 [1, 5, 32]
  a10 = attend(q9, k7, v8, lengths, g6, layer 0, heads 0:2, texts 0:1, rows 0:5)  # f32 [1, 5, 32]
  p11 = project_out(a10, layer 0, heads 0:2, with bias)  # f32 [1, 5, 32]
  x12 = add(x2, p11)  # f32 [1, 5, 32]
  h13 = norm(x12, layer 0, mlp)  # f32 [1, 5, 32]
  u14 = mlp_up(h13, layer 0, columns 0:48)  # f32 [1, 5, 48]
  m15 = mlp_down(u14, layer 0, columns 0:48, with bias)  # f32 [1, 5, 32]
  x16 = add(x12, m15)  # f32 [1, 5, 32]
  f17 = read_out(x16, lengths, rows 0:5)  # f32 [1, 1, 32]
  send(f17 -> 1, tag 2)
rank 1:
  x = receive(<- 2, tag 0)  # i32 [1, 7]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:100, rows 5:7, with positions)  # f32 [1, 2, 32]
  h3 = norm(x2, layer 0, attention)  # f32 [1, 2, 32]
  z0_0 = receive(<- 0, tag 0)  # f32 [1, 3, 32]
  g0_0 = receive(<- 0, tag 1)  # f32 [1, 3, 2]
  g6 = marks(lengths, rows 5:7, segments 2)  # f32 [1, 2, 2]
  c7 = concat(z0_0, h3, axis 1)  # f32 [1, 5, 32]
  c8 = concat(g0_0, g6, axis 1)  # f32 [1, 5, 2]
  k9 = project(c7, layer 0, key, heads 0:2)  # f32 [1, 5, 16]
  v10 = project(c7, layer 0, value, heads 0:2)  # f32 [1, 5, 16]
  q11 = project(h3, layer 0, query, heads 0:2)  # f32 [1, 2, 32]
  a12 = attend(q11, k9, v10, lengths, c8, layer 0, heads 0:2, texts 0:1, rows 3:5, kept 0:2)  # f32 [1, 2, 32]
  p13 = project_out(a12, layer 0, heads 0:2, with bias)  # f32 [1, 2, 32]
  x14 = add(x2, p13)  # f32 [1, 2, 32]
  h15 = norm(x14, layer 0, mlp)  # f32 [1, 2, 32]
  u16 = mlp_up(h15, layer 0, columns 0:48)  # f32 [1, 2, 48]
  m17 = mlp_down(u16, layer 0, columns 0:48, with bias)  # f32 [1, 2, 32]
  x18 = add(x14, m17)  # f32 [1, 2, 32]
  f19 = read_out(x18, lengths, rows 5:7)  # f32 [1, 1, 32]
  f_0 = receive(<- 0, tag 2)  # f32 [1, 1, 32]
  x21 = add(f19, f_0)  # f32 [1, 1, 32]
  y22 = head(x21, vocabulary 0:100)  # f32 [1, 1, 100]
  send(y22 -> 2, tag 0)
rank 2:
  x = input()  # i32 [1, 7]
  send(x -> 0, tag 0)
  send(x -> 1, tag 0)
  y_1 = receive(<- 1, tag 0)  # f32 [1, 1, 100]
  output(y_1)
)");
  EXPECT_EQ(text_of(text, {1, 1}), R"(rank 0:
rank 1:
  x = receive(<- 2, tag 0)  # i32 [1, 1]
  lengths = lengths(x)  # i32 [1]
  x2 = embed(x, lengths, vocabulary 0:100, with positions)  # f32 [1, 1, 32]
  h3 = norm(x2, layer 0, attention)  # f32 [1, 1, 32]
  k4 = project(h3, layer 0, key, heads 0:2)  # f32 [1, 1, 16]
  v5 = project(h3, layer 0, value, heads 0:2)  # f32 [1, 1, 16]
  q6 = project(h3, layer 0, query, heads 0:2)  # f32 [1, 1, 32]
  a7 = attend(q6, k4, v5, lengths, layer 0, heads 0:2, texts 0:1)  # f32 [1, 1, 32]
  p8 = project_out(a7, layer 0, heads 0:2, with bias)  # f32 [1, 1, 32]
  x9 = add(x2, p8)  # f32 [1, 1, 32]
  h10 = norm(x9, layer 0, mlp)  # f32 [1, 1, 32]
  u11 = mlp_up(h10, layer 0, columns 0:48)  # f32 [1, 1, 48]
  m12 = mlp_down(u11, layer 0, columns 0:48, with bias)  # f32 [1, 1, 32]
  x13 = add(x9, m12)  # f32 [1, 1, 32]
  f14 = read_out(x13, lengths)  # f32 [1, 1, 32]
  y15 = head(f14, vocabulary 0:100)  # f32 [1, 1, 100]
  send(y15 -> 2, tag 0)
rank 2:
  x = input()  # i32 [1, 1]
  send(x -> 1, tag 0)
  y_1 = receive(<- 1, tag 0)  # f32 [1, 1, 100]
  output(y_1)
)");
}

TEST(Compile, DividesRowsByTheirShares) {
  const auto rows = [](std::vector<std::int64_t> shares, std::int64_t tokens) {
    plan::Plan plan = examples::voltage_plan(examples::small_llama(), shares.size());
    for (std::size_t p = 0; p < shares.size(); ++p) plan.parts[p].share()->rows = shares[p];
    std::vector<std::int64_t> counts;
    for (const Program& program : compile(plan, {1, tokens}))
      if (const auto* embed = find_first<Embed>(program)) counts.push_back(embed->rows.size());
    return counts;
  };
  using Counts = std::vector<std::int64_t>;
  EXPECT_EQ(rows({3, 1, 1}, 10), (Counts{6, 2, 2}));
  EXPECT_EQ(rows({1, 1, 1}, 10), (Counts{4, 3, 3}));
  EXPECT_EQ(rows({1, 2, 2}, 9), (Counts{2, 4, 3}));
  EXPECT_EQ(rows({1000, 1, 1}, 5), (Counts{3, 1, 1})) << "nobody is left without";
  EXPECT_EQ(rows({5, 5, 0}, 7), (Counts{4, 3})) << "but who is to have none";
  EXPECT_EQ(rows({1, 1, 1}, 2), (Counts{0, 0, 0})) << "so few are divided by heads";
}

TEST(Divided, GoesByLargestRemainders) {
  using Counts = std::vector<std::int64_t>;
  EXPECT_EQ(divided(10, {3, 1, 1}), (Counts{6, 2, 2}));
  EXPECT_EQ(divided(12, {600000, 200000, 200000}), (Counts{7, 3, 2})) << "7.2, 2.4, 2.4";
  EXPECT_EQ(divided(4, {1000, 1, 1}), (Counts{2, 1, 1})) << "nobody with a weight gets nothing";
  EXPECT_EQ(divided(4, {1000, 0, 1}), (Counts{3, 0, 1}));
}

TEST(Compile, DividesLayersByHand) {
  const auto& teacher = examples::small_llama();
  const Strategy& strategy = find_strategy("pipeline");
  const auto shares = strategy.divide(teacher, {1000, 1});
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares[1].layers.back(), whole_share(teacher).layers.back()) << "the last one";
  EXPECT_EQ(shares[0].layers.front(), whole_share(teacher).layers.front());
  EXPECT_EQ(find_strategy("tensor").divide, nullptr);
}

TEST(Flops, AreThoseOfAllKernelsAndOfWhatIsCached) {
  const plan::Plan plan = examples::voltage_plan(examples::small_llama(), 1);
  const Program program = compile(plan, {1, 4}).front();
  double sum = 0;
  for (const Instruction& instruction : program.instructions)
    for (const Kernel& kernel : kernels_of(instruction, program, plan)) sum += kernel.flops();
  EXPECT_GT(sum, 0);
  EXPECT_EQ(flops_of(program, plan, 0), sum);
  EXPECT_GT(flops_of(program, plan, 100), sum) << "each token attends to those before it";
}

TEST(Compile, GivesTheSameDigestEverywhere) {
  // A change here breaks agents of another version: raise the protocol's version with it.
  EXPECT_EQ(compile(three_parts(), {1}).front().digest,
            "1f28a16552e93372025ceb3da6fc23e16a61540cd8594117f683a0f868abb82b");
  EXPECT_EQ(compile(local_plan(), {1}).front().digest,
            "ba9460bcc82fbb1aea275cc040d260d5e4a1d2e1f009d01eef5d519301999e2b");
}

TEST(Compile, TellsOtherShapesAndSharesApart) {
  const std::string digest = compile(three_parts(), {1}).front().digest;
  EXPECT_NE(compile(three_parts(), {2}).front().digest, digest);
  Plan plan = three_parts();
  std::swap(plan.parts[0], plan.parts[1]);
  EXPECT_NE(compile(plan, {1}).front().digest, digest);
  plan = three_parts();
  plan.parts[2].sub_model().config.width = 72;
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
  plan.parts[0].sub_model().config.width = 1000;
  EXPECT_NE(message_of([&] { compile(plan, {1}); }).find("keeps 1000, the teacher has 192"),
            std::string::npos);
}

std::vector<Kernel> kernels_of_program(const Program& program, const Plan& plan) {
  std::vector<Kernel> kernels;
  for (const Instruction& instruction : program.instructions)
    for (const Kernel& kernel : kernels_of(instruction, program, plan)) kernels.push_back(kernel);
  return kernels;
}

double flops_of(const std::vector<Kernel>& kernels) {
  double sum = 0;
  for (const Kernel& kernel : kernels) sum += kernel.flops();
  return sum;
}

TEST(Price, CountsTheKernelsOfPartsAndFusion) {
  const Plan plan = three_parts();
  const std::vector<Program> programs = compile(plan, {2});
  EXPECT_TRUE(kernels_of(programs[0].instructions[0], programs[0], plan).empty());
  EXPECT_TRUE(kernels_of(programs[0].instructions.back(), programs[0], plan).empty());
  const auto part = kernels_of_program(programs[1], plan);
  EXPECT_EQ(part.size(),
            kernels_of_model(plan.parts[1].sub_model().config, {2, 0, 0}, false).size());
  EXPECT_EQ(part.back().rows, 2);
  EXPECT_EQ(part.back().columns, 96);
  const auto fusion = kernels_of(*find_first<Fuse>(programs[3]), programs[3], plan);
  EXPECT_EQ(fusion.size(), kernels_of_fusion(plan.teacher, {128, 96, 64}, {2, 0, 0}).size());
}

// What a device does in an exact strategy is its share of the products, no more and no less.
TEST(Price, CountsTheSharesOfAModelOnce) {
  const model::ModelConfig config = examples::vit_base();
  const double whole = flops_of(
      kernels_of_program(compile(whole_plan(config, "a"), {2})[0], whole_plan(config, "a")));
  EXPECT_EQ(whole, flops_of(kernels_of_model(config, {2, 0, 0}, true)));
  const double embedding = flops_of(kernels_of_embedding(config, {2, 0, 0}));
  for (const std::size_t devices : {2u, 3u, 4u}) {
    const auto sum = [&](const Plan& plan) {
      double flops = 0;
      for (const Program& program : compile(plan, {2}))
        flops += flops_of(kernels_of_program(program, plan));
      return flops;
    };
    EXPECT_EQ(sum(examples::pipeline_plan(config, devices)), whole);
    // Patches are few: each device embeds them.
    EXPECT_EQ(sum(examples::tensor_plan(config, devices)),
              whole + static_cast<double>(devices - 1) * embedding);
  }
}

// What a device keeps for two programs is what either of them reads.
TEST(Weights, AreTheUnionOfWhatProgramsRead) {
  const Plan plan = examples::tensor_plan(examples::fashion_vit(), 3);
  const std::vector<Program> programs = compile(plan, {1});
  const auto columns = [&](const std::vector<const Program*>& read) {
    for (const WeightRange& weights : weights_of(read, plan))
      if (weights.held.name == "blocks.2.mlp.down.weight") return weights.held;
    return model::ParameterRange();
  };
  using Held = model::ParameterRange;
  EXPECT_TRUE(columns({&programs[1]}) == (Held{"blocks.2.mlp.down.weight", 1, {256, 512}}));
  EXPECT_TRUE(columns({&programs[1], &programs[0]}) ==
              (Held{"blocks.2.mlp.down.weight", 1, {0, 512}}));
  EXPECT_TRUE(columns({&programs[0], &programs[2]}) ==
              (Held{"blocks.2.mlp.down.weight", 1, {0, 768}}));
}

// And for two plans, whichever comes first; a plan that it has no part in adds nothing.
TEST(Weights, OfSeveralPlansAreTheirUnion) {
  const auto columns = [](const std::vector<Plan>& plans) {
    for (const model::ParameterRange& held : holding_of(plans, "d1"))
      if (held.name == "blocks.2.mlp.down.weight") return held.range;
    return model::Range();
  };
  const Plan two = examples::tensor_plan(examples::fashion_vit(), 2),
             three = examples::tensor_plan(examples::fashion_vit(), 3),
             alone = examples::tensor_plan(examples::fashion_vit(), 1);
  EXPECT_TRUE(columns({two}) == (model::Range{384, 768}));
  EXPECT_TRUE(columns({three}) == (model::Range{256, 512}));
  EXPECT_TRUE(columns({two, three}) == (model::Range{256, 768}));
  EXPECT_TRUE(columns({three, two}) == (model::Range{256, 768}));
  EXPECT_TRUE(columns({alone}) == model::Range());
  EXPECT_TRUE(columns({alone, two}) == (model::Range{384, 768}));
}

TEST(Price, KnowsWhatEachRankHolds) {
  const Plan plan = three_parts();
  const std::vector<Program> programs = compile(plan, {1});
  EXPECT_EQ(resident_bytes(programs[2], plan),
            serving_bytes + weight_bytes(plan.parts[2].sub_model().config));
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
  const double by_hand = forward_bytes(plan.parts[0].sub_model().config, {8, 0, 0});
  EXPECT_NEAR(working_bytes(eight[0], plan), by_hand, 0.03 * by_hand);
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
  // 2 · layers · H/G · K numbers of each of two texts; and its id, where tokens are chosen.
  const auto more = [](const Plan& plan, std::size_t rank) {
    return working_bytes_of(plan, rank, 160) - working_bytes_of(plan, rank, 60);
  };
  EXPECT_EQ(more(text_parts(), 0), 100 * 2 * 4.0 * 2 * 4 * (6 / 3) * 16);
  EXPECT_EQ(more(text_parts(), 1), 100 * 2 * 4.0 * 2 * 2 * (3 / 3) * 16);
  EXPECT_EQ(more(text_parts(), 2), 100 * 2 * 8) << "the aggregator keeps ids alone";
  EXPECT_EQ(more(local_text_plan(), 0), 100 * 2 * (4.0 * 2 * 4 * (12 / 3) * 16 + 8));
}

TEST(Price, HoldsThePromptsPassBesideItsCache) {
  const Plan plan = text_parts();
  const std::vector<Program> programs = compile(plan, plan.shape);
  // What a prompt of 100 computes in; 160 tokens of two texts kept.
  const double kept = 2 * 160 * 4.0 * 2 * 4 * 2 * 16;
  Plan prompt = plan;
  prompt.shape.generate = 0;
  EXPECT_EQ(working_bytes(programs[0], plan),
            running_bytes(compile(prompt, prompt.shape)[0], prompt) + kept);
  const double by_hand = forward_bytes(plan.parts[0].sub_model().config, {2, 100, 0}) + kept;
  EXPECT_NEAR(working_bytes(programs[0], plan), by_hand, 0.03 * by_hand);
}

// Rows of a prompt are computed with all weights but the head, whatever a step takes of them.
TEST(Price, CountsWhatAPromptTakesOfWhoDoesLessInAStep) {
  for (const auto& of_rows : {examples::voltage_plan, examples::prism_plan}) {
    const Plan plan = generating(of_rows(examples::small_llama(), 2));
    const double all = 4.0 * static_cast<double>(model::count_parameters(plan.teacher));
    const std::vector<Program> step = compile(plan, plan.shape);
    for (std::size_t rank = 0; rank < 2; ++rank) {
      EXPECT_NEAR(weight_bytes(step[rank], plan), all, 0.06 * all) << plan.strategy << rank;
      EXPECT_GT(running_bytes(step[rank], plan), 1e5) << plan.strategy << rank;
    }
  }
}

TEST(Price, OfATextIsThatOfOneTokenHalfWay) {
  const Plan plan = text_parts();
  const std::vector<Program> programs = compile(plan, plan.shape);
  std::set<std::int64_t> seen;
  for (const Kernel& kernel : kernels_of_program(programs[0], plan)) {
    if (kernel.kind == KernelKind::attention) seen.insert(kernel.columns);
    if (kernel.kind == KernelKind::matmul) {
      EXPECT_EQ(kernel.rows, 2);
    }
  }
  EXPECT_EQ(seen, std::set<std::int64_t>{100 + 60 / 2 + 1});
  EXPECT_EQ(programs[0].values[0].dims, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(programs[0].values[2].dims, (std::vector<std::int64_t>{2, 1, 128}));
}

TEST(Price, TheHeadOfALanguageModelIsTheAggregators) {
  const Plan plan = text_parts();
  const std::vector<Program> programs = compile(plan, plan.shape);
  // Three sets of parts, each part in two; the head [500, 192].
  EXPECT_EQ(resident_bytes(programs[2], plan),
            serving_bytes + 4.0 * (192 * 2 * (128 + 64) + 3 * 192 + 500 * 192));
  const auto fusion = kernels_of(*find_first<Fuse>(programs[2]), programs[2], plan);
  EXPECT_EQ(fusion.back().columns, 500);
  EXPECT_EQ(fusion.back().rows, 2);
}

/// Products in the blocks.
double block_flops(const Program& program, const Plan& plan) {
  double flops = 0;
  for (const Instruction& instruction : program.instructions) {
    const bool of_block = std::holds_alternative<Project>(instruction) ||
                          std::holds_alternative<MlpUp>(instruction) ||
                          std::holds_alternative<MlpDown>(instruction) ||
                          std::holds_alternative<Attend>(instruction) ||
                          std::holds_alternative<ProjectOut>(instruction);
    if (of_block) flops += flops_of(kernels_of(instruction, program, plan));
  }
  return flops;
}

// ViT-B/16, N = 197, two devices: 10·N_p·D² + 2·N·D² + 2·N_p·N·D multiply-adds a block, 20.3 GFLOPs
// in the blocks of the larger part.
TEST(Price, OfRowsIsWhatTheFormulaSays) {
  Plan plan = examples::voltage_plan(examples::vit_base(), 2);
  plan.parts[0].share()->rows = 1;
  const std::vector<Program> programs = compile(plan, {1});
  for (const auto& [rank, own] : {std::pair(0, 99.0), std::pair(1, 98.0)}) {
    const double N = 197, D = 768;
    EXPECT_EQ(block_flops(programs[static_cast<std::size_t>(rank)], plan),
              2 * 12 * (10 * own * D * D + 2 * N * D * D + 2 * own * N * D))
        << rank;
  }
}

/// The same rows on each of two devices, S segments of each.
Plan equal_prism(const model::ModelConfig& teacher, std::int64_t segments) {
  Plan plan = examples::prism_plan(teacher, 2);
  plan.parts[0].share()->rows = 1;
  plan.segments->compression.clear();
  plan.segments->count = {segments};
  return plan;
}

/// Numbers that a rank sends to the other one, in the blocks.
double exchanged(const Program& program) {
  double bytes = 0;
  for (const Instruction& instruction : program.instructions)
    if (const auto* send = std::get_if<Send>(&instruction); send && send->peer == 1)
      bytes += program.values[static_cast<std::size_t>(send->value)].bytes();
  return bytes / 4;
}

// ViT-B/16, N = 197, two devices, N_p = 99: 17.6, 17.9 and 18.25 GFLOPs at S = 10, 20 and 30, where
// the whole has 35.1; 10·N_p·D² + 2·M·D² + 2·N_p·M·D multiply-adds a block, M = N_p + (P−1)·S. Of
// the exchange 1 − S/99 is saved.
// Voltage: 10·n·D² + 2·N·D² + 2·n·N·D of n rows with keys and values of all N, or 12·n·D² +
// 2·H·n·N·D, whichever is less.
TEST(Price, OfReorderedProductsIsWhatTheFormulaSays) {
  const std::int64_t tokens = 197, width = 768, heads = 12;
  model::ModelConfig teacher = examples::vit_base();
  teacher.layers.resize(1);
  for (const std::int64_t own : {10, 49, 51, 100}) {
    Plan plan = examples::voltage_plan(teacher, 2);
    plan.parts[0].share()->rows = tokens - own;
    plan.parts[1].share()->rows = own;
    plan.reordered = true;
    const Program program = compile(plan, {1, tokens}).at(1);
    double macs = 0;
    for (const Instruction& instruction : program.instructions)
      if (!std::holds_alternative<Embed>(instruction) && !std::holds_alternative<Head>(instruction))
        for (const Kernel& kernel : kernels_of(instruction, program, plan))
          if (kernel.kind == KernelKind::matmul || kernel.kind == KernelKind::attention)
            macs += kernel.flops() / 2;
    const auto usual = static_cast<double>(10 * own * width * width + 2 * tokens * width * width +
                                           2 * own * tokens * width);
    const auto reordered =
        static_cast<double>(12 * own * width * width + 2 * heads * own * tokens * width);
    EXPECT_EQ(find_first<AttendInputs>(program) != nullptr, reordered < usual) << own;
    EXPECT_NEAR(macs / std::min(usual, reordered), 1, 0.01) << own;
  }
}

TEST(Price, OfSegmentsIsWhatTheFormulaSays) {
  const model::ModelConfig config = examples::vit_base();
  const Plan whole = whole_plan(config, "hub"), voltage = [&] {
    Plan plan = examples::voltage_plan(config, 2);
    plan.parts[0].share()->rows = 1;
    return plan;
  }();
  EXPECT_NEAR(flops_of(kernels_of_program(compile(whole, {1})[0], whole)), 35.1e9, 0.05e9);
  const double all_rows = exchanged(compile(voltage, {1})[0]);
  for (const auto& [segments, gflops, saved] :
       {std::tuple(10, 17.6, 0.8990), std::tuple(20, 17.9, 0.7980),
        std::tuple(30, 18.25, 0.6970)}) {
    const Plan plan = equal_prism(config, segments);
    const std::vector<Program> programs = compile(plan, {1});
    const double own = 99, D = 768, M = own + segments;
    const double flops = block_flops(programs[0], plan);
    EXPECT_EQ(flops, 2 * 12 * (10 * own * D * D + 2 * M * D * D + 2 * own * M * D));
    EXPECT_NEAR(flops_of(kernels_of_program(programs[0], plan)), gflops * 1e9, 0.05e9) << segments;
    EXPECT_NEAR(1 - exchanged(programs[0]) / all_rows, saved, 5e-5) << segments;
  }
}

/// BERT base: encoders of 256 tokens.
model::ModelConfig bert_base() {
  model::ModelConfig config;
  config.family = model::Family::bert;
  config.task = model::Task::embedding;
  config.norm_placement = model::NormPlacement::after;
  config.width = 768;
  config.head_width = 64;
  config.layers.assign(12, {12, 3072});
  config.vocabulary = 30522;
  config.context = 512;
  config.token_types = 2;
  config.classes = 0;
  return config;
}

// At CR 128 each device saves 51.24 % of the compute in its blocks, and 99.2 % of the exchange.
TEST(Price, OfOneSegmentOfBertIsAsPublished) {
  const model::ModelConfig config = bert_base();
  Plan plan = equal_prism(config, 1), voltage = examples::voltage_plan(config, 2);
  voltage.parts[0].share()->rows = 1;
  plan.segments->count.clear();
  plan.segments->compression = {12800};
  const RequestShape shape{1, 256, 0};
  const Plan whole = whole_plan(config, "hub");
  const Program of_segments = compile(plan, shape)[0];
  const double saved =
      1 - block_flops(of_segments, plan) / block_flops(compile(whole, shape)[0], whole);
  EXPECT_NEAR(saved, 0.5124, 5e-5);
  EXPECT_NEAR(1 - exchanged(of_segments) / exchanged(compile(voltage, shape)[0]), 0.992, 5e-4);
}

// Distances to S rows, then four times to S centres and their means: about two percent.
TEST(Price, CountsWhatGroupingTakes) {
  const Plan means = equal_prism(examples::vit_base(), 20);
  const Plan clusters = clustering(means);
  const double more = flops_of(kernels_of_program(compile(clusters, {1})[0], clusters)) -
                      flops_of(kernels_of_program(compile(means, {1})[0], means));
  EXPECT_EQ(more, 12 * (5 * 2 * 99.0 * 768 * 20 + 4 * 2 * 20.0 * 99 * 768));
  EXPECT_LT(more, 0.02 * block_flops(compile(means, {1})[0], means));
}

TEST(Price, CountsBytesOfAValue) {
  EXPECT_EQ((ValueInfo{"x", base::Element::u8, {2, 3, 4}}.bytes()), 24);
  EXPECT_EQ((ValueInfo{"x", base::Element::f32, {2, 3, 4}}.bytes()), 96);
  EXPECT_EQ((ValueInfo{"x", base::Element::f32, {}}.bytes()), 4);
  EXPECT_EQ((ValueInfo{"x", base::Element::scaled_i8, {2, 3, 96}}.bytes()), 6 * (96 + 4));
}

TEST(FindStrategy, ListsTheKnownOnes) {
  EXPECT_EQ(find_strategy("decomposed").name, "decomposed");
  EXPECT_EQ(message_of([] { find_strategy("magic"); }),
            "[strategy] saw 'magic', needs one of local, decomposed, pipeline, tensor, voltage, "
            "hepti, galaxy, prism");
}

}  // namespace
}  // namespace cleave::plan
