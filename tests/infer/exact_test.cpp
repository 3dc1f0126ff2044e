// Exact strategies against the whole model, with what each device holds: its weights alone.

#include "tests/infer/exact.hpp"

#include <cmath>
#include <map>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include "tests/optimizer/examples.hpp"

namespace cleave::infer {
namespace {

template <plan::AllReduce all_reduce>
plan::Plan reducing(const ModelConfig& teacher, std::size_t devices) {
  plan::Plan plan = examples::tensor_plan(teacher, devices);
  plan.all_reduce = all_reduce;
  return plan;
}

using PlanOf = plan::Plan (*)(const ModelConfig&, std::size_t);

/// With products beside the transfers, or behind them.
template <PlanOf plan_of>
plan::Plan overlapping(const ModelConfig& teacher, std::size_t devices) {
  plan::Plan plan = plan_of(teacher, devices);
  plan.overlap = true;
  return plan;
}
template <PlanOf plan_of>
plan::Plan waiting(const ModelConfig& teacher, std::size_t devices) {
  plan::Plan plan = plan_of(teacher, devices);
  plan.overlap = false;
  return plan;
}

template <PlanOf plan_of>
plan::Plan gathering_keys(const ModelConfig& teacher, std::size_t devices) {
  plan::Plan plan = plan_of(teacher, devices);
  plan.gathered = plan::Gathered::keys_and_values;
  return plan;
}

/// Where the model lets it.
template <PlanOf plan_of>
plan::Plan reordered(const ModelConfig& teacher, std::size_t devices) {
  plan::Plan plan = plan_of(teacher, devices);
  plan.reordered = plan::reorders(teacher);
  return plan;
}

using Strategies = std::vector<PlanOf>;
const Strategies exact = {examples::tensor_plan,
                          reducing<plan::AllReduce::star>,
                          reducing<plan::AllReduce::direct>,
                          examples::pipeline_plan,
                          examples::voltage_plan,
                          reordered<examples::voltage_plan>,
                          reordered<overlapping<examples::voltage_plan>>,
                          examples::hepti_rows_plan,
                          overlapping<examples::hepti_rows_plan>,
                          gathering_keys<examples::hepti_rows_plan>,
                          gathering_keys<examples::hepti_columns_plan>,
                          examples::hepti_columns_plan,
                          overlapping<examples::hepti_columns_plan>,
                          examples::hepti_heads_plan,
                          examples::galaxy_plan,
                          waiting<examples::galaxy_plan>};

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
    for (const std::size_t devices : {1u, 2u, 3u, 5u}) {
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

// A prompt, then several tokens at once, as many as there are devices and more; then one.
TEST_P(Exact, ContinuesTextsWithSeveralTokensAsTheWholeModelDoes) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "generates nothing";
  const Transformer teacher = lively(config);
  std::vector<plan::RequestShape> shapes = {{2, 6, 0}, {2, 1, 0}};
  for (const std::int64_t more : {3, 4}) shapes.push_back(examples::continuing(2, more));
  for (const Element element : {Element::f32, Element::f64}) {
    Fleet whole(teacher, local(config), element, shapes);
    for (const auto strategy : exact)
      for (const std::size_t devices : {1u, 2u, 3u, 5u}) {
        const plan::Plan plan = strategy(config, devices);
        Fleet fleet(teacher, plan, element, shapes);
        Sequence sequence{9, 0, 15};
        for (const std::int64_t tokens : {6, 3, 1, 4, 1}) {
          const net::Value input = input_of(config, 2, tokens);
          EXPECT_LE(difference(fleet.answer(input, sequence), whole.answer(input, sequence)),
                    element == Element::f64 ? 1e-11 : 1e-5)
              << plan.strategy << " on " << devices << ", " << tokens << " behind "
              << sequence.past;
          sequence.past += tokens;
        }
      }
  }
}

// On whichever device its rows and heads are.
TEST_P(Exact, RefusesTokensBeyondTheContext) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "generates nothing";
  const Transformer teacher = lively(config);
  const std::vector<plan::RequestShape> shapes = {{1, 14, 0}, examples::continuing(1, 3)};
  std::vector<PlanOf> strategies = exact;
  strategies.push_back(examples::prism_plan);
  for (const auto strategy : strategies) {
    const plan::Plan plan = strategy(config, 3);
    Fleet fleet(teacher, plan, Element::f32, shapes);
    fleet.answer(input_of(config, 1, 14), {9, 0, 16});
    try {
      fleet.answer(input_of(config, 1, 3), {9, 14, 16});
      ADD_FAILURE() << plan.strategy << " answered";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(std::string(error.what()),
                std::string("[tokens] saw 17 tokens in one text, needs at most 16, ") +
                    config.context_name())
          << plan.strategy;
    }
  }
}

TEST_P(Exact, AnswersForEveryTokenAsTheWholeModelDoes) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "answers so always";
  const Transformer teacher = in_doubles(lively(config));
  const plan::RequestShape every_token = examples::every_token(2, 7);
  const net::Value input = input_of(config, 2, 7);
  void* ids = const_cast<std::byte*>(input.data.data());
  const at::Tensor expected = model::forward(teacher, at::from_blob(ids, input.dims, at::kInt));
  std::vector<PlanOf> strategies = exact;
  strategies.push_back([](const ModelConfig& model, std::size_t) { return local(model); });
  for (const auto strategy : strategies)
    for (std::size_t devices = 1; devices <= 5; ++devices) {
      const plan::Plan plan = strategy(config, devices);
      const net::Value answer =
          Fleet(teacher, plan, Element::f64, {every_token}).answer(every_token, input);
      ASSERT_EQ(answer.dims, (std::vector<std::int64_t>{2, 7, config.classes}));
      // What stands behind the end of a text is nobody's.
      for (const std::int64_t text : {0, 1})
        EXPECT_LE((tensor_of(answer)[text] - expected[text])
                          .narrow(0, 0, 7 - text)
                          .abs()
                          .max()
                          .item<double>() /
                      expected.abs().max().item<double>(),
                  1e-11)
            << plan.strategy << " on " << devices << ", text " << text;
    }
}

