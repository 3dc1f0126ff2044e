// Tokens that devices choose together, each with a part of the vocabulary, against those that one
// device chooses from all of it.

#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "decompose/decompose.hpp"
#include "infer/aggregator.hpp"
#include "infer/client.hpp"
#include "infer/generate.hpp"
#include "infer/server.hpp"
#include "tests/base/scratch.hpp"
#include "tests/infer/exact.hpp"
#include "tests/infer/fake_parts.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

/// Fewer than a device has tokens.
constexpr std::int64_t k = 4;

using PlanOf = plan::Plan (*)(const ModelConfig&, std::size_t);

/// Nothing of the vocabulary, nearly all of it, and two tokens.
plan::Plan with_few_tokens(const ModelConfig& teacher, std::size_t devices) {
  plan::Plan plan = examples::hepti_heads_plan(teacher, devices);
  const std::vector<std::vector<model::Range>> ranges = {
      {{0, 31}}, {{0, 0}, {0, 31}}, {{0, 0}, {0, 29}, {29, 31}}};
  for (std::size_t p = 0; p < devices; ++p)
    plan.parts[p].share()->vocabulary = ranges.at(devices - 1)[p];
  return plan;
}

const std::vector<PlanOf> plans = {examples::tensor_plan,        examples::pipeline_plan,
                                   examples::voltage_plan,       examples::hepti_rows_plan,
                                   examples::hepti_columns_plan, examples::hepti_heads_plan,
                                   examples::galaxy_plan,        with_few_tokens};

struct Case {
  SamplingOptions options;
  /// Whether k candidates may leave the choice open.
  bool may_be_open = false;
};

std::map<std::string, Case> cases() {
  std::map<std::string, Case> all;
  const auto add = [&](const std::string& name, SamplingOptions options, bool may_be_open) {
    options.seed = 11;
    all[name] = {options, may_be_open};
  };
  add("greedy", {0, 0, 1, 1}, false);
  add("temperature", {1.5, 0, 1, 1}, false);
  add("top_k", {2, 3, 1, 1}, false);
  add("top_k_beyond", {3, 12, 1, 1}, true);
  add("top_p_within", {0.5, 0, 0.3, 1}, false);
  add("top_p_beyond", {4, 0, 0.9, 1}, true);
  add("penalty", {0, 0, 1, 1.8}, false);
  add("all", {3, 15, 0.9, 1.3}, true);
  return all;
}

class Sampled : public ::testing::TestWithParam<std::pair<const std::string, Case>> {};

// Texts of uneven length; one ends before the others do.
TEST_P(Sampled, TokensAreThoseOfTheWholeModel) {
  const SamplingOptions& options = GetParam().second.options;
  int tokens = 0, close = 0, asked_for_kept = 0;
  for (ModelConfig config : {of_texts(Family::gpt2), grouped()}) {
    config.context = 40;
    const Transformer teacher = lively(config);
    const std::vector<plan::RequestShape> shapes = {{3, 5, 0}, {3, 1, 0}};
    for (const auto plan_of : plans)
      for (const std::size_t devices : {1u, 2u, 3u}) {
        const plan::Plan plan = plan_of(config, devices);
        Fleet whole(teacher, local(config), Element::f32, shapes);
        Fleet fleet(teacher, plan, Element::f32, shapes);
        Sequence sequence{9, 0, 30};
        net::Value input = input_of(config, 3, 5);
        for (std::int64_t step = 0; step < 20; ++step) {
          const Sampling sampling{options, step, 0};
          const auto expected = whole.choose(input, sequence, sampling, 31);
          const auto found = fleet.choose(input, sequence, sampling, k);
          sequence.past += input.dims.at(1);
          std::vector<std::int32_t> next;
          for (std::size_t text = 0; text < 3; ++text) {
            const bool ended = text == 2 && step > 10;
            if (ended) {
              EXPECT_EQ(found[text].token, -1);
              next.push_back(-1);
              continue;
            }
            ++tokens;
            if (expected[text].margin < 1e-3)
              ++close;
            else
              EXPECT_EQ(found[text].token, expected[text].token)
                  << plan.strategy << " on " << devices << ", step " << step << ", text " << text
                  << ", margin " << expected[text].margin;
            EXPECT_GE(expected[text].token, 0);
            next.push_back(
                text == 2 && step == 10 ? -1 : static_cast<std::int32_t>(expected[text].token));
          }
          input = value_of({3, 1}, next, Element::i32);
        }
        EXPECT_EQ(whole.asked_for_kept, 0);
        asked_for_kept += fleet.asked_for_kept;
      }
  }
  EXPECT_LE(close, tokens / 50);
  EXPECT_EQ(asked_for_kept > 0, GetParam().second.may_be_open)
      << asked_for_kept << " steps needed all logits";
  RecordProperty("close", close);
  RecordProperty("asked_for_kept", asked_for_kept);
}

