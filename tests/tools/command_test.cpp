// Every command by itself, as a person calls it: what it prints, what it writes, how it ends.

#include <algorithm>
#include <arpa/inet.h>
#include <chrono>
#include <map>
#include <memory>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/profile.hpp"
#include "tests/tools/command_line.hpp"
#include "tools/commands/commands.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

int break_down(const Args&) {
  TORCH_CHECK(false, "broken");
  return 0;
}

TEST(RunCommand, TheWholeErrorIsShownWhereAskedFor) {
  const Command command{"demo", "", {}, {"verbose"}, "cleave demo", break_down};
  const auto says_all = [&command](const Words& words) {
    testing::internal::CaptureStderr();
    EXPECT_EQ(run_command("cleave", command, words), exit_failed);
    const std::string error = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(contains(error, "broken")) << error;
    return contains(error, "Exception raised from");
  };
  EXPECT_FALSE(says_all({}));
  EXPECT_TRUE(says_all({"--verbose"}));
  setenv("CLEAVE_VERBOSE", "1", 1);
  EXPECT_TRUE(says_all({}));
  EXPECT_FALSE(says_all({"--verbose=false"}));
  unsetenv("CLEAVE_VERBOSE");
}

TEST(TokenizeCommand, OpensSentencePieceBesideLibtorch) {
  const Scratch scratch;
  write_text(scratch / "text.txt", "small devices, <s>\n");
  const auto ran = run_cleave(
      scratch,
      {"tokenize", std::string(CLEAVE_SOURCE_DIR) + "/tests/goldens/tokenizers/sentence_piece",
       scratch / "text.txt", "--format", "json"});
  for (const char* reason : {"under a sanitizer", "install libsentencepiece-dev"})
    if (ran.code == 1 && contains(ran.error, reason)) GTEST_SKIP() << ran.error;
  ASSERT_EQ(ran.code, 0) << ran.error;
  EXPECT_EQ(ran.error, "");
  const auto json = nlohmann::json::parse(ran.out);
  EXPECT_EQ(json.at("text"), "small devices, ") << "what is special is left out";
  EXPECT_EQ(json.at("ids").at(0), 1);
  EXPECT_EQ(json.at("ids").at(1), 264);
  EXPECT_EQ(json.at("ids").back(), 1);
}

TEST(TokenizeCommand, DropsAByteOrderMark) {
  const Scratch scratch;
  const std::string folder = std::string(CLEAVE_SOURCE_DIR) + "/tests/goldens/tokenizers/byte_pair",
                    mark = "\xEF\xBB\xBF";
  write_text(scratch / "plain.txt", "small\nsmall\n");
  write_text(scratch / "marked.txt", mark + "small\nsmall\n");
  const auto plain = run_cleave(scratch, {"tokenize", folder, scratch / "plain.txt"});
  ASSERT_EQ(plain.code, 0) << plain.error;
  EXPECT_EQ(run_cleave(scratch, {"tokenize", folder, scratch / "marked.txt"}).out, plain.out);
  Process::Options options;
  options.words = {
      "/bin/sh", "-c",
      "'" CLEAVE_PROGRAM "' tokenize '" + folder + "' < '" + (scratch / "marked.txt") + "'"};
  Process piped(options);
  EXPECT_EQ(piped.read_all(), plain.out);
  EXPECT_EQ(piped.wait(), 0);
  write_text(scratch / "broken.txt", mark + "sm\xFFll\n");
  const auto broken = run_cleave(scratch, {"tokenize", folder, scratch / "broken.txt"});
  EXPECT_TRUE(contains(broken.error, "broken.txt] byte 5: is no valid UTF-8")) << broken.error;
}

/// A recipe that trains a tiny model in a moment.
std::string train_recipe(const std::string& seed_line) {
  return "format = 1\nthreads = 1\n" + seed_line + R"(
[data]
path = "data"
flip = false
shift = 0
[model]
width = 16
layers = 1
heads = 2
patch = 4
image = 8
channels = 1
classes = 3
labels = ["low", "middle", "high"]
[schedule]
epochs = 2
batch = 20
)";
}

std::string calibrate_recipe() {
  return "format = 1\nseed = 7\n[data]\npath = \"data\"\n[joint]\nepochs = 2\nbatch = 20\n";
}

