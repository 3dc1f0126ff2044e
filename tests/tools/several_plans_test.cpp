// A bundle with several plans, as a person makes and asks it: agents are processes of their own and
// stay as they are while plans come.

#include <cmath>

#include <nlohmann/json.hpp>

#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

class SeveralPlans : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    const Scratch& s = *shared_;
    make_tiny_plan(s);
    make_images(s / "images", 6, 3);
    plan_for("tensor", "heads");
    plan_for("pipeline", "line");
    run({"decompose", s / "model", "--plan",
         s / "plan.json" + "," + s / "heads.json" + "," + s / "line.json", "--fleet",
         s / "fleet.toml", "--out", s / "bundle"});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static void plan_for(const std::string& strategy, const std::string& name) {
    const Scratch& s = *shared_;
    run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", strategy, "--name", name,
         "--out", s / (name + ".json")});
  }
  static Ran run(const std::vector<std::string>& words, int code = 0) {
    auto ran = run_cleave(*shared_, words);
    EXPECT_EQ(ran.code, code) << words[0] << ": " << ran.error << ran.out;
    return ran;
  }
  static std::vector<double> logits(const std::vector<std::string>& more) {
    const Scratch& s = *shared_;
    std::vector<std::string> words{"infer", s / "images", "--logits", "--format", "json"};
    words.insert(words.begin() + 1, more.begin(), more.end());
    std::istringstream lines(run(words).out);
    std::vector<double> all;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      for (const double logit : json.at("logits")) all.push_back(logit);
    }
    return all;
  }
  static void expect_near(const std::vector<double>& some, const std::vector<double>& others) {
    ASSERT_EQ(some.size(), others.size());
    ASSERT_FALSE(some.empty());
    for (std::size_t i = 0; i < some.size(); ++i) EXPECT_NEAR(some[i], others[i], 1e-4);
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* SeveralPlans::shared_ = nullptr;

TEST_F(SeveralPlans, AreServedByTheSameAgentsAndServer) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_);
  const auto [server, address] = start_server(s / "bundle", own_);
  const auto whole = logits({s / "model"});
  const auto cut = logits({s / "bundle", "--local"});
  expect_near(logits({"--via", address}), cut);
  expect_near(logits({"--via", address, "--plan", "default"}), cut);
  expect_near(logits({"--via", address, "--plan", "heads"}), whole);
  expect_near(logits({"--via", address, "--plan", "line"}), whole);
  expect_near(logits({s / "bundle", "--hosts", own_ / "hosts.toml", "--plan", "line"}), whole);
  EXPECT_GT(std::abs(whole[0] - cut[0]), 1e-3) << "the plans answer alike";

  const auto unknown = run({"infer", "--via", address, s / "images", "--plan", "night"}, 2);
  EXPECT_EQ(unknown.error,
            "cleave: [--plan] saw 'night', the server needs one of default, heads, line\n");
  const auto status = nlohmann::json::parse(run({"status", address, "--format", "json"}).out);
  ASSERT_EQ(status.at("plans").size(), 3U);
  EXPECT_EQ(status["plans"][0]["weights"], "not calibrated");
  EXPECT_EQ(status["plans"][1]["name"], "heads");
  EXPECT_EQ(status["plans"][1]["strategy"], "tensor");
  EXPECT_EQ(status["plans"][1]["weights"], "random");
  EXPECT_TRUE(contains(run({"status", address}).out, "default (default)"));

  // A plan that comes later moves no weights and restarts nobody.
  const auto bundle_before =
      nlohmann::json::parse(run({"inspect", s / "bundle", "--format", "json"}).out)["identity"];
  run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "tensor", "--batch", "4",
       "--name", "later", "--into", s / "bundle"});
  const auto inspected =
      nlohmann::json::parse(run({"inspect", s / "bundle", "--format", "json"}).out);
  EXPECT_EQ(inspected["identity"], bundle_before);
  EXPECT_EQ(inspected["plans"], (std::vector<std::string>{"default", "heads", "later", "line"}));
  expect_near(logits({s / "bundle", "--hosts", own_ / "hosts.toml", "--plan", "later"}), whole);
  const auto text = run({"inspect", s / "bundle"}).out;
  EXPECT_TRUE(contains(text, "--plan shows another: heads, later, line")) << text;
  EXPECT_TRUE(contains(text, "holdings")) << text;
}

