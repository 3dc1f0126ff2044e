// The main job on a language model so small that it takes seconds: train, plan, cut, calibrate,
// measure, and generate alone, over agents and through a server.

#include <csignal>
#include <map>
#include <memory>
#include <set>

#include <nlohmann/json.hpp>

#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

using nlohmann::json;

std::string rhyme(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) text += "one two buckle my shoe, three four open the door.\n";
  return text;
}

class TextJob : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    const Scratch& s = *shared_;
    write_text(s / "data/rhyme.txt", rhyme(400));
    write_text(s / "fleet.toml", tiny_fleet());
    write_text(
        s / "teacher.toml",
        "format = 1\n[data]\nformat = \"text\"\npath = \"data\"\nvalidation = 8\nlength = "
        "128\n[model]\nfamily = "
        "\"gpt2\"\ntokenizer = \"bytes\"\nwidth = 32\nlayers = 2\nheads = 2\ncontext = "
        "256\n[schedule]\nepochs = 10\noptimizer = \"muon\"\nbatch = 8\nlearning_rate = 0.005\n");
    write_text(s / "recipe.toml",
               "format = 1\n[data]\nformat = \"text\"\npath = \"data\"\nvalidation = 8\nlength = "
               "64\n[alone]\nepochs = 1\nbatch = 8\nrelations = 0.1\n[joint]\nepochs = 2\nbatch = "
               "8\nlearning_rate = 0.01\n");
    run({"train", s / "teacher.toml", "--out", s / "model", "--threads", "1"});
    run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "decomposed",
         "--max-part-share", "0.6", "--accuracy-weight", "1000", "--tokens", "16", "--generate",
         "32", "--out", s / "plan.json"});
    run({"decompose", s / "model", "--plan", s / "plan.json", "--fleet", s / "fleet.toml", "--data",
         s / "data", "--length", "64", "--out", s / "bundle"});
    run({"calibrate", s / "bundle", "--teacher", s / "model", "--recipe", s / "recipe.toml",
         "--threads", "1"});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static Ran run(const std::vector<std::string>& words, int code = 0) {
    auto ran = run_cleave(*shared_, words);
    EXPECT_EQ(ran.code, code) << words[0] << ": " << ran.error << ran.out;
    return ran;
  }
  static json generated(std::vector<std::string> words, const std::string& tokens = "40") {
    words.insert(words.begin(), "generate");
    words.insert(words.end(), {"--tokens", tokens, "--format", "json"});
    return json::parse(run(words).out);
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* TextJob::shared_ = nullptr;

TEST_F(TextJob, AgentsAndAServerGenerateTheLocalText) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_);
  const json local = generated({s / "bundle", "one two", "--local"}, "200");
  const json fleet = generated({s / "bundle", "one two", "--hosts", own_ / "hosts.toml"}, "200");
  EXPECT_EQ(fleet.at("ids"), local.at("ids"));
  EXPECT_EQ(fleet.at("text"), local.at("text"));
  EXPECT_EQ(fleet.at("ids").size(), 200U);
  EXPECT_EQ(fleet.at("close_choices"), local.at("close_choices"));
  EXPECT_TRUE(fleet.at("missing").empty());

  const auto [server, address] = start_server(s / "bundle", own_);
  const json via = generated({s / "bundle", "one two", "--via", address}, "200");
  EXPECT_EQ(via.at("ids"), local.at("ids"));
}