/// What can be cut in enough ways for a profile.
std::string config_with_many_heads() {
  auto config = nlohmann::json::parse(tiny_config());
  config["hidden_size"] = 64;
  config["num_attention_heads"] = 8;
  config["intermediate_size"] = 128;
  return config.dump();
}

/// A tiny model, a fleet, images, a plan and an uncalibrated bundle, made once for all tests.
class Commands : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    const Scratch& s = *shared_;
    make_tiny_model(s, s / "model");
    write_text(s / "heads.json", config_with_many_heads());
    write_text(s / "fleet.toml", tiny_fleet());
    make_images(s / "data/train", 60, 1);
    make_images(s / "data/test", 12, 2);
    write_text(s / "seven.toml", train_recipe("seed = 7"));
    write_text(s / "one.toml", train_recipe("seed = 1"));
    write_text(s / "calibrate.toml", calibrate_recipe());
    ran({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "decomposed",
         "--max-part-share", "0.8", "--accuracy-weight", "1000", "--out", s / "plan.json"});
    ran({"decompose", s / "model", "--plan", s / "plan.json", "--fleet", s / "fleet.toml", "--out",
         s / "bundle"});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static Ran ran(const Words& words, int code = 0) {
    const Scratch log;
    auto result = run_cleave(log, words);
    EXPECT_EQ(result.code, code) << words[0] << ": " << result.error << result.out;
    return result;
  }
  static std::string said(const Words& words, int code = 0) { return ran(words, code).out; }
  static nlohmann::json json_of(Words words, int code = 0) {
    words.insert(words.end(), {"--format", "json"});
    const std::string text = said(words, code);
    EXPECT_TRUE(nlohmann::json::accept(text)) << words[0] << ": " << text;
    return nlohmann::json::parse(text, nullptr, false);
  }
  std::unique_ptr<Process> start(const Words& words) {
    Process::Options options;
    options.words = words;
    options.words.insert(options.words.begin(), CLEAVE_PROGRAM);
    options.log = own_ / (words[0] + ".log");
    return std::make_unique<Process>(options);
  }
  /// The last word of the first line: where it listens.
  static std::string address_of(Process& process) {
    const std::string line = process.read_line(std::chrono::seconds(60));
    return line.substr(line.rfind(' ') + 1);
  }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* Commands::shared_ = nullptr;

TEST_F(Commands, BothProgramsSayTheirVersion) {
  const std::string whole = said({"--version"});
  EXPECT_EQ(whole.rfind("cleave ", 0), 0U) << whole;
  EXPECT_TRUE(contains(whole, "\nBLAS: ")) << whole;
  Process::Options options;
  options.words = {(fs::path(CLEAVE_PROGRAM).parent_path() / "cleave-agent").string(), "--version"};
  Process agent(options);
  const std::string version = agent.read_all();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(version.rfind("cleave-agent ", 0), 0U) << version;
}

TEST_F(Commands, TrainTellsEveryEpoch) {
  const std::string text = said({"train", *shared_ / "one.toml", "--out", own_ / "text"});
  EXPECT_TRUE(contains(text, "validation")) << text;
  EXPECT_TRUE(contains(text, "test accuracy")) << text;
  EXPECT_TRUE(fs::exists(own_ / "text/model.safetensors"));
  const auto json = json_of({"train", *shared_ / "one.toml", "--out", own_ / "json"});
  EXPECT_TRUE(json.at("finished").get<bool>());
  EXPECT_EQ(json.at("epochs").size(), 2U);
}

TEST_F(Commands, ARecipesSeedCountsUnlessAnotherIsGiven) {
  const Scratch& s = *shared_;
  const auto weights = [&](const std::string& recipe, const Words& more) {
    const std::string out = own_ / (recipe + std::to_string(more.size()));
    Words words{"train", s / recipe, "--out", out};
    words.insert(words.end(), more.begin(), more.end());
    ran(words);
    return base::read_text(out + "/model.safetensors");
  };
  const std::string seven = weights("seven.toml", {});
  EXPECT_EQ(seven, weights("one.toml", {"--seed", "7"}));
  EXPECT_NE(seven, weights("one.toml", {}));
  const Words calibrate{"calibrate", s / "bundle", "--recipe", s / "calibrate.toml", "--dry-run"};
  Words with_seed = calibrate;
  with_seed.insert(with_seed.end(), {"--seed", "1"});
  EXPECT_EQ(json_of(calibrate).at("seed"), 7);
  EXPECT_EQ(json_of(with_seed).at("seed"), 1);
}

