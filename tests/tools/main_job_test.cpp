// The main job on a model so small that it takes seconds: every step as a person runs it, agents as
// processes of their own.

#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <signal.h>
#include <thread>

#include <nlohmann/json.hpp>

#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

class MainJob : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    const Scratch& s = *shared_;
    make_tiny_plan(s);
    make_images(s / "data/train", 240, 1);
    make_images(s / "data/test", 60, 2);
    write_text(s / "recipe.toml",
               "format = 1\n[data]\npath = \"data\"\nvalidation = 60\nflip = false\nshift = "
               "0\n[joint]\nepochs = "
               "2\nbatch = 16\nlearning_rate = 0.003\n");
    run({"decompose", s / "model", "--plan", s / "plan.json", "--fleet", s / "fleet.toml", "--data",
         s / "data", "--rows", "60", "--out", s / "bundle"});
    run({"calibrate", s / "bundle", "--teacher", s / "model", "--data", s / "data", "--recipe",
         s / "recipe.toml", "--threads", "1"});
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

  /// Agents of the bundle, each on a port of its own; their addresses in hosts.toml.
  /// Logits by image, from `infer --logits --format json`.
  static std::map<std::string, std::vector<double>> logits_of(const std::string& lines) {
    std::map<std::string, std::vector<double>> logits;
    std::istringstream in(lines);
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      logits[json.at("image").get<std::string>()] = json.at("logits").get<std::vector<double>>();
    }
    return logits;
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* MainJob::shared_ = nullptr;

TEST_F(MainJob, AgentsGiveTheLocalAnswer) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_);
  const auto local = logits_of(
      run({"infer", s / "bundle", s / "data/test", "--local", "--logits", "--format", "json"}).out);
  const auto fleet =
      logits_of(run({"infer", s / "bundle", s / "data/test", "--hosts", own_ / "hosts.toml",
                     "--logits", "--format", "json", "--require-all", "--concurrency", "4"})
                    .out);
  ASSERT_EQ(local.size(), 60U);
  ASSERT_EQ(fleet.size(), 60U);
  for (const auto& [image, expected] : local) {
    double largest = 0;
    for (double logit : expected) largest = std::max(largest, std::abs(logit));
    for (std::size_t c = 0; c < expected.size(); ++c)
      EXPECT_NEAR(fleet.at(image)[c], expected[c], 1e-5 * largest) << image;
  }
}

TEST_F(MainJob, AMissingDeviceIsMarkedAndEqualsTheLocalRunWithoutIt) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_, {"hub", "door"});
  const std::vector<std::string> ask{"infer",    s / "bundle", s / "data/test/low",
                                     "--logits", "--format",   "json"};
  auto with = [&](std::vector<std::string> more) {
    auto words = ask;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const auto fleet = run(with({"--hosts", own_ / "hosts.toml", "--join-timeout", "500 ms"}));
  EXPECT_NE(fleet.out.find("\"missing\":[\"cam\"]"), std::string::npos) << fleet.out;
  const auto expected = logits_of(run(with({"--local", "--without", "cam"})).out);
  for (const auto& [image, logits] : logits_of(fleet.out))
    for (std::size_t c = 0; c < logits.size(); ++c)
      EXPECT_NEAR(logits[c], expected.at(image)[c], 1e-4) << image;
  run(with({"--hosts", own_ / "hosts.toml", "--join-timeout", "500 ms", "--require-all"}), 3);
}

TEST_F(MainJob, AServerAnswersManyAndListsItsAgents) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_);
  const auto [server, address] = start_server(s / "bundle", own_);
  const auto status = nlohmann::json::parse(run({"status", address, "--format", "json"}).out);
  ASSERT_EQ(status.at("agents").size(), 3U);
  EXPECT_EQ(status.at("plans").at(0).at("name"), "default");
  for (const auto& agent : status.at("agents")) {
    EXPECT_TRUE(agent.at("connected").get<bool>()) << agent;
    EXPECT_EQ(agent.at("state"), "joined") << agent;
  }
  const auto via =
      run({"infer", "--via", address, s / "data/test", "--concurrency", "8", "--format", "json"});
  EXPECT_EQ(std::count(via.out.begin(), via.out.end(), '\n'), 60);
  run({"bench", "--via", address, "--requests", "50", "--warmup", "5", "--concurrency", "8",
       "--format", "json"});

  // SIGTERM drains: both end by themselves, with 0.
  kill(server->id(), SIGTERM);
  EXPECT_EQ(server->wait(), 0);
  kill(agents.at("hub")->id(), SIGTERM);
  EXPECT_EQ(agents.at("hub")->wait(), 0);
}