INSTANTIATE_TEST_SUITE_P(Options, Sampled, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return one.param.first; });

// Whatever the vocabulary: what a device sends beside the stream is two numbers, and token and
// logit of k + 2 tokens.
TEST(Sampling, SendsAFewNumbersOfEachText) {
  for (const std::int64_t vocabulary : {120, 240}) {
    ModelConfig config = of_texts(Family::gpt2);
    config.vocabulary = config.classes = vocabulary;
    const Transformer teacher = lively(config);
    const std::vector<plan::RequestShape> shapes = {{2, 5, 0}, {2, 1, 0}};
    for (const auto plan_of : {examples::tensor_plan, examples::galaxy_plan}) {
      const plan::Plan plan = plan_of(config, 3);
      Fleet fleet(teacher, plan, Element::f32, shapes);
      Sampling sampling;
      sampling.options.temperature = 1;
      const Sequence prompt{9, 0, 20}, step{9, 5, 20};
      fleet.choose(input_of(config, 2, 5), prompt, sampling, k);
      const net::Value input = value_of({2, 1}, std::vector<std::int32_t>{3, 4}, Element::i32);
      fleet.answer(input, step);
      const auto with_logits = fleet.sent;
      fleet.choose(input, step, sampling, k);
      for (std::size_t rank = 0; rank < 3; ++rank) {
        const std::int64_t logits = 2 * 4 * plan.parts[rank].share()->vocabulary.size();
        EXPECT_EQ(fleet.sent[rank], with_logits[rank] - logits + 2 * 8 * (2 * (k + 2) + 2))
            << plan.strategy << ", rank " << rank;
      }
    }
  }
}

TEST(Sampling, OfAModelThatDoesNotGenerateIsRefused) {
  const auto error = [](const ModelConfig& config, std::int64_t best) -> std::string {
    try {
      plan::compile(local(config), {1, config.is_text() ? 4 : 0, 0, best});
    } catch (const std::invalid_argument& refused) {
      return refused.what();
    }
    return "";
  };
  const std::string none =
      "[compile] shape.best: saw a model that does not generate, needs a causal language model "
      "with "
      "its head";
  EXPECT_EQ(error(of_images(Family::vit), 8), none);
  EXPECT_EQ(error(masked(Family::bert), 8), none);
  EXPECT_EQ(error(of_texts(Family::gpt2), 1), "[compile] shape.best: saw 1, needs 2..4096");
  EXPECT_EQ(error(of_texts(Family::gpt2), 5000), "[compile] shape.best: saw 5000, needs 2..4096");
  EXPECT_EQ(error(of_texts(Family::gpt2), 8), "");
}

// A penalty on what nobody has told it.
TEST(Sampling, PenalisesOnlyTextsThatItKnows) {
  const ModelConfig config = of_texts(Family::gpt2);
  Fleet fleet(lively(config), examples::tensor_plan(config, 2), Element::f32,
              {{1, 5, 0}, {1, 1, 0}});
  fleet.answer(input_of(config, 1, 5), {9, 0, 20});  // logits
  const net::Value next = value_of({1, 1}, std::vector<std::int32_t>{3}, Element::i32);
  Sampling sampling;
  EXPECT_GE(fleet.choose(next, {9, 5, 20}, sampling, k).at(0).token, 0);
  sampling.options.repetition_penalty = 1.5;
  try {
    fleet.choose(next, {9, 6, 20}, sampling, k);
    FAIL() << "it was answered";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()),
              "[best] repetition_penalty: saw a text whose tokens are not all known, needs them to "
              "be asked for from its beginning on");
  }
}

TEST(Sampling, LogitsThatWereNotKeptAreRefused) {
  const ModelConfig config = of_texts(Family::gpt2);
  EngineOptions options;
  options.warm_up = false;
  const auto engine = model_engine(lively(config), options);
  const auto programs = plan::compile(local(config), {1, 1, 0, k, true});
  try {
    play({engine.get(), engine.get()}, programs, {value_of(Sampling{}, 1)}, {}, {5, 3, 20});
    FAIL() << "it was answered";
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()),
              "[engine] sequence 5: saw no such logits kept of its last token");
  }
}

// A prompt whose rows were divided leaves all logits with one device; what continues a text asks
// each for its part.
TEST(Sampling, LogitsKeptByAProgramOfAnotherShapeAreRefused) {
  const ModelConfig config = of_texts(Family::gpt2);
  const Transformer teacher = lively(config);
  plan::RequestShape prompt, kept = examples::continuing(1, 4);
  prompt.batch = 1;
  prompt.tokens = 4;
  prompt.best = kept.best = k;
  kept.from_kept = true;
  Fleet fleet(teacher, examples::voltage_plan(config, 2), Element::f32, {prompt, kept});
  fleet.choose(input_of(config, 1, 4), {5, 0, 20}, Sampling{}, k);
  try {
    fleet.answer(kept, value_of(Sampling{}, 1), {5, 4, 20});
    FAIL() << "it was answered";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("saw no such logits kept of its last token"),
              std::string::npos)
        << error.what();
  }
}