TEST_F(Commands, SimulatePlaysThePlansOwnShape) {
  const Scratch& s = *shared_;
  ran({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "decomposed",
       "--max-part-share", "0.8", "--batch", "4", "--out", own_ / "plan.json"});
  const double predicted = plan::read_plan(own_ / "plan.json").prediction.latency_s;
  const Words simulate{"simulate", own_ / "plan.json", "--fleet", s / "fleet.toml"};
  EXPECT_NEAR(json_of(simulate).at("latency_s").get<double>(), predicted, 1e-9 * predicted);
  Words single = simulate;
  single.insert(single.end(), {"--batch", "1"});
  EXPECT_LT(json_of(single).at("latency_s").get<double>(), 0.99 * predicted);
}

TEST_F(Commands, SimulateDrawsAndTraces) {
  const Scratch& s = *shared_;
  const std::string text = said({"simulate", s / "plan.json", "--fleet", s / "fleet.toml",
                                 "--trace", own_ / "trace.json", "--verbose"});
  for (const char* part : {"hub", "cam", "door", "latency ", "bottleneck ", "wrote "})
    EXPECT_TRUE(contains(text, part)) << part << " is not in: " << text;
  EXPECT_EQ(count_of(text, "rank 0:"), 1) << text;
  const auto trace = nlohmann::json::parse(base::read_text(own_ / "trace.json"));
  EXPECT_FALSE(trace.at("traceEvents").empty());
}

TEST_F(Commands, BenchWritesItsTable) {
  const std::string text = said({"bench", *shared_ / "bundle", "--local", "--requests", "5",
                                 "--warmup", "1", "--csv", own_ / "bench.csv"});
  EXPECT_TRUE(contains(text, "images/s")) << text;
  const std::string csv = base::read_text(own_ / "bench.csv");
  EXPECT_EQ(csv.rfind("what,median,MAD,p90,p99,predicted,requests\nlatency,", 0), 0U) << csv;
  EXPECT_TRUE(contains(csv, "\ncompute cam,")) << csv;
}

TEST_F(Commands, BenchMeasuresKernelsBesideTheMachinesLimits) {
  const Words ask{"bench", "--kernels", "--requests", "1"};
  Words json_too = ask;
  json_too.insert(json_too.end(), {"--format", "json", "--csv", own_ / "kernels.csv"});
  const auto json = json_of(json_too);
  EXPECT_GT(json.at("limits").at("read_bytes_per_s").get<double>(), 1e8);
  ASSERT_FALSE(json.at("kernels").empty());
  for (const auto& kernel : json.at("kernels")) {
    EXPECT_GT(kernel.at("median_s").get<double>(), 0) << kernel;
    EXPECT_GT(kernel.at("share_of_limit").get<double>(), 0) << kernel;
  }
  const std::string csv = base::read_text(own_ / "kernels.csv");
  EXPECT_EQ(csv.rfind("kernel,shape,format,median,", 0), 0U) << csv;
  Words with_bundle = ask;
  with_bundle.push_back(*shared_ / "bundle");
  const auto refused = run_cleave(own_, with_bundle);
  EXPECT_EQ(refused.code, 2);
  EXPECT_TRUE(contains(refused.error, "[--kernels] saw a bundle or model too, needs none"));
}

TEST_F(Commands, EvaluateWritesItsTable) {
  const Scratch& s = *shared_;
  const std::string text = said({"evaluate", s / "bundle", "--teacher", s / "model", "--data",
                                 s / "data", "--csv", own_ / "accuracy.csv"});
  EXPECT_TRUE(contains(text, "12 rows of the test split (" + (s / "data/test") + ")")) << text;
  const std::string csv = base::read_text(own_ / "accuracy.csv");
  EXPECT_EQ(csv.rfind("what,accuracy,against teacher\nteacher,", 0), 0U) << csv;
  EXPECT_TRUE(contains(csv, "\nwithout cam,")) << csv;
}