// Rows of two devices, all of them and in clusters, over agents and in one process.
TEST_F(SeveralPlans, MayExchangeSegments) {
  const Scratch& s = *shared_;
  const auto plan_rows = [&](const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> words{
        "plan",  s / "model", "--fleet", s / "fleet.toml", "--strategy",
        "prism", "--name",    name,      "--out",          own_ / (name + ".json")};
    words.insert(words.end(), more.begin(), more.end());
    return run(words).out;
  };
  EXPECT_TRUE(contains(plan_rows("rows", {"--compression", "1"}),
                       "a device's rows are means for the others: one of 1 rows"));
  const std::string described = plan_rows("groups", {"--compression", "1.5", "--clusters"});
  EXPECT_TRUE(contains(described, "centres of clusters for the others: one of 1.5 rows"));
  EXPECT_TRUE(contains(described, "answers nearly as the teacher does")) << described;
  run({"decompose", s / "model", "--plan", own_ / "rows.json" + "," + own_ / "groups.json",
       "--fleet", s / "fleet.toml", "--out", own_ / "bundle"});
  const auto whole = logits({s / "model"});
  {
    const auto agents = start_agents(own_ / "bundle", own_, {"hub", "cam"});
    expect_near(logits({own_ / "bundle", "--hosts", own_ / "hosts.toml"}), whole);
    const auto groups =
        logits({own_ / "bundle", "--hosts", own_ / "hosts.toml", "--plan", "groups"});
    EXPECT_EQ(groups, logits({own_ / "bundle", "--local", "--plan", "groups"}));
    EXPECT_NE(groups, whole);
  }
  make_images(own_ / "data/test", 12, 5);
  const auto evaluated =
      nlohmann::json::parse(run({"evaluate", own_ / "bundle", "--teacher", s / "model", "--data",
                                 own_ / "data", "--format", "json"})
                                .out);
  ASSERT_EQ(evaluated.at("rows").size(), 2U);
  EXPECT_EQ(evaluated["rows"][1]["what"], "fused");
  EXPECT_EQ(evaluated["rows"][1]["value"], evaluated["rows"][0]["value"]);

  const auto refused = [&](std::vector<std::string> more) {
    std::vector<std::string> words{"plan", s / "model", "--fleet", s / "fleet.toml"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, 2).error;
  };
  EXPECT_EQ(refused({"--strategy", "tensor", "--compression", "4"}),
            "cleave: [--compression] saw strategy 'tensor', needs one that exchanges segments "
            "(prism)\n");
  EXPECT_EQ(
      refused({"--clusters"}),
      "cleave: [--clusters] saw strategy 'auto', needs one that exchanges segments (prism)\n");
  EXPECT_EQ(refused({"--strategy", "prism", "--compression", "2.345"}),
            "cleave: [--compression] saw 2.345, needs a number of two decimals\n");
}

TEST_F(SeveralPlans, AnAgentCanServeOneOfThemAlone) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_, tiny_devices, {"--plan", "default"});
  expect_near(logits({s / "bundle", "--hosts", own_ / "hosts.toml"}),
              logits({s / "bundle", "--local"}));
  const auto refused = run({"infer", s / "bundle", s / "images", "--hosts", own_ / "hosts.toml",
                            "--plan", "heads", "--join-timeout", "5 s"},
                           1);
  EXPECT_TRUE(contains(refused.error, "[plan 'heads'] is left out by --plan")) << refused.error;
}

TEST_F(SeveralPlans, NeedNamesOfTheirOwnAndWeightsThatAreThere) {
  const Scratch& s = *shared_;
  const auto twice = run({"decompose", s / "model", "--plan",
                          s / "line.json" + "," + s / "line.json", "--out", own_ / "bundle"},
                         1);
  EXPECT_EQ(twice.error,
            "cleave: [decompose] plans: saw two of the name 'line', needs one for each ('cleave "
            "plan --name')\n");
  EXPECT_FALSE(std::filesystem::exists(own_ / "bundle"));

  run({"decompose", s / "model", "--plan", s / "line.json", "--out", own_ / "line"});
  const auto beyond = run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "tensor",
                           "--name", "heads", "--into", own_ / "line"},
                          1);
  EXPECT_TRUE(contains(beyond.error, "cleave: [plan 'heads'] holdings/")) << beyond.error;
  EXPECT_TRUE(contains(beyond.error, "; cut the bundle again\n")) << beyond.error;
  EXPECT_FALSE(std::filesystem::exists(own_ / "line/plans/heads.json"));

  const auto other = run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "tensor",
                          "--into", s / "bundle"},
                         1);
  EXPECT_EQ(other.error,
            "cleave: [--name] saw 'default', a plan of the bundle of another kind; needs another "
            "name\n");
  run({"plan", s / "model", "--fleet", s / "fleet.toml", "--name", "../x"}, 2);
}

}  // namespace
}  // namespace cleave::tools
