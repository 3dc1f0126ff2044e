// A bundle with several plans, as a person makes and asks it: agents are processes of their own and
// stay as they are while plans come.

#include <cmath>
#include <map>
#include <set>

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
  const std::vector<std::string> line{"inspect", s / "bundle", "--plan", "line"};
  EXPECT_TRUE(contains(run(line).out, "\nwho does what (█ all, ▓▒░ some, · none)\n"));
  auto as_json = line;
  as_json.insert(as_json.end(), {"--format", "json"});
  const auto parts = nlohmann::json::parse(run(as_json).out).at("parts");
  const auto plan = plan::to_json(plan::Bundle(s / "bundle").plan("line"));
  for (const auto& part : plan.at("parts"))
    EXPECT_EQ(parts.at(part.at("device")).at("share"), part.at("share"));
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
    std::set<std::string> devices;
    for (const std::string name : {"rows", "groups"})
      for (const std::string& device : plan::devices_of(plan::read_plan(own_ / (name + ".json"))))
        devices.insert(device);
    const auto agents = start_agents(own_ / "bundle", own_,
                                     std::vector<std::string>(devices.begin(), devices.end()));
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
  EXPECT_EQ(evaluated["rows"][1]["what"], "together");
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

TEST_F(SeveralPlans, AreMadeTogetherOneForEachStrategy) {
  const Scratch& s = *shared_;
  const auto made = run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy",
                         "voltage,tensor,pipeline", "--out", own_ / "plans"});
  for (const std::string name : {"voltage", "tensor", "pipeline"}) {
    const auto plan = nlohmann::json::parse(base::read_text(own_ / ("plans/" + name + ".json")));
    EXPECT_EQ(plan.at("name"), name);
    EXPECT_EQ(plan.at("strategy"), name);
  }
  const std::string paths = own_ / "plans/voltage.json" + "," + own_ / "plans/tensor.json" + "," +
                            own_ / "plans/pipeline.json";
  EXPECT_TRUE(contains(made.out, "  cleave decompose " + s / "model" + " --plan " + paths))
      << made.out;
  run({"decompose", s / "model", "--plan", paths, "--out", own_ / "bundle"});
  const auto inspect = [](const std::string& bundle) {
    return nlohmann::json::parse(run({"inspect", bundle, "--format", "json"}).out);
  };
  EXPECT_EQ(inspect(own_ / "bundle")["plans"],
            (std::vector<std::string>{"voltage", "pipeline", "tensor"}));
  // A folder of plans is all of them; the first by name is the default one.
  run({"decompose", s / "model", "--plan", own_ / "plans", "--out", own_ / "other"});
  EXPECT_EQ(inspect(own_ / "other")["plans"],
            (std::vector<std::string>{"pipeline", "tensor", "voltage"}));
  EXPECT_EQ(inspect(own_ / "other")["identity"], inspect(own_ / "bundle")["identity"])
      << "holdings are cut once";

  // Into a bundle that has their weights.
  run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "tensor,pipeline", "--into",
       own_ / "other", "--batch", "2"});
  EXPECT_EQ(inspect(own_ / "other")["plans"],
            (std::vector<std::string>{"pipeline", "tensor", "voltage"}));
}