// ---- over agents ----

class SampledByAgents : public ::testing::Test {
 protected:
  SampledByAgents() {
    config_.context = 64;
    const Transformer teacher = lively(config_);
    model::save(teacher, scratch_ / "teacher");
    whole_ = model_engine(teacher);
    whole_->prepare();
    std::vector<plan::Plan> made;
    for (const auto plan_of :
         {examples::tensor_plan, examples::pipeline_plan, examples::galaxy_plan, with_few_tokens,
          examples::voltage_plan, examples::hepti_rows_plan}) {
      made.push_back(plan_of(config_, 3));
      made.back().name = "plan" + std::to_string(made.size());
      made.back().shape = {1, 5, 8};
    }
    decompose::decompose(scratch_ / "teacher", made, {}, scratch_ / "bundle");
    bundle_ = std::make_unique<plan::Bundle>(scratch_ / "bundle");
    for (const plan::Plan& plan : made) plans_.push_back(bundle_->plan(plan.name));
    AggregatorOptions options;
    options.candidates = k;
    for (const std::string device : {"d0", "d1", "d2"}) {
      AgentOptions wanted;
      wanted.device = device;
      agents_[device] = std::make_unique<RunningAgent>(*bundle_, plans_, wanted,
                                                       device_engine(*bundle_, plans_, device));
      options.hosts[device] = agents_.at(device)->address();
    }
    aggregator_ =
        std::make_unique<Aggregator>(*bundle_, plans_, fusion_engine(*bundle_, plans_), options);
    EXPECT_EQ(aggregator_->wait_for_agents(3, 10s), 3);
  }

  static Response ask_one(Service& service, Request request) {
    request.deadline = 60s;
    std::promise<Response> promise;
    service.submit(std::move(request),
                   [&](Response response) { promise.set_value(std::move(response)); });
    return promise.get_future().get();
  }

  static GenerateOptions options_of(const SamplingOptions& sampling) {
    GenerateOptions options;
    options.max_tokens = 20;
    options.context = 64;
    options.sampling = sampling;
    return options;
  }

  std::vector<Generated> over(Service& service, const std::string& plan,
                              const SamplingOptions& sampling) {
    const std::uint64_t id = service.new_sequence();
    const auto made = generate(
        [&](const net::Value& ids, const Sequence& at, const Sampling& wanted) {
          Request request;
          request.plan = plan;
          request.input = ids;
          request.sequence = at;
          request.sampling = wanted;
          const Response response = ask_one(service, std::move(request));
          if (response.status != Status::answered) throw std::runtime_error(response.message);
          for (const auto& device : response.devices) received_ += device.received_bytes;
          return response.output;
        },
        id, prompts_, options_of(sampling));
    service.end_sequence(id);
    return made;
  }

  std::vector<Generated> whole(const SamplingOptions& sampling) {
    return generate(
        [&](const net::Value& ids, const Sequence& at, const Sampling& wanted) {
          return run_locally(*whole_, local(config_), ids, {}, at, wanted);
        },
        1, prompts_, options_of(sampling));
  }

  const std::vector<Text> prompts_ = {{1, 2, 3, 4, 5}, {6}, {7, 8}};
  ModelConfig config_ = of_texts(Family::gpt2);
  ::cleave::testing::Scratch scratch_;
  std::unique_ptr<Engine> whole_;
  std::unique_ptr<plan::Bundle> bundle_;
  std::vector<plan::Plan> plans_;
  std::map<std::string, std::unique_ptr<RunningAgent>> agents_;
  std::unique_ptr<Aggregator> aggregator_;
  std::uint64_t received_ = 0;
};

TEST_F(SampledByAgents, TokensAreThoseOfTheWholeModel) {
  RunningServer server(*aggregator_, *bundle_);
  Client client(server.address());
  int close = 0, tokens = 0;
  for (const auto& [name, one] : cases()) {
    const auto expected = whole(one.options);
    for (const plan::Plan& plan : plans_)
      for (Service* service :
           {static_cast<Service*>(aggregator_.get()), static_cast<Service*>(&client)}) {
        const auto found = over(*service, plan.name, one.options);
        for (std::size_t text = 0; text < prompts_.size(); ++text)
          for (std::size_t i = 0; i < 20; ++i) {
            ++tokens;
            // From a close choice on another text may follow.
            if (expected[text].margins[i] < 1e-3) {
              ++close;
              break;
            }
            ASSERT_EQ(found[text].tokens.at(i), expected[text].tokens.at(i))
                << name << ", " << plan.strategy << ", text " << text << ", token " << i;
          }
      }
  }
  EXPECT_LE(close, tokens / 50);
}