TEST_F(Commands, EvaluateSaysWhatItJudgedAndWhatItPassedOver) {
  const Scratch& s = *shared_;
  fs::copy(s / "data", own_ / "data", fs::copy_options::recursive);
  fs::rename(own_ / "data/test", own_ / "data/val");
  const Words evaluate{"evaluate", s / "model", "--data", own_ / "data"};
  auto json = json_of(evaluate);
  EXPECT_EQ(json.at("split"), "test");
  EXPECT_EQ(json.at("data"), own_ / "data/val");
  EXPECT_TRUE(json.at("remarks").empty());
  fs::copy(s / "data/test", own_ / "data/test", fs::copy_options::recursive);
  write_text(own_ / "data/test/low/scan.tiff", "");
  const auto both = ran(evaluate);
  EXPECT_TRUE(contains(both.error, "test/ is the test split; not read: val\n")) << both.error;
  EXPECT_TRUE(contains(both.error, "1 file is passed over: not of a kind that is read (.tiff: 1)"))
      << both.error;
  json = json_of(evaluate);
  ASSERT_EQ(json.at("remarks").size(), 2U);
  EXPECT_EQ(json.at("remarks").at(1).at("what"), "other_files");
  EXPECT_EQ(json.at("remarks").at(1).at("count"), 1);
  EXPECT_EQ(json.at("remarks").at(1).at("warning"), false);
  // An unknown class is none of those that the model knows.
  fs::rename(own_ / "data/test/low", own_ / "data/test/lower");
  const auto refused = ran(evaluate, 1);
  EXPECT_TRUE(contains(refused.error, "class: saw 'lower', which is none of the model's labels"))
      << refused.error;
  EXPECT_EQ(count_of(refused.error, "\n"), 1) << refused.error;
}

TEST_F(Commands, InferSaysWhichFilesItPassesOver) {
  const Scratch& s = *shared_;
  fs::copy(s / "data/test/low", own_ / "pictures");
  write_text(own_ / "pictures/a.tiff", "");
  const auto answered = ran({"infer", s / "model", own_ / "pictures"});
  EXPECT_EQ(count_of(answered.out, ".png: "), 4) << answered.out;
  EXPECT_TRUE(contains(answered.error, "/pictures] 1 file is passed over")) << answered.error;
}

TEST_F(Commands, TrainKeepsTheFoldersNamesAndWarnsOfWhatItNeverSees) {
  const Scratch& s = *shared_;
  std::string recipe = train_recipe("seed = 1");
  recipe.replace(recipe.find("labels = "), recipe.find("[schedule]") - recipe.find("labels = "),
                 "");
  recipe.replace(recipe.find("path = \"data\""), 13,
                 "path = \"" + (s / "data") + "\"\nvalidation = 20\nsplit = \"last\"");
  write_text(own_ / "recipe.toml", recipe);
  const auto told = ran({"train", own_ / "recipe.toml", "--out", own_ / "text"});
  EXPECT_TRUE(contains(told.error, "warning: [" + (s / "data/train") +
                                       "] training never sees 1 of 3 classes: middle\n"))
      << told.error;
  const auto json = json_of({"train", own_ / "recipe.toml", "--out", own_ / "json"});
  EXPECT_EQ(json.at("remarks").at(0).at("what"), "unseen_classes");
  EXPECT_EQ(json.at("remarks").at(0).at("warning"), true);
  const auto config = nlohmann::json::parse(base::read_text(own_ / "text/config.json"));
  EXPECT_EQ(config.at("id2label").at("1"), "low");
  EXPECT_EQ(config.at("cleave").at("held_out").at("count"), 20);
}

TEST_F(Commands, InferPrintsTheBestClassesAndTheTimes) {
  const Scratch& s = *shared_;
  const Words ask{"infer", s / "bundle", s / "data/test/low/0.png", "--local", "--top",
                  "2",     "--times"};
  const std::string text = said(ask);
  EXPECT_EQ(count_of(text.substr(0, text.find('\n')), " %"), 2) << text;
  EXPECT_TRUE(contains(text, "round trip")) << text;
  const auto json = json_of(ask);
  ASSERT_EQ(json.at("classes").size(), 2U);
  EXPECT_GE(json.at("classes")[0].at("share"), json.at("classes")[1].at("share"));
  ASSERT_EQ(json.at("times").at("devices").size(), 3U);
  for (const auto& device : json.at("times").at("devices"))
    EXPECT_GT(device.at("compute_s").get<double>(), 0) << device;
}