TEST_F(MainJob, EveryRequestIsAnsweredWhenAnAgentIsKilledUnderLoad) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_, tiny_devices, {"--pace", "0.05"});
  const auto [server, address] = start_server(s / "bundle", own_);
  Process::Options options;
  options.words = {CLEAVE_PROGRAM,  "bench", "--via",      address, "--requests", "600",
                   "--warmup",      "0",     "--deadline", "5 s",   "--format",   "json",
                   "--concurrency", "8"};
  options.log = own_ / "bench.log";
  Process bench(options);
  wait_until_it_heeds_signals(bench);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  kill(agents.at("cam")->id(), SIGKILL);
  const auto json = nlohmann::json::parse(bench.read_all());
  EXPECT_EQ(bench.wait(), 0);
  EXPECT_EQ(json.at("failed"), 0);
  EXPECT_EQ(json.at("latency").at("count"), 600);
  EXPECT_GT(json.at("partial").get<int>(), 0);
  EXPECT_LT(json.at("partial").get<int>(), 600);
}

TEST_F(MainJob, AgentsAcceptTheNextAggregatorAfterOneIsKilled) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_, tiny_devices, {"--pace", "0.05"});
  for (int i = 0; i < 2; ++i) {
    const auto [server, address] = start_server(s / "bundle", own_);
    const auto answers = run({"infer", "--via", address, s / "data/test", "--require-all"});
    EXPECT_EQ(answers.out.find("missing"), std::string::npos) << answers.out;
    // In the middle of requests.
    Process::Options options;
    options.words = {CLEAVE_PROGRAM, "bench", "--via", address, "--requests", "100000"};
    options.log = own_ / "bench.log";
    Process bench(options);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    kill(server->id(), SIGKILL);
    EXPECT_EQ(bench.wait(), 1);
  }
}

TEST_F(MainJob, EvaluateListsEverySubsetAndKeepsIt) {
  const Scratch& s = *shared_;
  const auto json = nlohmann::json::parse(run({"evaluate", s / "bundle", "--teacher", s / "model",
                                               "--data", s / "data", "--format", "json"})
                                              .out);
  EXPECT_EQ(json.at("size").get<int>(), 60);
  EXPECT_GE(json.at("rows").size(),
            1U + 3U + 7U - 3U);  // teacher, each part alone, every subset of two or three
  const auto measured = plan::read_measured(s / "bundle");
  ASSERT_TRUE(measured.contains("accuracy"));
  EXPECT_EQ(measured.at("accuracy").at("split"), "test");
  EXPECT_EQ(measured.at("accuracy").at("data"), "test") << "the folder's name, not where it lies";
  EXPECT_NE(run({"inspect", s / "bundle", "--measured"}).out.find("of 60 rows of test\n"),
            std::string::npos);
  run({"evaluate", s / "bundle", "--data", s / "data", "--target", "0.5"});
  run({"decompose", s / "model", "--plan", s / "plan.json", "--out", own_ / "cut"});
  run({"evaluate", own_ / "cut", "--data", s / "data", "--target", "1"}, 3);
}

// Of devices that share the model: what they answer together, as values travel between them.
TEST_F(MainJob, EvaluatesWhatDevicesAnswerTogether) {
  const Scratch& s = *shared_;
  for (const std::string strategy : {"tensor", "voltage"})
    for (const std::string wire : {"f32", "int8"}) {
      const std::string name = strategy + "-" + wire;
      run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", strategy, "--wire", wire,
           "--out", own_ / (name + ".json")});
      run({"decompose", s / "model", "--plan", own_ / (name + ".json"), "--out", own_ / name});
      const auto rows =
          nlohmann::json::parse(run({"evaluate", own_ / name, "--teacher", s / "model", "--data",
                                     s / "data", "--target", "0.01", "--format", "json"})
                                    .out)
              .at("rows");
      ASSERT_EQ(rows.size(), 2U) << name;
      EXPECT_EQ(rows[1].at("what"), "together");
      EXPECT_GE(rows[1].at("present").size(), 2U);
      EXPECT_NEAR(rows[1].at("value").get<double>(), rows[0].at("value").get<double>(),
                  wire == "f32" ? 1e-9 : 0.1);
      EXPECT_EQ(plan::read_measured(own_ / name).at("accuracy").at("rows").size(), 2U);
    }
  run({"evaluate", own_ / "tensor-int8", "--data", s / "data", "--target", "1"}, 3);
}

TEST_F(MainJob, EveryPrintingCommandSpeaksJson) {
  const Scratch& s = *shared_;
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"inspect", s / "bundle"},
        {"inspect", s / "model"},
        {"simulate", s / "plan.json", "--fleet", s / "fleet.toml"},
        {"plan", s / "model", "--fleet", s / "fleet.toml", "--max-part-share", "0.8"},
        {"bench", s / "model", "--requests", "5", "--warmup", "1"}}) {
    auto with_format = words;
    with_format.insert(with_format.end(), {"--format", "json"});
    const auto ran = run(with_format);
    EXPECT_TRUE(nlohmann::json::accept(ran.out)) << words[0] << ": " << ran.out;
  }
}

TEST_F(MainJob, DecomposingTwiceReplacesTheBundle) {
  const Scratch& s = *shared_;
  for (int i = 0; i < 2; ++i)
    run({"decompose", s / "model", "--plan", s / "plan.json", "--out", own_ / "bundle"});
  EXPECT_NO_THROW(plan::Bundle(own_ / "bundle").verify(""));
}

}  // namespace
}  // namespace cleave::tools