// Agents exchange what --local does, bit for bit.
TEST_F(TextJob, SendsValuesInTheFormatOfThePlan) {
  const Scratch& s = *shared_;
  const json whole = generated({s / "model", "one two"}, "100");
  const std::vector<std::string> plan{
      "plan",   s / "model", "--fleet", s / "fleet.toml",  "--strategy",
      "tensor", "--tokens",  "16",      "--generate",      "32",
      "--wire", "int8",      "--out",   own_ / "plan.json"};
  EXPECT_TRUE(contains(run(plan).out, "strategy tensor, aggregator on "));
  EXPECT_TRUE(contains(run(plan).out, ", values travel as int8\n"));
  run({"decompose", s / "model", "--plan", own_ / "plan.json", "--out", own_ / "bundle"});
  const plan::Plan made = plan::Bundle(own_ / "bundle").plan();
  EXPECT_EQ(made.wire, base::Element::scaled_i8);
  const auto agents = start_agents(own_ / "bundle", own_, plan::devices_of(made));
  const json fleet = generated({own_ / "bundle", "one two", "--hosts", own_ / "hosts.toml"}, "100");
  EXPECT_EQ(fleet.at("ids"), generated({own_ / "bundle", "one two", "--local"}, "100").at("ids"));
  EXPECT_EQ(fleet.at("ids").size(), whole.at("ids").size());
}

// From the same prompt, each token is the whole model's, the most likely one or drawn with a seed.
TEST_F(TextJob, SharesTheWholeModelTokenForToken) {
  const Scratch& s = *shared_;
  const json whole = generated({s / "model", "one two"}, "100");
  const auto drawn = [](std::vector<std::string> words, const std::string& seed) {
    words.insert(words.end(), {"--temperature", "0.9", "--top-p", "0.95", "--repetition-penalty",
                               "1.2", "--seed", seed});
    return generated(std::move(words), "60").at("ids");
  };
  const json whole_drawn = drawn({s / "model", "one two"}, "3");
  EXPECT_NE(whole_drawn, drawn({s / "model", "one two"}, "4"));
  for (const std::string strategy : {"pipeline", "tensor"}) {
    const Scratch here;
    run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", strategy, "--tokens", "16",
         "--generate", "32", "--out", here / "plan.json"});
    run({"decompose", s / "model", "--plan", here / "plan.json", "--out", here / "bundle"});
    const plan::Bundle bundle(here / "bundle");
    std::vector<std::string> devices;
    for (const auto& part : bundle.plan().parts) devices.push_back(part.device);
    EXPECT_EQ(devices.size(), 2U) << "two layers, two heads";
    const auto agents = start_agents(here / "bundle", here, devices);
    const json fleet =
        generated({here / "bundle", "one two", "--hosts", here / "hosts.toml"}, "100");
    EXPECT_EQ(fleet.at("ids"), whole.at("ids")) << strategy;
    EXPECT_EQ(drawn({here / "bundle", "one two", "--hosts", here / "hosts.toml"}, "3"), whole_drawn)
        << strategy;
    EXPECT_EQ(generated({here / "bundle", "one two", "--local"}, "100").at("ids"), whole.at("ids"));
    EXPECT_TRUE(contains(
        run({"generate", here / "bundle", "one", "--local", "--without", devices[0]}, 2).error,
        "strategy " + strategy + " needs every device"));
    EXPECT_TRUE(contains(run({"decompose", s / "model", "--plan", here / "plan.json", "--data",
                              s / "data", "--out", here / "other"},
                             2)
                             .error,
                         "takes the teacher's weights as they are"));
    EXPECT_TRUE(contains(run({"inspect", here / "bundle"}).out, "strategy " + strategy));
  }
}