TEST_F(Commands, InferPrintsTheTimesOfAServersAnswer) {
  const Scratch& s = *shared_;
  const auto agent = start({"agent", s / "bundle", "--device", "hub"});
  plan::write_hosts({{"hub", address_of(*agent)}, {"cam", "127.0.0.1:1"}, {"door", "127.0.0.1:1"}},
                    own_ / "hosts.toml");
  const auto server = start({"serve", s / "bundle", "--hosts", own_ / "hosts.toml"});
  const Words ask{"infer", "--via", address_of(*server), s / "data/test/low/0.png", "--times"};
  for (int i = 0; i < 100 && run_cleave(own_, ask).code != 0; ++i)  // until the agent is joined
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const std::string text = said(ask);
  EXPECT_TRUE(contains(text, "round trip")) << text;
  const auto times = json_of(ask).at("times");
  EXPECT_EQ(times.at("devices").size(), 3U) << times;
  EXPECT_GE(times.at("fuse_s").get<double>(), 0);
}

TEST_F(Commands, WithoutADeviceIsNoAnswerWhereAllAreNeeded) {
  const Scratch& s = *shared_;
  const Words ask{"infer",    s / "bundle", s / "data/test/low/0.png",
                  "--local",  "--without",  "cam",
                  "--format", "json"};
  EXPECT_TRUE(contains(said(ask), "\"missing\":[\"cam\"]"));
  Words all = ask;
  all.emplace_back("--require-all");
  EXPECT_TRUE(contains(said(all, 3), "'cam' is needed"));
  Words none = ask;
  *std::find(none.begin(), none.end(), "cam") = "hub,door,cam";
  EXPECT_TRUE(contains(ran(none, 2).error, "[--without] saw every device"));
}

TEST_F(Commands, DevicesWithoutAnAddressAreLeftOutOfTheHosts) {
  const Scratch& s = *shared_;
  std::string fleet = tiny_fleet();
  const std::string address = "address = \"127.0.0.1:7102\"\n";
  fleet.erase(fleet.find(address), address.size());
  write_text(own_ / "fleet.toml", fleet);
  ran({"decompose", s / "model", "--plan", s / "plan.json", "--fleet", own_ / "fleet.toml", "--out",
       own_ / "bundle"});
  const auto hosts = plan::read_hosts(own_ / "bundle/hosts.toml");
  EXPECT_EQ(hosts.size(), 2U);
  EXPECT_EQ(hosts.count("cam"), 0U);
}

TEST_F(Commands, InspectDrawsWhoKeepsWhat) {
  const std::string text = said({"inspect", *shared_ / "bundle", "--columns", "60"});
  EXPECT_TRUE(contains(text, "who keeps what")) << text;
  EXPECT_EQ(count_of(text, "  channels "), 3) << text;
  EXPECT_EQ(count_of(text, "  heads "), 3 + 1) << text;  // the table of parts has a column of them
  EXPECT_EQ(count_of(text, "  MLP "), 3 + 1) << text;
  EXPECT_TRUE(contains(text, "█")) << text;
  const auto json = json_of({"inspect", *shared_ / "bundle"});
  for (const auto& [device, part] : json.at("parts").items()) {
    EXPECT_EQ(part.at("keeps").at("channels").size(), part.at("width").get<std::size_t>());
    EXPECT_EQ(part.at("keeps").at("layers").size(), part.at("layers").size());
  }
}

TEST_F(Commands, ProfileMeasuresThisMachine) {
  const std::string text = said({"profile", "--like", *shared_ / "heads.json", "--max-time",
                                 "0.1 s", "--out", own_ / "here.json"});
  EXPECT_TRUE(contains(text, "GFLOP/s")) << text;
  EXPECT_FALSE(plan::read_profile(own_ / "here.json").samples.empty());
}

/// What lies below a folder: path -> size and time of the last change.
std::map<std::string, std::string> tree_of(const fs::path& folder) {
  std::map<std::string, std::string> tree;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      tree[entry.path().string()] =
          std::to_string(entry.file_size()) + " " +
          std::to_string(entry.last_write_time().time_since_epoch().count());
  return tree;
}