/// What travels smaller than it is computed, and how far an answer may then be off, in parts of the
/// largest logit.
const std::map<Element, double> formats = {
    {Element::f16, 3e-3}, {Element::bf16, 3e-2}, {Element::scaled_i8, 8e-2}};

plan::Plan with_wire(plan::Plan plan, Element wire) {
  plan.wire = wire;
  return plan;
}

TEST_P(Exact, AnswersAsCloselyAsItsWireFormatIs) {
  const ModelConfig& config = GetParam().second;
  const Transformer teacher = lively(config);
  const std::vector<plan::RequestShape> shapes = {{3, 7, 0}};
  const net::Value input = input_of(config, 3, 7);
  // Its largest logit is small: every text is nearly as much of one class as of another.
  const double room = GetParam().first == "bert_classifier" ? 4 : 1;
  const net::Value expected = Fleet(teacher, local(config), Element::f32, shapes).answer(input);
  for (const auto strategy : exact)
    for (const std::size_t devices : {1u, 3u})
      for (const auto& [wire, most] : formats) {
        const plan::Plan plan = with_wire(strategy(config, devices), wire);
        const double off =
            difference(Fleet(teacher, plan, Element::f32, shapes).answer(input), expected);
        const std::string what = plan.strategy + " on " + std::to_string(devices) + ", " +
                                 std::string(base::name_of(wire));
        if (devices == 1) {
          EXPECT_LE(off, 1e-5) << what;
        } else {
          EXPECT_LE(off, room * most) << what;
          EXPECT_GE(off, 1e-5) << what << ": was anything cast?";
        }
      }
}

/// An engine that notes what one kind of instruction gives, rank by rank, in the order of the
/// program.
template <class Operation>
class Noting : public Engine {
 public:
  using Notes = std::map<std::int32_t, std::vector<std::string>>;
  using Wanted = bool (*)(const Operation&);
  Noting(Engine& inner, Notes& notes, Wanted wanted)
      : inner_(inner), notes_(notes), wanted_(wanted) {}