// Exactly, but for PRISM: of a segment for each row it is Voltage, of fewer it is off.
TEST_F(TextJob, EvaluatesWhatDevicesAnswerTogetherForEveryToken) {
  const Scratch& s = *shared_;
  const auto nats = [&](const std::vector<std::string>& strategy) {
    const Scratch here;
    std::vector<std::string> plan{"plan",     s / "model", "--fleet", s / "fleet.toml",
                                  "--tokens", "64",        "--out",   here / "plan.json"};
    plan.insert(plan.end(), strategy.begin(), strategy.end());
    run(plan);
    run({"decompose", s / "model", "--plan", here / "plan.json", "--out", here / "bundle"});
    const std::vector<std::string> evaluate{
        "evaluate", here / "bundle", "--teacher", s / "model", "--data", s / "data", "--length",
        "64",       "--stride",      "48",        "--format",  "json"};
    const json rows = json::parse(run(evaluate).out).at("rows");
    EXPECT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows.at(1).at("what"), "together");
    auto on_gpu = evaluate;
    on_gpu.insert(on_gpu.end(), {"--accelerator", "cuda"});
    EXPECT_TRUE(contains(run(on_gpu, 2).error, "[--accelerator] saw cuda, needs none: strategy "));
    return std::pair(rows.at(0).at("value").get<double>(), rows.at(1).at("value").get<double>());
  };
  for (const std::string strategy : {"pipeline", "tensor", "voltage", "galaxy"}) {
    const auto [teacher, together] = nats({"--strategy", strategy});
    EXPECT_NEAR(together, teacher, 1e-4) << strategy;
  }
  const auto [teacher, whole] = nats({"--strategy", "prism", "--compression", "1"});
  EXPECT_NEAR(whole, teacher, 1e-4);
  const double off = nats({"--strategy", "prism", "--compression", "8"}).second - teacher;
  EXPECT_GT(std::abs(off), 1e-4) << "nothing was compressed";
}

TEST_F(TextJob, SaysWhoIsAwayAndWhyAndInItsExitCodeWhoIsNeeded) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_, {"hub", "door"});
  const std::vector<std::string> ask = {"generate",          s / "bundle",     "one two", "--hosts",
                                        own_ / "hosts.toml", "--join-timeout", "500 ms"};
  const auto ran = run(ask);
  EXPECT_TRUE(contains(ran.error, "token 1 on: without 'cam' (not joined)")) << ran.error;
  auto all = ask;
  all.emplace_back("--require-all");
  const auto refused = run(all, 3);
  EXPECT_TRUE(contains(refused.error, "is needed: not joined")) << refused.error;
  EXPECT_EQ(refused.out, "");
}