TEST_F(Commands, DryRunsWriteNothing) {
  const Scratch& s = *shared_;
  const auto before = tree_of(s.path());
  for (Words words :
       {Words{"plan", s / "model", "--fleet", s / "fleet.toml", "--max-part-share", "0.8", "--out",
              s / "new/plan.json"},
        {"decompose", s / "model", "--plan", s / "plan.json", "--fleet", s / "fleet.toml", "--out",
         s / "new/bundle"},
        {"init", "--config", "vit-base", "--out", s / "new/vit"},
        {"train", s / "one.toml", "--out", s / "new/model"},
        {"calibrate", s / "bundle", "--teacher", s / "model", "--recipe", s / "calibrate.toml"},
        {"evaluate", s / "bundle", "--data", s / "data", "--csv", s / "a.csv"},
        {"profile", "--like", s / "heads.json", "--max-time", "0.1 s", "--out", s / "here.json"},
        {"simulate", s / "plan.json", "--fleet", s / "fleet.toml", "--trace", s / "trace.json"},
        {"bench", s / "bundle", "--local", "--requests", "2", "--warmup", "0", "--csv",
         s / "b.csv"}}) {
    words.emplace_back("--dry-run");
    ran(words);
    EXPECT_EQ(tree_of(s.path()), before) << words[0];
  }
  EXPECT_FALSE(fs::exists(s / "new"));
}

TEST_F(Commands, DryRunsSpeakJson) {
  const Scratch& s = *shared_;
  const auto train = json_of({"train", s / "one.toml", "--out", s / "new", "--dry-run"});
  EXPECT_EQ(train.at("epochs"), 2);
  const auto calibrate =
      json_of({"calibrate", s / "bundle", "--recipe", s / "calibrate.toml", "--dry-run"});
  EXPECT_EQ(calibrate.at("epochs").at("joint"), 2);
  const auto decompose = json_of(
      {"decompose", s / "model", "--plan", s / "plan.json", "--out", s / "new", "--dry-run"});
  EXPECT_EQ(decompose.at("plans").at(0).at("strategy"), "decomposed");
  for (const auto& json : {train, calibrate, decompose})
    EXPECT_FALSE(json.at("written").get<bool>()) << json;
}

TEST_F(Commands, BenchSaysThatItWasStopped) {
  const auto bench = start({"bench", *shared_ / "bundle", "--local", "--requests", "10000000"});
  wait_until_it_heeds_signals(*bench);
  kill(bench->id(), SIGINT);
  EXPECT_TRUE(contains(bench->read_all(), "images/s"));
  EXPECT_EQ(bench->wait(), 1);
  const std::string error = base::read_text(own_ / "bench.log");
  EXPECT_TRUE(contains(error, "stopped after ")) << error;
}

/// Accepts on a port of its own and never answers.
class SilentPeer {
 public:
  SilentPeer() : listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address_;
    auto* const address = reinterpret_cast<sockaddr*>(&address_);
    if (bind(listener_, address, size) != 0 || listen(listener_, 8) != 0 ||
        getsockname(listener_, address, &size) != 0)
      throw std::runtime_error("cannot listen");
  }
  ~SilentPeer() { close(listener_); }
  SilentPeer(const SilentPeer&) = delete;
  SilentPeer& operator=(const SilentPeer&) = delete;
  std::string address() const { return "127.0.0.1:" + std::to_string(ntohs(address_.sin_port)); }
  void wait_for_a_caller() const { close(accept(listener_, nullptr, nullptr)); }

 private:
  int listener_;
  sockaddr_in address_{};
};

TEST_F(Commands, ACommandThatOnlyWaitsEndsAtOnceWhenTold) {
  const Scratch& s = *shared_;
  const SilentPeer peer;
  plan::write_hosts({{"hub", peer.address()}, {"cam", peer.address()}, {"door", peer.address()}},
                    own_ / "hosts.toml");
  const auto infer = start({"infer", s / "bundle", s / "data/test/low/0.png", "--hosts",
                            own_ / "hosts.toml", "--join-timeout", "60 s"});
  peer.wait_for_a_caller();
  kill(infer->id(), SIGTERM);
  EXPECT_EQ(infer->wait(), 128 + SIGTERM);
}

}  // namespace
}  // namespace cleave::tools