TEST_F(SeveralPlans, WhatCannotRunTheModelSaysWhyAndTheOthersArePlanned) {
  write_text(own_ / "tiny/config.json", [] {
    std::string config = tiny_config();
    const std::string layers = "\"num_hidden_layers\": 2";
    return config.replace(config.find(layers), layers.size(), "\"num_hidden_layers\": 1");
  }());
  run({"init", "--config", own_ / "tiny", "--out", own_ / "model"});
  const std::string fleet = *shared_ / "fleet.toml";
  const auto some = run({"plan", own_ / "model", "--fleet", fleet, "--strategy", "pipeline,tensor",
                         "--out", own_ / "plans"});
  EXPECT_TRUE(contains(some.out,
                       "no plan with pipeline: [check] plan.parts: saw 3 devices, needs at most 1, "
                       "one for each of the teacher's layers\n"))
      << some.out;
  EXPECT_FALSE(std::filesystem::exists(own_ / "plans/pipeline.json"));
  EXPECT_TRUE(std::filesystem::exists(own_ / "plans/tensor.json"));
  const auto json = nlohmann::json::parse(run({"plan", own_ / "model", "--fleet", fleet,
                                               "--strategy", "pipeline,tensor", "--format", "json"})
                                              .out);
  ASSERT_EQ(json["plans"].size(), 1U);
  EXPECT_EQ(json["plans"][0]["name"], "tensor");
  EXPECT_EQ(json["refused"][0]["strategy"], "pipeline");
  const auto none = run({"plan", own_ / "model", "--fleet", fleet, "--strategy", "pipeline",
                         "--out", own_ / "one.json"},
                        3);
  EXPECT_TRUE(contains(none.out, "no plan with pipeline: ")) << none.out;
  EXPECT_FALSE(std::filesystem::exists(own_ / "one.json"));
}

TEST_F(SeveralPlans, SharesCanBeGivenByHand) {
  const Scratch& s = *shared_;
  const auto rows_of = [&](const std::string& shares) {
    const auto plan =
        nlohmann::json::parse(run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy",
                                   "voltage", "--shares", shares, "--format", "json"})
                                  .out);
    std::vector<double> rows;
    for (const auto& part : plan.at("parts")) rows.push_back(part.at("share").at("rows"));
    return rows;
  };
  EXPECT_EQ(rows_of("3,1,1"), (std::vector<double>{600000, 200000, 200000}));
  EXPECT_EQ(rows_of("1,0,1"), (std::vector<double>{500000, 500000})) << "0 leaves a device out";

  const auto wrong = [&](const std::string& shares, const std::string& strategy = "voltage") {
    return run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", strategy,
                "--shares", shares},
               2)
        .error;
  };
  EXPECT_EQ(wrong("3,1"),
            "cleave: [plan] shares: saw 2 numbers, needs 3, one for each agent of the fleet: hub, "
            "cam, door\n");
  EXPECT_EQ(wrong("0,0,0"), "cleave: [plan] shares: saw no number above 0, needs one at least\n");
  EXPECT_EQ(wrong("3,-1,1"), "cleave: [plan] shares: saw -1, needs numbers from 0 on\n");
  EXPECT_EQ(wrong("3,x,1"),
            "cleave: [--shares] saw 'x', needs numbers with commas between: 3,1,1\n");
  EXPECT_EQ(wrong("3,,1"), "cleave: [--shares] saw '', needs numbers with commas between: 3,1,1\n");
  EXPECT_TRUE(contains(wrong("3,1,1", "tensor"),
                       "cleave: [--shares] saw strategy tensor, which leaves no shares to choose; "
                       "needs one of pipeline, voltage"))
      << wrong("3,1,1", "tensor");
  // Beside one that takes them the others are refused.
  const auto both = run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy",
                         "tensor,voltage", "--shares", "3,1,1"});
  EXPECT_TRUE(contains(both.out,
                       "no plan with tensor: [plan] shares: saw some, needs none: the "
                       "strategy 'tensor' leaves no shares to choose\n"))
      << both.out;
}