TEST_F(TextJob, GoesOnWithTheRestWhenAnAgentIsKilledInTheMiddleOfAText) {
  const Scratch& s = *shared_;
  auto agents = start_agents(s / "bundle", own_, tiny_devices, {"--pace", "0.05"});
  Process::Options options;
  options.words = {CLEAVE_PROGRAM, "generate",          s / "bundle", "one two",
                   "--hosts",      own_ / "hosts.toml", "--tokens",   "110"};
  options.log = own_ / "generate.log";
  Process process(options);
  const std::string first = process.read_line(std::chrono::seconds(60));
  EXPECT_TRUE(contains(first, "one two buckle my shoe")) << first;
  EXPECT_EQ(kill(agents.at("cam")->id(), SIGKILL), 0);
  const std::string rest = process.read_all();
  const std::string said = base::read_text(options.log);
  EXPECT_EQ(process.wait(), 0) << said;
  EXPECT_GE(first.size() + rest.size(), 110U) << "a byte is a token";
  EXPECT_TRUE(contains(said, " on: without 'cam' (")) << said;
  EXPECT_FALSE(contains(said, "token 1 on: without")) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(TextJob, StopsWhereItIsToldAndLeavesTheRestOut) {
  const json whole = generated({*shared_ / "model", "one two buckle"});
  const std::string text = whole.at("text");
  const std::string stop = text.substr(3, 2);
  const json stopped = generated({*shared_ / "model", "one two buckle", "--stop", stop});
  EXPECT_EQ(stopped.at("text"), text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped.at("ending"), "stop string");
}

TEST_F(TextJob, DrawsTheSameTextWithTheSameSeed) {
  const auto draw = [&](const std::string& seed) {
    return generated(
               {*shared_ / "model", "one", "--temperature", "2", "--top-k", "50", "--seed", seed})
        .at("ids");
  };
  EXPECT_EQ(draw("1"), draw("1"));
  EXPECT_NE(draw("1"), draw("2"));
}

TEST_F(TextJob, DrawsFromWhatIsLeftOfTheVocabulary) {
  const auto ids = [&](const std::vector<std::string>& how) {
    std::vector<std::string> words = {*shared_ / "model", "one"};
    words.insert(words.end(), how.begin(), how.end());
    return generated(words).at("ids").get<std::vector<int>>();
  };
  const auto greedy = ids({});
  // The likeliest alone makes up so small a share.
  EXPECT_EQ(ids({"--temperature", "5", "--top-p", "0.001"}), greedy);
  EXPECT_NE(ids({"--temperature", "5", "--top-p", "1"}), greedy);
  const auto repeated = [](const std::vector<int>& tokens) {
    return tokens.size() - std::set<int>(tokens.begin(), tokens.end()).size();
  };
  EXPECT_LT(repeated(ids({"--repetition-penalty", "10"})), repeated(greedy));
}

TEST_F(TextJob, DrawsAsTheModelsFilesSayWhereNoOptionDoes) {
  std::filesystem::copy(*shared_ / "model", own_ / "model");
  const json asked = generated({*shared_ / "model", "one", "--repetition-penalty", "10"});
  const json greedy = generated({*shared_ / "model", "one"});
  ASSERT_NE(asked.at("ids"), greedy.at("ids"));
  write_text(own_ / "model/generation_config.json",
             R"({"repetition_penalty": 10, "num_beams": 4})");
  EXPECT_EQ(generated({own_ / "model", "one"}).at("ids"), asked.at("ids"));
  EXPECT_EQ(generated({own_ / "model", "one", "--repetition-penalty", "1"}).at("ids"),
            greedy.at("ids"));
  const std::string said = run({"generate", own_ / "model", "one", "--tokens", "2"}).error;
  EXPECT_TRUE(contains(said, "num_beams: 4 is ignored (not built)")) << said;
  EXPECT_TRUE(contains(said, "as the model's files say: --repetition-penalty 10\n")) << said;

  run({"plan", own_ / "model", "--fleet", *shared_ / "fleet.toml", "--strategy", "decomposed",
       "--max-part-share", "0.6", "--tokens", "16", "--generate", "32", "--out",
       own_ / "plan.json"});
  run({"decompose", own_ / "model", "--plan", own_ / "plan.json", "--out", own_ / "bundle"});
  EXPECT_EQ(generated({own_ / "bundle", "one", "--local"}).at("ids"),
            generated({own_ / "bundle", "one", "--local", "--repetition-penalty", "10"}).at("ids"));
  const json local = generated({own_ / "bundle", "one", "--local"}).at("ids");
  EXPECT_NE(local,
            generated({own_ / "bundle", "one", "--local", "--repetition-penalty", "1"}).at("ids"));
  const auto agents = start_agents(own_ / "bundle", own_, {"hub"});
  EXPECT_EQ(generated({own_ / "bundle", "one", "--hosts", own_ / "hosts.toml"}).at("ids"), local);
  const auto [server, address] = start_server(own_ / "bundle", own_);
  EXPECT_EQ(generated({own_ / "bundle", "one", "--via", address}).at("ids"), local);
  // The bundle of another model is no way to ask it.
  const std::string refused =
      run({"generate", *shared_ / "bundle", "one", "--via", address}, 1).error;
  EXPECT_TRUE(contains(refused, "[--via] cleave: the server's model has ")) << refused;
  EXPECT_EQ(std::count(refused.begin(), refused.end(), '\n'), 1) << refused;
}

TEST_F(TextJob, SeveralPromptsAtOnceAreEachAsAlone) {
  write_text(own_ / "prompts.txt", "one two\nthree four open the\n");
  std::istringstream lines(run({"generate", *shared_ / "bundle", "--local", "--prompts",
                                own_ / "prompts.txt", "--tokens", "40", "--format", "json"})
                               .out);
  for (const std::string prompt : {"one two", "three four open the"}) {
    std::string line;
    std::getline(lines, line);
    EXPECT_EQ(json::parse(line).at("ids"),
              generated({*shared_ / "bundle", prompt, "--local"}).at("ids"));
  }
}

TEST_F(TextJob, EvaluateMeasuresNatsAndPerplexity) {
  const Scratch& s = *shared_;
  const json rows = json::parse(run({"evaluate", s / "bundle", "--teacher", s / "model", "--data",
                                     s / "data", "--length", "64", "--format", "json"})
                                    .out);
  EXPECT_EQ(rows.at("measure"), "nats");
  const double teacher = rows.at("rows").at(0).at("value");
  EXPECT_EQ(rows.at("rows").at(0).at("what"), "teacher");
  EXPECT_LT(teacher, 2);
  const std::string text =
      run({"evaluate", s / "model", "--data", s / "data", "--length", "64", "--stride", "16"}).out;
  EXPECT_TRUE(contains(text, "perplexity")) << text;
  EXPECT_TRUE(plan::read_measured(s / "bundle").contains("accuracy"));
}

TEST_F(TextJob, TextsThatAreCutAreCounted) {
  write_text(own_ / "config.json", R"({"model_type": "bert", "vocab_size": 7, "hidden_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 8, "type_vocab_size": 2, "hidden_act": "gelu",
    "architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}})");
  run({"init", "--config", own_ / "config.json", "--out", own_ / "start"});
  write_text(own_ / "start/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad\n");
  write_text(own_ / "data/train.tsv", "good\t1\nbad bad bad\t0\nbad bad\t0\ngood good good\t1\n");
  write_text(own_ / "data/dev.tsv", "good good good good good\t1\nbad\t0\n");
  write_text(own_ / "recipe.toml",
             "format = 1\n[data]\nformat = \"tsv\"\npath = \"data\"\nlength = 4\n[model]\nstart = "
             "\"start\"\n[schedule]\nepochs = 1\nbatch = 2\n");
  const auto trained = run({"train", own_ / "recipe.toml", "--data", own_ / "data", "--out",
                            own_ / "model", "--format", "json"});
  EXPECT_EQ(trained.error, "3 texts are longer than 4 tokens: only their beginnings count\n");
  EXPECT_EQ(json::parse(trained.out).at("shortened"), 3);
  const auto judged = [this](const std::string& length) {
    return run({"evaluate", own_ / "model", "--data", own_ / "data", "--length", length, "--format",
                "json"});
  };
  EXPECT_EQ(json::parse(judged("4").out).at("shortened"), 1);
  EXPECT_EQ(json::parse(judged("7").out).at("shortened"), 0);
  EXPECT_EQ(judged("7").error, "");
}

TEST_F(TextJob, BenchMeasuresTokensAndTheirPrompts) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_);
  const auto [server, address] = start_server(s / "bundle", own_);
  const std::vector<std::vector<std::string>> ways = {
      {s / "bundle", "--local"},
      {s / "bundle", "--hosts", own_ / "hosts.toml"},
      {s / "model"},
      {"--via", address}};
  for (auto words : ways) {
    words.insert(words.begin(), "bench");
    words.insert(words.end(), {"--requests", "20", "--warmup", "2", "--tokens", "10", "--generate",
                               "8", "--concurrency", "2", "--format", "json"});
    const json measured = json::parse(run(words).out);
    EXPECT_EQ(measured.at("latency").at("count"), 20);
    EXPECT_GE(measured.at("prompt").at("count"), 3);  // of 8 tokens each
    EXPECT_LE(measured.at("prompt").at("count"), 5);
    EXPECT_EQ(measured.at("failed"), 0);
    EXPECT_GT(measured.at("tokens_per_s").get<double>(), 0);
  }
  // The plan's own shape where nothing is said.
  const json planned = json::parse(
      run({"bench", s / "bundle", "--local", "--requests", "2", "--format", "json"}).out);
  EXPECT_EQ(planned.at("tokens"), 16);
  EXPECT_EQ(planned.at("generate"), 32);
  // Tokens alone are a prompt, not a step of what the plan generates.
  const json prompt = json::parse(run({"bench", s / "bundle", "--local", "--requests", "2",
                                       "--tokens", "12", "--format", "json"})
                                      .out);
  EXPECT_EQ(prompt.at("tokens"), 12);
  EXPECT_EQ(prompt.at("generate"), 0);
  EXPECT_TRUE(prompt.at("prompt").is_null());
  const auto refused = run({"bench", s / "model", "--tokens", "255", "--generate", "2"}, 2);
  EXPECT_TRUE(contains(refused.error, "saw 255 and 2 to generate, needs at most 256 together"));
}