// Two numbers, and token and logit of six tokens, of each of three texts; and the frame around
// them.
TEST_F(SampledByAgents, AStepBringsAFewNumbersFromEachDevice) {
  SamplingOptions options;
  options.temperature = 1;
  over(*aggregator_, "plan1", options);
  EXPECT_GE(received_, 20u * 3 * 3 * 8 * (2 * (k + 2) + 2));
  EXPECT_LE(received_, 20u * 3 * (3 * 8 * (2 * (k + 2) + 2) + 160));
}

// Where a choice needs all logits, both askings are told of as one.
TEST_F(SampledByAgents, TellsWhatBothAskingsTook) {
  Request request;
  request.input = filled_up({{1, 2, 3}});
  request.sequence = {aggregator_->new_sequence(), 0, 20};
  request.sampling = Sampling{{5, 0, 0.95, 1, 1}, 0, 0};
  request.observe = net::Observe::account;
  request.plan = "plan2";  // a pipeline: the last device answers
  std::size_t in_two = 0;
  for (int i = 0; i < 20; ++i) {
    request.sampling->step = i;
    const Response response = ask_one(*aggregator_, request);
    ASSERT_EQ(response.status, Status::answered) << response.message;
    ASSERT_EQ(response.devices.size(), 3u);
    EXPECT_EQ(present_devices(response).size(), 3u);
    EXPECT_TRUE(response.devices[2].account.told);
    EXPECT_GE(choices_of(response.output, 1).at(0).token, 0);
    // All 31 logits, beside the four candidates.
    if (response.devices[2].received_bytes > 8 * (2 * (k + 2) + 2) + 4 * 31) ++in_two;
  }
  EXPECT_GT(in_two, 0u);
  EXPECT_LT(in_two, 20u);
}

TEST_F(SampledByAgents, TheSameSeedGivesTheSameText) {
  SamplingOptions options;
  options.temperature = 2;
  const auto first = over(*aggregator_, "plan1", options),
             again = over(*aggregator_, "plan1", options);
  options.seed = 2;
  const auto other = over(*aggregator_, "plan1", options);
  EXPECT_EQ(first[0].tokens, again[0].tokens);
  EXPECT_NE(first[0].tokens, other[0].tokens);
}

// A client may ask for logits too, and a step that is asked again draws the same token.
TEST_F(SampledByAgents, LogitsComeOnRequest) {
  RunningServer server(*aggregator_, *bundle_);
  Client client(server.address());
  const std::uint64_t id = client.new_sequence();
  const auto step = [&](const Text& ids, std::int64_t past, bool sampled) {
    Request request;
    request.input = filled_up({ids});
    request.sequence = {id, past, 20};
    if (sampled) request.sampling = Sampling{{2, 0, 0.9, 1, 5}, past, 0};
    const Response response = ask_one(client, std::move(request));
    EXPECT_EQ(response.status, Status::answered) << response.message;
    return response.output;
  };
  const auto drawn = [&](const Text& ids, std::int64_t past) {
    return choices_of(step(ids, past, true), 1).at(0).token;
  };
  drawn({1, 2, 3}, 0);
  const auto token = drawn({4}, 3);
  const net::Value logits = step({4}, 3, false);
  EXPECT_EQ(logits.dims, (std::vector<std::int64_t>{1, 1, 31}));
  EXPECT_EQ(logits.element, Element::f32);
  EXPECT_EQ(drawn({4}, 3), token);
  EXPECT_EQ(drawn({4}, 3), token);
}

TEST_F(SampledByAgents, WhatCannotBeChosenIsRefusedInALine) {
  const auto refused = [&](const Sampling& sampling, std::uint64_t sequence) {
    Request request;
    request.input = filled_up({{1, 2}});
    request.sequence = {sequence, 0, 20};
    request.sampling = sampling;
    const Response response = ask_one(*aggregator_, std::move(request));
    EXPECT_EQ(response.status, Status::failed);
    return response.message;
  };
  const auto id = aggregator_->new_sequence();
  EXPECT_EQ(refused({{1, 0, 2, 1}, 0, 0}, id),
            "[submit] [sampling] top_p: saw 2, needs more than 0, at most 1");
  EXPECT_EQ(refused({{-1, 0, 1, 1}, 0, 0}, id),
            "[submit] [sampling] temperature: saw -1, needs 0..1000");
  EXPECT_EQ(refused({{}, -3, 0}, id), "[submit] [sampling] step: saw -3, needs 0 or more");
  EXPECT_EQ(refused({}, 0),
            "[submit] sampling: saw a request that stands for itself, needs one of a sequence");
}

}  // namespace
}  // namespace cleave::infer