TEST_F(SeveralPlans, BadListsOfStrategiesAreWrongUsage) {
  const Scratch& s = *shared_;
  const auto wrong = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"plan", s / "model", "--fleet", s / "fleet.toml"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, 2).error;
  };
  EXPECT_TRUE(contains(wrong({"--strategy", "tensor,voltag"}),
                       "cleave: [--strategy] saw 'voltag', needs one of auto|"));
  EXPECT_EQ(wrong({"--strategy", "tensor,tensor"}),
            "cleave: [--strategy] saw one twice, needs each once\n");
  EXPECT_EQ(wrong({"--strategy", "tensor,auto"}),
            "cleave: [--strategy] saw 'auto' among several, needs it alone\n");
  EXPECT_EQ(wrong({"--strategy", "tensor,voltage", "--name", "x"}),
            "cleave: [--name] saw several strategies, after which their plans are named\n");
  write_text(own_ / "file", "x");
  EXPECT_EQ(wrong({"--strategy", "tensor,voltage", "--out", own_ / "file"}),
            "cleave: [--out] saw " + own_ / "file" +
                ", a file; needs a folder, where each strategy's plan gets a file\n");
  std::filesystem::create_directory(own_ / "empty");
  EXPECT_EQ(
      run({"decompose", s / "model", "--plan", own_ / "empty", "--out", own_ / "none"}, 2).error,
      "cleave: [--plan] saw no plan in " + own_ / "empty" + ", needs one or more\n");
}

TEST_F(SeveralPlans, AreAskedInTurnAndMeasuredBesideEachOther) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_);
  const auto json = nlohmann::json::parse(
      run({"bench", s / "bundle", "--hosts", own_ / "hosts.toml", "--plan", "heads,line,default",
           "--requests", "5", "--warmup", "1", "--format", "json", "--csv", own_ / "out.csv"})
          .out);
  ASSERT_EQ(json.at("plans").size(), 3U);
  EXPECT_EQ(json["plans"][0]["plan"], "heads");
  EXPECT_EQ(json["plans"][0]["ratio"], 1.0);
  EXPECT_EQ(json["plans"][1]["requests"], 5);
  for (const auto& plan : json["plans"]) {
    EXPECT_GT(plan["median_s"], 0) << plan;
    ASSERT_TRUE(plan["devices"].contains("aggregator@hub")) << plan;
    double sent = 0, received = 0;
    for (const auto& [device, figures] : plan["devices"].items()) {
      // The same programs do the same work and send the same values as was planned.
      EXPECT_EQ(figures["flops"]["median"], figures["flops"]["predicted"]) << device << plan;
      EXPECT_GE(figures["sent"]["median"], figures["sent"]["predicted"]) << device << plan;
      EXPECT_GT(figures["peak memory"]["median"], 1e6) << device;
      sent += figures["sent"]["median"].get<double>();
      received += figures["received"]["median"].get<double>();
    }
    EXPECT_GT(sent, 0);
    EXPECT_EQ(sent, received) << "what leaves one device comes to another: " << plan;
  }
  // Of the plan in which every device adds up with the others.
  for (const std::string device : {"hub", "cam"}) {
    const auto& figures = json["plans"][0]["devices"][device];
    EXPECT_GT(figures["computing"]["median"], 0);
    EXPECT_GT(figures["waiting"]["median"], 0);
    EXPECT_GE(figures["queued"]["median"], 0);
    EXPECT_GT(figures["transferring"]["median"], 0);
    const auto& links = figures["links"];
    EXPECT_GT(links[device == std::string("hub") ? "cam" : "hub"]["sent_bytes"], 0) << links;
  }
  const auto csv = base::read_text(own_ / "out.csv");
  EXPECT_TRUE(contains(csv, "what,plan,device,median,MAD,predicted\nlatency,heads,,")) << csv;
  EXPECT_TRUE(contains(csv, "\nflops,line,hub,")) << csv;
  const auto text = run({"bench", s / "bundle", "--hosts", own_ / "hosts.toml", "--plan",
                         "heads,line", "--requests", "2"})
                        .out;
  EXPECT_TRUE(contains(text, "beside the first")) << text;
  EXPECT_TRUE(contains(text, "transferring")) << text;

  const auto bench = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"bench", s / "bundle", "--hosts", own_ / "hosts.toml"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, 2).error;
  };
  EXPECT_EQ(bench({"--plan", "heads,line", "--concurrency", "2"}),
            "cleave: [--concurrency] saw 2 and 2 plans, which are asked in turn: needs 1\n");
  EXPECT_EQ(bench({"--plan", "heads,heads"}), "cleave: [--plan] saw one twice, needs each once\n");
  EXPECT_EQ(run({"infer", s / "bundle", s / "images", "--plan", "heads,line", "--local"}, 2).error,
            "cleave: [--plan] saw 2 plans, needs one here\n");
  EXPECT_EQ(bench({"--local", "--trace", own_ / "t.json"}),
            "cleave: [--trace] saw parts in this process, needs agents that tell what they do\n");
}