  std::unique_ptr<Slots> begin(std::shared_ptr<const plan::Program> program,
                               const Sequence& sequence) override {
    auto& notes = notes_[program->rank];
    return std::make_unique<NotingSlots>(inner_.begin(std::move(program), sequence), notes,
                                         wanted_);
  }

 private:
  class NotingSlots : public Slots {
   public:
    NotingSlots(std::unique_ptr<Slots> inner, std::vector<std::string>& notes, Wanted wanted)
        : inner_(std::move(inner)), notes_(notes), wanted_(wanted) {}
    void set(plan::ValueId value, net::Value is) override { inner_->set(value, std::move(is)); }
    void run(const plan::Instruction& instruction) override {
      inner_->run(instruction);
      const auto* operation = std::get_if<Operation>(&instruction);
      if (operation == nullptr || !wanted_(*operation)) return;
      const net::Value value = inner_->get(operation->result);
      notes_.emplace_back(reinterpret_cast<const char*>(value.data.data()), value.data.size());
    }
    net::Value get(plan::ValueId value) override { return inner_->get(value); }
    void clear(plan::ValueId value) override { inner_->clear(value); }

   private:
    std::unique_ptr<Slots> inner_;
    std::vector<std::string>& notes_;
    Wanted wanted_;
  };
  Engine& inner_;
  Notes& notes_;
  Wanted wanted_;
};

/// By rank, the bytes of each `Operation` of a request that is wanted.
template <class Operation>
typename Noting<Operation>::Notes noted(const Transformer& teacher, const plan::Plan& plan,
                                        typename Noting<Operation>::Wanted wanted) {
  EngineOptions options;
  options.warm_up = false;
  const auto whole = model_engine(teacher, options);
  typename Noting<Operation>::Notes notes;
  Noting<Operation> noting(*whole, notes, wanted);
  plan::RequestShape shape{2, 8, 0};
  const auto programs = plan::compile(plan, shape);
  play(std::vector<Engine*>(programs.size(), &noting), programs, {input_of(teacher.config, 2, 8)});
  notes.erase(static_cast<std::int32_t>(plan.parts.size()));
  return notes;
}

/// Every rank but those without any has the same bits.
template <class Notes>
void expect_same(const Notes& notes, std::size_t devices, const std::string& what) {
  ASSERT_EQ(notes.size(), devices) << what;
  const auto& first = notes.begin()->second;
  EXPECT_GE(first.size(), 5u) << what;
  for (const auto& [rank, bytes] : notes) EXPECT_TRUE(bytes == first) << what << ", rank " << rank;
}

// Where all have the whole stream, what a norm makes of it; where they have rows, the keys of what
// was gathered.
TEST_P(Exact, GivesEveryDeviceTheSameBits) {
  const ModelConfig& config = GetParam().second;
  const Transformer teacher = lively(config);
  for (const Element wire : {Element::f32, Element::f16, Element::bf16, Element::scaled_i8})
    for (const std::size_t devices : {2u, 3u, 4u}) {
      const std::string what = std::string(base::name_of(wire)) + ", " + std::to_string(devices);
      for (const auto strategy :
           {PlanOf(examples::tensor_plan), PlanOf(reducing<plan::AllReduce::star>),
            PlanOf(reducing<plan::AllReduce::direct>)})
        expect_same(noted<plan::Norm>(teacher, with_wire(strategy(config, devices), wire),
                                      [](const plan::Norm& norm) { return norm.layer >= 0; }),
                    devices, what);
      expect_same(noted<plan::Project>(
                      teacher, with_wire(examples::voltage_plan(config, devices), wire),
                      [](const plan::Project& i) { return i.which == model::Projection::key; }),
                  devices, "rows, " + what);
    }
}