TEST_F(TextJob, TheTestbedAsksFleetAndOriginalForTokensInTurn) {
  Process::Options options;
  options.words = {CLEAVE_TESTBED, *shared_ / "bundle",
                   "--fleet",      *shared_ / "fleet.toml",
                   "--original",   *shared_ / "model",
                   "--requests",   "40",
                   "--warmup",     "2",
                   "--loopback",   "--format",
                   "json",         "--dry-run"};
  options.log = own_ / "testbed.log";
  Process testbed(options);
  const std::string said = testbed.read_all();
  ASSERT_NE(testbed.wait(), 1) << base::read_text(options.log);  // 3: this machine is busy
  const json measured = json::parse(said);
  EXPECT_EQ(measured.at("generate"), 32);
  EXPECT_LE(measured.at("against_local").get<double>(), 1e-5);
  for (const auto& system : measured.at("systems")) {
    EXPECT_EQ(system.at("latency_s").size(), 40U);
    EXPECT_EQ(system.at("failed"), 0);
  }
}

TEST_F(TextJob, SaysInOneLineWhatIsWrong) {
  const Scratch& s = *shared_;
  const auto error = [&](std::vector<std::string> words, int code) {
    const auto ran = run(words, code);
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1) << ran.error;
    return ran.error;
  };
  EXPECT_TRUE(contains(error({"generate", s / "model", "b\xff"}, 1),
                       "[prompt 0] byte 1: is no valid UTF-8; --lossy replaces it"));
  EXPECT_TRUE(contains(error({"generate", s / "model", std::string(200, 'a'), "--tokens", "64"}, 1),
                       "saw 200 tokens and 64 to generate, needs at most 256 together"));
  write_text(own_ / "prompts.txt", "a\n\n" + std::string(200, 'a') + "\n");
  EXPECT_TRUE(contains(
      error({"generate", s / "model", "--prompts", own_ / "prompts.txt", "--tokens", "64"}, 1),
      "prompts.txt line 3: saw 200 tokens and 64 to generate"));
  EXPECT_TRUE(contains(error({"generate", s / "model", "a", "--top-p", "2"}, 2), "top-p"));
  EXPECT_TRUE(contains(error({"generate", s / "model", "--ids", "1 2 999"}, 1),
                       "saw token 999, needs 0..255, the model's vocabulary"));
  EXPECT_TRUE(contains(error({"generate", s / "model", "--ids", "4294967297"}, 2),
                       "saw '4294967297', needs token numbers"));
  EXPECT_TRUE(contains(error({"generate", s / "model", "--ids", "1", "--stop", "a"}, 2),
                       "[--stop] saw --ids too, needs prompts that are texts"));
  EXPECT_TRUE(contains(error({"generate", s / "model", "a", "--stop", "b\xff"}, 1),
                       "[--stop] byte 1: is no valid UTF-8; --lossy replaces it"));
  EXPECT_TRUE(contains(error({"generate", s / "model"}, 2), "needs a PROMPT"));
  write_text(own_ / "data/rhyme.txt", rhyme(40) + "\xff" + rhyme(40));
  EXPECT_TRUE(contains(error({"evaluate", s / "model", "--data", own_ / "data"}, 1),
                       "rhyme.txt] byte 2000: is no valid UTF-8; --lossy replaces it"));
  run({"evaluate", s / "model", "--data", own_ / "data", "--length", "64", "--lossy"});
  std::filesystem::copy(s / "model", own_ / "other");
  write_text(own_ / "other/vocab.json", "{\"a\": 0, \"b\": 256}");
  EXPECT_TRUE(contains(error({"generate", own_ / "other", "a"}, 1),
                       "tokenizer: saw 257 tokens, needs at most the model's vocabulary of 256"));
}

}  // namespace
}  // namespace cleave::tools
