// Exact strategies against the whole model, with what each device holds: its weights alone.

#include "tests/infer/exact.hpp"

#include <string>

#include <gtest/gtest.h>

#include "tests/optimizer/examples.hpp"

namespace cleave::infer {
namespace {

plan::Plan star(const ModelConfig& teacher, std::size_t devices) {
  plan::Plan plan = examples::tensor_plan(teacher, devices);
  plan.all_reduce = plan::AllReduce::star;
  return plan;
}

using Strategies = std::vector<plan::Plan (*)(const ModelConfig&, std::size_t)>;
const Strategies exact = {examples::tensor_plan, star, examples::pipeline_plan,
                          examples::voltage_plan};

class Exact : public testing::TestWithParam<std::pair<const std::string, ModelConfig>> {};

TEST_P(Exact, AnswersAsTheWholeModelOnAnyNumberOfDevices) {
  const ModelConfig& config = GetParam().second;
  const Transformer teacher = lively(config);
  for (const Element element : {Element::f32, Element::f64})
    for (const std::int64_t batch : {1, 3}) {
      const net::Value input = input_of(config, batch, 7);
      const std::vector<plan::RequestShape> shapes = {{batch, 7, 0}};
      const net::Value expected = Fleet(teacher, local(config), element, shapes).answer(input);
      for (const auto strategy : exact)
        for (std::size_t devices = 1; devices <= 5; ++devices) {
          const plan::Plan plan = strategy(config, devices);
          const net::Value answer = Fleet(teacher, plan, element, shapes).answer(input);
          EXPECT_LE(difference(answer, expected), element == Element::f64 ? 1e-11 : 1e-5)
              << plan.strategy << " on " << devices << ", batch " << batch;
        }
    }
}

TEST_P(Exact, ContinuesTextsAsTheWholeModelDoes) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "generates nothing";
  const Transformer teacher = lively(config);
  const std::vector<plan::RequestShape> shapes = {{3, 5, 0}, {3, 1, 0}};
  Fleet whole(teacher, local(config), Element::f64, shapes);
  for (const auto strategy : exact)
    for (const std::size_t devices : {2u, 3u, 5u}) {
      const plan::Plan plan = strategy(config, devices);
      Fleet fleet(teacher, plan, Element::f64, shapes);
      Sequence sequence{9, 0, 12};
      net::Value input = input_of(config, 3, 5);
      for (int step = 0; step < 6; ++step) {
        const net::Value expected = whole.answer(input, sequence);
        EXPECT_LE(difference(fleet.answer(input, sequence), expected), 1e-11)
            << plan.strategy << " on " << devices << ", step " << step;
        sequence.past += input.dims.at(1);
        const at::Tensor next = tensor_of(expected).flatten(1).argmax(1).to(at::kInt);
        input = value_of({3, 1},
                         std::vector<std::int32_t>(next.data_ptr<std::int32_t>(),
                                                   next.data_ptr<std::int32_t>() + 3),
                         Element::i32);
      }
    }
}

// Keys and values of what was before lie on the devices by heads.
TEST(ExactRows, RefuseATextThatContinuesWithSeveralTokens) {
  const ModelConfig config = of_texts(Family::gpt2);
  Fleet fleet(lively(config), examples::voltage_plan(config, 2), Element::f32,
              {{1, 5, 0}, {1, 1, 0}});
  fleet.answer(input_of(config, 1, 5), {9, 0, 12});
  try {
    fleet.answer(input_of(config, 1, 3), {9, 5, 12});
    FAIL() << "it was answered";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("saw a text that continues with several tokens"),
              std::string::npos)
        << error.what();
  }
}

/// Bytes that each device sends, fp32.
std::vector<std::int64_t> sent_by(const plan::Plan& plan, std::int64_t batch) {
  const Transformer teacher = lively(plan.teacher);
  Fleet fleet(teacher, plan, Element::f32, {{batch, 8, 0}});
  fleet.answer(input_of(plan.teacher, batch, 8));
  return fleet.sent;
}

// Megatron: two all-reduces a layer and one of the embedded tokens, each of which sends
// 2(P−1)/P·N·D numbers from every device, 4(P−1)/P·N·D a block.
TEST(Exchange, IsWhatTheFormulasSay) {
  const ModelConfig config = of_texts(Family::bert);
  const std::int64_t stream = 4 * 2 * 8 * config.width, reductions = 2 * 5 + 1;
  const std::int64_t answer = 4 * 2 * config.width;
  for (const std::int64_t devices : {2, 4}) {
    const auto ring = sent_by(examples::tensor_plan(config, static_cast<std::size_t>(devices)), 2);
    const auto stars = sent_by(star(config, static_cast<std::size_t>(devices)), 2);
    const auto stages =
        sent_by(examples::pipeline_plan(config, static_cast<std::size_t>(devices)), 2);
    for (std::int64_t rank = 0; rank < devices; ++rank) {
      const auto r = static_cast<std::size_t>(rank);
      EXPECT_EQ(ring[r],
                reductions * 2 * (devices - 1) * stream / devices + (rank == 0 ? answer : 0));
      EXPECT_EQ(stars[r],
                reductions * stream * (rank == 0 ? devices - 1 : 1) + (rank == 0 ? answer : 0));
      EXPECT_EQ(stages[r], rank + 1 < devices ? stream : answer);
    }
  }
}

// The full-tensor exchange of 10 rows, 6 : 2 : 2: (P−1)·n_p·D numbers a block from each device, and
// at the end the others' rows to the first.
TEST(Exchange, OfRowsIsWhatTheFormulaSays) {
  const ModelConfig config = of_texts(Family::bert);
  const Transformer teacher = lively(config);
  Fleet fleet(teacher, examples::voltage_plan(config, 3), Element::f32, {{2, 10, 0}});
  fleet.answer(input_of(config, 2, 10));
  const std::int64_t row = 4 * 2 * config.width;
  const std::vector<std::int64_t> rows = {6, 2, 2};
  for (std::size_t rank = 0; rank < rows.size(); ++rank)
    EXPECT_EQ(fleet.sent[rank], 5 * 2 * rows[rank] * row + (rank == 0 ? row : rows[rank] * row));
}

INSTANTIATE_TEST_SUITE_P(Models, Exact, testing::ValuesIn(all_models()),
                         [](const auto& model) { return model.param.first; });

}  // namespace
}  // namespace cleave::infer