/// Events of a trace by the name of their process ("measured: heads") and lane.
using Lanes = std::map<std::pair<std::string, std::string>, std::vector<nlohmann::json>>;
Lanes lanes_of(const nlohmann::json& trace) {
  std::map<int, std::string> processes;
  std::map<std::pair<int, int>, std::string> threads;
  for (const auto& event : trace.at("traceEvents")) {
    if (event["name"] == "process_name") processes[event["pid"]] = event["args"]["name"];
    if (event["name"] == "thread_name")
      threads[{event["pid"], event["tid"]}] = event["args"]["name"];
  }
  Lanes lanes;
  for (const auto& event : trace.at("traceEvents"))
    if (event["ph"] == "X")
      lanes[{processes.at(event["pid"]), threads.at({event["pid"], event["tid"]})}].push_back(
          event);
  return lanes;
}

TEST_F(SeveralPlans, ATraceShowsWhatEveryDeviceDidOnOneClock) {
  const Scratch& s = *shared_;
  const auto agents = start_agents(s / "bundle", own_);
  run({"bench", s / "bundle", "--hosts", own_ / "hosts.toml", "--fleet", s / "fleet.toml", "--plan",
       "heads,line", "--requests", "3", "--warmup", "1", "--trace", own_ / "trace.json"});
  const auto lanes = lanes_of(nlohmann::json::parse(base::read_text(own_ / "trace.json")));
  for (const std::string lane : {"hub", "cam", "aggregator@hub", "hub -> cam, sending",
                                 "hub -> cam, receiving", "cam -> hub, sending"}) {
    EXPECT_TRUE(lanes.count({"measured: heads", lane})) << lane;
  }
  EXPECT_TRUE(lanes.count({"measured: line", "hub"}));
  EXPECT_TRUE(lanes.count({"simulated: heads", "hub"}));
  EXPECT_TRUE(lanes.count({"simulated: line", "hub"}));
  std::set<std::string> names;
  for (const auto& event : lanes.at({"measured: heads", "hub"})) {
    names.insert(event["name"].get<std::string>().substr(0, 6));
    EXPECT_GT(event["ts"], -1e4) << "microseconds since the request was submitted: " << event;
    EXPECT_LT(event["ts"], 1e7) << event;
  }
  EXPECT_TRUE(names.count("waits")) << nlohmann::json(names);
  EXPECT_TRUE(names.count("layers") || names.count("layer ")) << nlohmann::json(names);
  // Here all clocks are one: a value is not read long before it is sent.
  const auto& sent = lanes.at({"measured: heads", "hub -> cam, sending"});
  const auto& read = lanes.at({"measured: heads", "hub -> cam, receiving"});
  ASSERT_EQ(sent.size(), read.size());
  EXPECT_GT(read.front()["ts"].get<double>() + read.front()["dur"].get<double>() + 2000,
            sent.front()["ts"].get<double>());

  const auto [server, address] = start_server(s / "bundle", own_);
  run({"infer", "--via", address, s / "images/low/0.png", "--plan", "heads", "--trace",
       own_ / "one.json"});
  const auto one = lanes_of(nlohmann::json::parse(base::read_text(own_ / "one.json")));
  EXPECT_TRUE(one.count({"measured: heads", "cam"}));
  write_text(own_ / "note.txt", "no trace");
  EXPECT_TRUE(contains(
      run({"infer", "--via", address, s / "images/low/0.png", "--trace", own_ / "note.txt"}, 1)
          .error,
      "exists and is no trace"));
}

}  // namespace
}  // namespace cleave::tools
