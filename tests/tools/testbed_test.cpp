// The testbed itself: what it measures is real, and nothing of it stays behind, however it ends.

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <signal.h>
#include <thread>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& folder, const std::string& start) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(start, 0) == 0) names.insert(name);
  }
  return names;
}

/// Ids of processes whose command line has `word`, but not this one.
std::set<int> processes_with(const std::string& word) {
  std::set<int> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const int id = std::atoi(entry.path().filename().c_str());
    if (id <= 0 || id == getpid()) continue;
    std::ifstream file(entry.path() / "cmdline");
    const std::string line((std::istreambuf_iterator<char>(file)), {});
    if (line.find(word) != std::string::npos) found.insert(id);
  }
  return found;
}

class Testbed : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    make_tiny_bundle(*shared_);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  /// `cleave-testbed BUNDLE …` with all of its temporary files in the test's own folder, and the
  /// programs in its `bin` before all others.
  Process start(std::vector<std::string> more, const std::string& bundle = *shared_ / "bundle",
                const std::string& fleet = *shared_ / "fleet.toml") {
    fs::create_directories(own_ / "tmp");
    Process::Options options;
    options.words = {"/usr/bin/env",
                     "TMPDIR=" + (own_ / "tmp"),
                     "PATH=" + (own_ / "bin") + ":" + std::getenv("PATH"),
                     CLEAVE_TESTBED,
                     bundle,
                     "--fleet",
                     fleet,
                     "--format",
                     "json"};
    options.words.insert(options.words.end(), more.begin(), more.end());
    options.log = own_ / "testbed.log";
    return Process(options);
  }

  /// Waits until both sides run: the agents of the system and the original's one.
  void wait_for_agents() const {
    for (int i = 0; i < 600 && agents().size() < 4; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_GE(agents().size(), 4U);
  }
  std::set<int> agents() const {
    auto all = processes_with("cleave-agent");
    const auto mine = processes_with(shared_->path().string());
    const auto original = processes_with(own_.path().string());
    for (auto id = all.begin(); id != all.end();)
      id = mine.count(*id) + original.count(*id) > 0 ? std::next(id) : all.erase(id);
    return all;
  }

  void expect_nothing_left(int id) const {
    for (int i = 0; i < 600 && !agents().empty(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_TRUE(agents().empty());
    const std::string start = "cleave-" + std::to_string(id) + "-";
    EXPECT_TRUE(names_in("/var/run/netns", start).empty());
    EXPECT_TRUE(names_in("/sys/fs/cgroup/memory", start).empty());
    EXPECT_TRUE(names_in("/sys/fs/cgroup", start).empty());
    EXPECT_TRUE(fs::is_empty(own_ / "tmp"));
  }

  /// A machine that is too busy to keep the speeds is said, in one line, and is no fault of ours.
  nlohmann::json expect_end(Process& testbed) {
    const std::string text = testbed.read_all();
    const int code = testbed.wait();
    const std::string said = base::read_text(own_ / "testbed.log");
    EXPECT_TRUE(nlohmann::json::accept(text)) << said;
    if (!nlohmann::json::accept(text)) return {};
    auto json = nlohmann::json::parse(text);
    EXPECT_EQ(code, json.at("holds").get<bool>() ? 0 : 3) << said;
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), code == 0 ? 0 : 1) << said;
    return json;
  }

  void expect_measured(Process& testbed, std::size_t requests) {
    const int id = testbed.id();
    const auto json = expect_end(testbed);
    ASSERT_TRUE(json.is_object());
    ASSERT_EQ(json.at("systems").size(), 2U);
    for (const auto& system : json.at("systems")) {
      EXPECT_EQ(system.at("latency_s").size(), requests);
      EXPECT_EQ(system.at("failed"), 0);
      EXPECT_EQ(system.at("partial"), 0);
    }
    EXPECT_EQ(json.at("systems")[0].at("devices").size(), 3U);
    EXPECT_LE(json.at("against_local").get<double>(), 1e-5);
    EXPECT_GT(json.at("ratio").get<double>(), 0);
    for (const auto& row : json.at("systems")[0].at("memory")) {
      EXPECT_TRUE(row.at("holds").get<bool>()) << row;
      EXPECT_GT(row.at("runtime_bytes").get<double>(), 50e6) << row;
      EXPECT_DOUBLE_EQ(row.at("peak_bytes").get<double>(),
                       row.at("runtime_bytes").get<double>() + row.at("model_bytes").get<double>());
      EXPECT_GE(row.at("predicted_model_bytes").get<double>(), row.at("model_bytes").get<double>())
          << row;
    }
    EXPECT_EQ(plan::read_measured(*shared_ / "bundle").at("testbed").at("bundle"),
              plan::Bundle(*shared_ / "bundle").identity());
    expect_nothing_left(id);
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* Testbed::shared_ = nullptr;

/// Root alone does not say so: a container or a chroot may lack the right or the mounts.
bool can_enter_namespaces() {
  if (geteuid() != 0) return false;
  const std::string name = own_name("probe");
  bool able = true;
  try {
    run_program({"ip", "netns", "add", name});
    run_program({"ip", "netns", "exec", name, "true"});
  } catch (const std::runtime_error&) {
    able = false;
  }
  try {
    run_program({"ip", "netns", "del", name});
  } catch (const std::runtime_error&) {
  }
  return able;
}

TEST_F(Testbed, AsksSeveralPlansInTurnBesideTheWholeModelAndABound) {
  const auto run = [&](const std::vector<std::string>& words) {
    const auto ran = run_cleave(own_, words);
    ASSERT_EQ(ran.code, 0) << ran.error;
  };
  run({"plan", *shared_ / "model", "--fleet", *shared_ / "fleet.toml", "--strategy",
       "tensor,pipeline", "--out", own_ / "plans"});
  run({"decompose", *shared_ / "model", "--plan", own_ / "plans", "--out", own_ / "several"});
  auto testbed = start({"--plan", "tensor,pipeline", "--original", *shared_ / "model", "--requests",
                        "4", "--warmup", "1", "--csv", own_ / "out.csv"},
                       own_ / "several");
  const int id = testbed.id();
  const auto json = expect_end(testbed);
  ASSERT_TRUE(json.is_object());
  ASSERT_EQ(json.at("systems").size(), 3U);
  EXPECT_EQ(json["systems"][0]["what"], "tensor");
  EXPECT_EQ(json["systems"][2]["what"], "original");
  const auto& plans = json.at("side_by_side").at("plans");
  ASSERT_EQ(plans.size(), 3U);
  for (const auto& plan : plans) {
    EXPECT_EQ(plan["requests"], 4) << plan;
    EXPECT_GT(plan["predicted_latency_s"], 0) << plan;
    for (const auto& [device, figures] : plan["devices"].items())
      EXPECT_EQ(figures["flops"]["median"], figures["flops"]["predicted"]) << device;
  }
  // No division of the work is faster than all of it at all speeds together.
  const auto& bounds = json["side_by_side"]["bounds"];
  ASSERT_EQ(bounds.size(), 2U);
  EXPECT_EQ(bounds[0]["what"], "whole model on hub, the best that has room (formula)");
  EXPECT_EQ(bounds[1]["what"],
            "lower bound (formula): all work at all devices' speeds, nothing sent");
  EXPECT_GT(bounds[1]["latency_s"], 0);
  EXPECT_LT(bounds[1]["latency_s"], bounds[0]["latency_s"]);
  EXPECT_TRUE(contains(base::read_text(own_ / "out.csv"), "\nbound,\"lower bound"));
  expect_nothing_left(id);
}

TEST_F(Testbed, MeasuresBothSidesOnLoopback) {
  setenv("CLEAVE_THREADS", "2", 1);  // the user's, not the emulated devices', which are paced
  Process testbed = start({"--loopback", "--original", *shared_ / "model", "--requests", "5"});
  unsetenv("CLEAVE_THREADS");
  expect_measured(testbed, 5);
}

TEST_F(Testbed, MeasuresBothSidesInNamespaces) {
  if (!can_enter_namespaces()) GTEST_SKIP() << "needs root and network namespaces";
  Process testbed = start({"--namespaces", "--original", *shared_ / "model", "--requests", "5"});
  expect_measured(testbed, 5);
}

TEST_F(Testbed, ShapesLinksWithoutRoot) {
  Process testbed = start({"--original", *shared_ / "model", "--requests", "5"});
  expect_measured(testbed, 5);
}

TEST_F(Testbed, TakesARecordedLink) {
  // 15 ms there and 15 ms back; giving a device up as late takes 50 ms.
  write_text(own_ / "link.csv", "seconds,mbit_s,latency_ms,jitter_ms\n0,100,15,0\n3600,1,15,0\n");
  Process testbed =
      start({"--link", own_ / "link.csv", "--requests", "3", "--warmup", "0", "--dry-run"});
  const auto json = expect_end(testbed);
  ASSERT_TRUE(json.is_object());
  for (const double latency_s : json.at("systems").at(0).at("latency_s"))
    EXPECT_GE(latency_s, 0.03) << json;
  EXPECT_EQ(json.at("network"),
            "every device's streams behave as " + (own_ / "link.csv") + " says");
}

TEST_F(Testbed, SaysWhatIsWrongWithALink) {
  const std::pair<const char*, const char*> cases[] = {
      {"0,100,1,0\n",
       "link.csv line 1] saw '0,100,1,0', needs 'seconds,mbit_s,latency_ms,jitter_ms'"},
      {"seconds,mbit_s,latency_ms,jitter_ms\n0,fast,1,0\n",
       "link.csv line 2] saw '0,fast,1,0', needs four numbers with commas between"},
      {"seconds,mbit_s,latency_ms,jitter_ms\n", "link.csv] saw no row, needs one or more"},
      {"seconds,mbit_s,latency_ms,jitter_ms\n5,1,1,0\n", "link.csv] [link] row 0: saw time 5.0"},
  };
  for (const auto& [text, words] : cases) {
    write_text(own_ / "link.csv", text);
    const auto ran = run_cleave(
        own_, {"agent", *shared_ / "bundle", "--device", "hub", "--link", own_ / "link.csv"});
    EXPECT_EQ(ran.code, 1);
    EXPECT_NE(ran.error.find(words), std::string::npos) << ran.error;
  }
}

TEST_F(Testbed, SaysInItsExitCodeThatASpeedDoesNotHold) {
  fs::copy(*shared_ / "bundle", own_ / "bundle", fs::copy_options::recursive);
  fs::remove(own_ / "bundle/measured.json");
  // More devices at full speed than there are cores.
  std::string fleet = tiny_fleet();
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i)
    fleet += "[[device]]\nname = \"more" + std::to_string(i) +
             "\"\naddress = \"127.0.0.1:" + std::to_string(7200 + i) +
             "\"\nmemory = \"1 GB\"\nspeed = 1.0\npreset = \"pi5\"\n";
  write_text(own_ / "fleet.toml", fleet);
  Process testbed =
      start({"--loopback", "--dry-run", "--requests", "3"}, own_ / "bundle", own_ / "fleet.toml");
  const auto json = expect_end(testbed);
  ASSERT_TRUE(json.is_object());
  EXPECT_FALSE(json.at("holds").get<bool>());
  EXPECT_NE(base::read_text(own_ / "testbed.log").find("the speed of more0"), std::string::npos);
  EXPECT_FALSE(fs::exists(own_ / "bundle/measured.json"));
}

TEST_F(Testbed, SaysWhyTheKernelCannotShapeLinks) {
  if (!can_enter_namespaces()) GTEST_SKIP() << "needs root and network namespaces";
  write_text(own_ / "bin/tc", "#!/bin/sh\necho no such qdisc >&2\nexit 2\n");
  fs::permissions(own_ / "bin/tc", fs::perms::owner_all);
  Process testbed = start({"--namespaces", "--requests", "3", "--dry-run"});
  const int id = testbed.id();
  testbed.read_all();
  EXPECT_EQ(testbed.wait(), 1);
  const std::string said = base::read_text(own_ / "testbed.log");
  EXPECT_NE(said.find("[--namespaces] "), std::string::npos) << said;
  EXPECT_NE(said.find("no such qdisc"), std::string::npos) << said;
  expect_nothing_left(id);
}

TEST_F(Testbed, LeavesNothingAfterCtrlC) {
  Process testbed =
      start({"--original", *shared_ / "model", "--requests", "1000000", "--warmup", "0"});
  const int id = testbed.id();
  wait_for_agents();
  kill(id, SIGINT);
  EXPECT_EQ(testbed.wait(), 1);
  expect_nothing_left(id);
}

TEST_F(Testbed, LeavesNothingAfterAFailure) {
  // The last part is not what the manifest says: agents before it run already.
  fs::copy(*shared_ / "bundle", own_ / "bundle", fs::copy_options::recursive);
  for (const auto& entry : fs::recursive_directory_iterator(own_ / "bundle"))
    if (entry.path().string().find("door") != std::string::npos &&
        entry.path().extension() == ".safetensors")
      fs::resize_file(entry.path(), fs::file_size(entry.path()) - 4);
  Process testbed = start({"--requests", "5"}, own_ / "bundle");
  const int id = testbed.id();
  EXPECT_EQ(testbed.read_all(), "");
  EXPECT_EQ(testbed.wait(), 1);
  const std::string said = base::read_text(own_ / "testbed.log");
  EXPECT_NE(said.find("door"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  expect_nothing_left(id);
}

TEST_F(Testbed, AKilledOneTakesItsProcessesAlongAndIsSweptByTheNext) {
  Process testbed =
      start({"--original", *shared_ / "model", "--requests", "1000000", "--warmup", "0"});
  const int id = testbed.id();
  wait_for_agents();
  kill(id, SIGKILL);
  EXPECT_EQ(testbed.wait(), 128 + SIGKILL);
  fs::remove_all(own_ / "tmp");
  Process next = start({"--requests", "2"});
  expect_end(next);
  expect_nothing_left(id);
}

}  // namespace
}  // namespace cleave::tools