// Keys and values of what was before lie on the devices by heads.
TEST(ExactRows, RefuseToContinueATextWithAProgramThatBeginsOne) {
  const ModelConfig config = of_texts(Family::gpt2);
  Fleet fleet(lively(config), examples::voltage_plan(config, 2), Element::f32,
              {{1, 5, 0}, {1, 3, 0}});
  fleet.answer(input_of(config, 1, 5), {9, 0, 12});
  try {
    fleet.answer({1, 3, 0}, input_of(config, 1, 3), {9, 5, 12});
    FAIL() << "it was answered";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "[attend] saw rows of a text that continues, needs one that begins");
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
    const auto stars =
        sent_by(reducing<plan::AllReduce::star>(config, static_cast<std::size_t>(devices)), 2);
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

// Of D numbers a row D + 4 bytes are sent, instead of 4·D; what goes to the aggregator stays as it
// is.
TEST(Exchange, OfFewerBytesIsWhatTheFormatsSay) {
  const ModelConfig config = of_texts(Family::bert);
  const std::int64_t rows = 2 * 8, answer = 4 * 2 * config.width;
  const std::map<Element, std::int64_t> row_bytes = {{Element::f32, 4 * config.width},
                                                     {Element::f16, 2 * config.width},
                                                     {Element::bf16, 2 * config.width},
                                                     {Element::scaled_i8, config.width + 4}};
  for (const auto& [wire, row] : row_bytes) {
    const auto ring = sent_by(with_wire(examples::tensor_plan(config, 4), wire), 2);
    const auto stars = sent_by(with_wire(reducing<plan::AllReduce::star>(config, 4), wire), 2);
    const auto stages = sent_by(with_wire(examples::pipeline_plan(config, 4), wire), 2);
    const auto gathers = sent_by(with_wire(examples::voltage_plan(config, 4), wire), 2);
    for (std::int64_t rank = 0; rank < 4; ++rank) {
      const auto r = static_cast<std::size_t>(rank);
      const std::int64_t end = rank == 0 ? answer : 0;
      EXPECT_EQ(ring[r] - end, (2 * 5 + 1) * 2 * 3 * rows * row / 4) << base::name_of(wire);
      EXPECT_EQ(stars[r] - end, (2 * 5 + 1) * rows * row * (rank == 0 ? 3 : 1));
      EXPECT_EQ(stages[r], rank < 3 ? rows * row : answer);
    }
    const auto whole = sent_by(examples::voltage_plan(config, 4), 2);
    for (std::size_t r = 1; r < 4; ++r)
      EXPECT_EQ(gathers[r] * 4 * config.width, whole[r] * row) << base::name_of(wire);
  }
}

// A NaN that travels as it is computed makes the answer one; no other format lets it pass.
TEST(Exchange, FailsARequestWithANumberThatItsFormatDoesNotHave) {
  Transformer teacher = lively(of_texts(Family::bert));
  teacher.tensors.at("blocks.1.mlp.down.weight")[0][0] = std::nan("");
  const net::Value input = input_of(teacher.config, 2, 8);
  for (const auto strategy : exact) {
    const plan::Plan plan = strategy(teacher.config, 2);
    const auto answered = [&](Element wire) {
      return Fleet(teacher, with_wire(plan, wire), Element::f32, {{2, 8, 0}}).answer(input);
    };
    EXPECT_TRUE(tensor_of(answered(Element::f32)).isnan().any().item<bool>());
    for (const auto& [wire, most] : formats) {
      try {
        answered(wire);
        FAIL() << plan.strategy << ", " << base::name_of(wire) << " was answered";
      } catch (const std::runtime_error& error) {
        const std::string text = error.what();
        EXPECT_EQ(text.rfind("[cast] value ", 0), 0u) << text;
        EXPECT_NE(text.find("not finite"), std::string::npos) << text;
        EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      }
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

// Keys and values in place of rows: twice as many numbers, or 2/G of them where G queries share
// each.
TEST(Exchange, OfKeysAndValuesIsWhatTheFormulaSays) {
  const ModelConfig config = of_texts(Family::bert);
  Fleet fleet(lively(config), gathering_keys<examples::hepti_rows_plan>(config, 3), Element::f32,
              {{2, 10, 0}});
  fleet.answer(input_of(config, 2, 10));
  const std::int64_t row = 4 * 2 * config.width, keys = 4 * 2 * 12 * config.head_width;
  const std::vector<std::int64_t> rows = {6, 2, 2};
  for (std::size_t rank = 0; rank < rows.size(); ++rank)
    EXPECT_EQ(fleet.sent[rank],
              5 * 2 * rows[rank] * 2 * keys + (rank == 0 ? row : rows[rank] * row));
}

/// Rows of 10 by rank, 2 : 6 : 2.
constexpr std::int64_t split_rows[] = {2, 6, 2};

// Hepti-style S2, a block: the rows of attention and of the MLP to whoever reads them, and a
// reduce-scatter of what the columns add: 3(P−1)/P·N·D of equal shares.
TEST(Exchange, OfRowsAndColumnsIsWhatTheFormulaSays) {
  const ModelConfig config = of_texts(Family::bert);
  const std::int64_t row = 4 * 2 * config.width, layers = 5;
  Fleet fleet(lively(config), examples::hepti_columns_plan(config, 3), Element::f32, {{2, 10, 0}});
  fleet.answer(input_of(config, 2, 10));
  for (std::size_t rank = 0; rank < 3; ++rank) {
    const std::int64_t own = split_rows[rank];
    const std::int64_t embedding = (10 - own) * row;
    EXPECT_EQ(fleet.sent[rank],
              embedding + layers * (2 * 2 * own + 10 - own) * row + (rank == 0 ? row : own * row));
  }
}

// Galaxy: each half of a block gathers the rows and scatters what it adds, 4(P−1)/P·N·D of equal
// shares. Behind the products each device sends its own rows to the others, and what it has of
// theirs; beside them all rows but the next one's go round, and all sums but its own.
TEST(Exchange, OfRowsHeadsAndColumnsIsWhatTheFormulaSays) {
  const ModelConfig config = of_texts(Family::bert);
  const std::int64_t row = 4 * 2 * config.width, layers = 5;
  for (const bool overlap : {false, true}) {
    plan::Plan plan = examples::galaxy_plan(config, 3);
    plan.overlap = overlap;
    Fleet fleet(lively(config), plan, Element::f32, {{2, 10, 0}});
    fleet.answer(input_of(config, 2, 10));
    for (std::size_t rank = 0; rank < 3; ++rank) {
      const std::int64_t own = split_rows[rank], next = split_rows[(rank + 1) % 3];
      const std::int64_t gathered = overlap ? 10 - next : 2 * own;
      EXPECT_EQ(fleet.sent[rank], (10 - own) * row + layers * 2 * (gathered + 10 - own) * row +
                                      (rank == 0 ? row : own * row))
          << rank << (overlap ? ", beside the products" : "");
    }
  }
}

// Who has no heads gathers nothing for them, and adds nothing.
TEST(Exchange, OfADeviceWithoutHeadsIsThatOfItsRows) {
  const ModelConfig config = of_texts(Family::bert);
  const std::int64_t row = 4 * 2 * config.width, layers = 5;
  Fleet fleet(lively(config), examples::galaxy_plan(config, 5), Element::f32, {{2, 14, 0}});
  fleet.answer(input_of(config, 2, 14));
  // Rows 2 : 6 : 2 : 2 : 2; heads of the first four, columns of all, tokens of all but the fourth.
  // Attention's rows go straight to those with heads, the MLP's round.
  EXPECT_EQ(fleet.sent[4], 12 * row + layers * (4 * 2 + 12 + 12) * row + 2 * row);
  EXPECT_EQ(fleet.sent[3], layers * (3 * 2 + 12 + 12 + 12) * row + 2 * row);
}

INSTANTIATE_TEST_SUITE_P(Models, Exact, testing::ValuesIn(all_models()),
                         [](const auto& model) { return model.param.first; });

}  // namespace
}  // namespace cleave::infer
