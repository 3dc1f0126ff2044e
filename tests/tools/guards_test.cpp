// What would be lost, what does not belong together, and what answers nonsense: said, not done.

#include <nlohmann/json.hpp>

#include "model/config/hugging_face.hpp"
#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

std::string big_endian(std::uint32_t x) {
  return {static_cast<char>(x >> 24), static_cast<char>(x >> 16), static_cast<char>(x >> 8),
          static_cast<char>(x)};
}

/// 8x8 images in IDX whose brightness is their class, classes in turn.
void make_idx(const std::string& folder, const std::string& lead, std::uint32_t count) {
  std::mt19937 random(3);
  std::string images = big_endian(0x803) + big_endian(count) + big_endian(8) + big_endian(8);
  std::string labels = big_endian(0x801) + big_endian(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    labels += static_cast<char>(i % 3);
    for (int p = 0; p < 64; ++p) images += static_cast<char>(10 + 85 * (i % 3) + random() % 60);
  }
  write_text(folder + "/" + lead + "-images-idx3-ubyte", images);
  write_text(folder + "/" + lead + "-labels-idx1-ubyte", labels);
}

/// The teacher is random: the labels alone say what is right.
std::string calibrate_recipe(const std::string& rate, const std::string& validation = "60") {
  return "format = 1\nthreads = 1\n[data]\npath = \"data\"\nflip = false\nshift = 0\n"
         "validation = " +
         validation +
         "\n[joint]\nepochs = 5\nbatch = 20\nclip_norm = 0\nwarmup_epochs = 0\nlabels = 1\n"
         "soft_targets = 0\nfeatures = 0\nlearning_rate = " +
         rate + "\n";
}

std::string train_recipe(int seed) {
  return "format = 1\nthreads = 1\nseed = " + std::to_string(seed) + R"(
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

/// A teacher that is not random, its plan, a bundle that was never calibrated and one that was.
class Guards : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Scratch;
    const Scratch& s = *shared_;
    make_images(s / "data/train", 240, 1);
    make_images(s / "data/test", 30, 2);
    make_idx(s / "idx", "train", 240);
    make_idx(s / "idx", "t10k", 30);
    make_tiny_plan(s);
    for (const char* model : {"model", "other"}) {
      make_tiny_model(s, s / model, model[0]);
      auto config = model::read_config(s / model);
      config.random_weights = false;
      model::write_config(config, s / model);
    }
    write_text(s / "good.toml", calibrate_recipe("0.003"));
    write_text(s / "bad.toml", calibrate_recipe("30"));
    write_text(s / "blind.toml", calibrate_recipe("0.003", "0"));
    run({"decompose", s / "model", "--plan", s / "plan.json", "--fleet", s / "fleet.toml", "--out",
         s / "cut"});
    fs::copy(s / "cut", s / "calibrated", fs::copy_options::recursive);
    run({"calibrate", s / "calibrated", "--teacher", s / "model", "--data", s / "idx", "--recipe",
         s / "good.toml"});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static Ran run(const Words& words, int code = 0) {
    const Scratch log;
    auto ran = run_cleave(log, words);
    EXPECT_EQ(ran.code, code) << words[0] << ": " << ran.error << ran.out;
    return ran;
  }
  /// One line on standard error with all of `parts`, nothing else.
  static void expect_line(const Ran& ran, const Words& parts) {
    EXPECT_EQ(count_of(ran.error, "\n"), 1) << ran.error;
    for (const auto& part : parts) EXPECT_TRUE(contains(ran.error, part)) << ran.error;
  }
  std::string copy(const std::string& bundle) const {
    fs::copy(*shared_ / bundle, own_ / bundle, fs::copy_options::recursive);
    return own_ / bundle;
  }
  static std::string identity(const std::string& bundle) { return plan::Bundle(bundle).identity(); }

  static Scratch* shared_;
  Scratch own_;
};
Scratch* Guards::shared_ = nullptr;

TEST_F(Guards, DecomposeReplacesACalibratedBundleOnlyWithForce) {
  const Scratch& s = *shared_;
  const std::string bundle = copy("calibrated");
  const std::string before = identity(bundle);
  const Words words{"decompose", s / "model", "--plan", s / "plan.json", "--out", bundle};
  expect_line(run(words, 1),
              {"calibrated weights of plan 'default'", "calibration.jsonl", ".work", "--force"});
  Words dry = words;
  dry.emplace_back("--dry-run");
  run(dry, 1);
  EXPECT_EQ(identity(bundle), before);
  EXPECT_TRUE(fs::exists(bundle + "/calibration.jsonl"));
  Words forced = words;
  forced.emplace_back("--force");
  run(forced);
  EXPECT_NE(identity(bundle), before);
  EXPECT_FALSE(fs::exists(bundle + "/calibration.jsonl"));
  run(words);  // nothing is lost
}

TEST_F(Guards, DecomposeFailsWithForceAndTheOldBundleIsWhole) {
  const Scratch& s = *shared_;
  const std::string bundle = copy("calibrated");
  const std::string before = identity(bundle);
  write_text(own_ / "model/config.json", base::read_text(s / "model/config.json"));
  write_text(own_ / "model/model.safetensors", "broken");
  run({"decompose", own_ / "model", "--plan", s / "plan.json", "--out", bundle, "--force"}, 1);
  EXPECT_EQ(identity(bundle), before);
  EXPECT_NO_THROW(plan::Bundle(bundle).verify(""));
  EXPECT_TRUE(fs::exists(bundle + "/calibration.jsonl"));
}

TEST_F(Guards, DecomposeEndsWithWhatToTypeNext) {
  const Scratch& s = *shared_;
  const std::string out = own_ / "a bundle";
  const auto ran = run({"decompose", s / "model", "--plan", s / "plan.json", "--data", s / "data",
                        "--rows", "20", "--out", out});
  const std::string next = "cleave calibrate '" + out + "' --teacher " + s / "model" + " --data " +
                           s / "data" + " --recipe recipes/fashion-mnist/quick.toml";
  EXPECT_EQ(ran.out.substr(ran.out.rfind("next:")), "next:\n  " + next + "\n");
  const auto json = nlohmann::json::parse(
      run({"decompose", s / "model", "--plan", s / "plan.json", "--out", out, "--format", "json"})
          .out);
  EXPECT_TRUE(contains(json.at("next"), "--data DATA"));
  run({"plan", s / "model", "--fleet", s / "fleet.toml", "--strategy", "local", "--out",
       own_ / "local.json"});
  const auto local =
      run({"decompose", s / "model", "--plan", own_ / "local.json", "--out", own_ / "local"});
  EXPECT_FALSE(contains(local.out, "calibrate")) << local.out;
  const auto answer =
      run({"infer", own_ / "local", s / "data/test/low", "--local", "--format", "json"});
  EXPECT_EQ(answer.error, "");
  EXPECT_TRUE(contains(answer.out, "\"weights\":\"exact\"")) << answer.out;
}

TEST_F(Guards, DecomposeSaysWhetherItFitted) {
  const Scratch& s = *shared_;
  const auto cut = [&](const Words& more) {
    Words words{"decompose", s / "model", "--plan", s / "plan.json", "--out", own_ / "out"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words).out;
  };
  const Words data{"--data", s / "data", "--rows", "20"};
  const auto with_data = [&](Words more) {
    more.insert(more.end(), data.begin(), data.end());
    return cut(more);
  };
  EXPECT_TRUE(contains(cut({}), "parts were cut and not fitted: that needs --data"));
  EXPECT_TRUE(contains(with_data({"--fit", "none"}), "parts were cut and not fitted\n"));
  for (const Words& more :
       {Words{}, Words{"--fit", "parts"}, Words{"--fit", "heads"}, Words{"--stream", "components"}})
    EXPECT_TRUE(contains(with_data(more), "fitted to the teacher's activations on "));
  const auto answer =
      run({"infer", own_ / "out", s / "data/test/low", "--local", "--format", "json"});
  expect_line(answer, {"warning: ", "was fitted and never calibrated", "cleave calibrate"});
  EXPECT_TRUE(contains(answer.out, "\"weights\":\"fitted, not calibrated\"")) << answer.out;
  const auto json = nlohmann::json::parse(with_data({"--fit-rows", "7", "--format", "json"}));
  EXPECT_EQ(json.at("fitted_rows"), 7);
  EXPECT_TRUE(contains(json.at("remarks").dump(), "few_rows")) << json.at("remarks");
}

TEST_F(Guards, DecomposeRefusesTheFleetOfAnotherPlan) {
  const Scratch& s = *shared_;
  std::string fleet = tiny_fleet();
  fleet.replace(fleet.find("\"cam\""), 5, "\"cat\"");
  write_text(own_ / "fleet.toml", fleet);
  expect_line(run({"decompose", s / "model", "--plan", s / "plan.json", "--fleet",
                   own_ / "fleet.toml", "--out", own_ / "bundle"},
                  1),
              {"fleet.toml] device: saw none named 'cam'"});
  EXPECT_FALSE(fs::exists(own_ / "bundle"));
}

TEST_F(Guards, AnotherTeacherIsRefusedByItsDigest) {
  const Scratch& s = *shared_;
  const std::string bundle = copy("calibrated");
  const Words digests{"teacher: saw digest " + plan::digest_model(s / "other").substr(0, 12),
                      "was cut from " + plan::digest_model(s / "model").substr(0, 12)};
  expect_line(run({"evaluate", bundle, "--teacher", s / "other", "--data", s / "data"}, 1),
              digests);
  EXPECT_FALSE(fs::exists(bundle + "/measured.json"));
  expect_line(run({"evaluate", s / "model", "--teacher", s / "other", "--data", s / "data"}, 2),
              {"--teacher", "needs a bundle"});
  expect_line(run({"calibrate", bundle, "--teacher", s / "other", "--data", s / "data", "--recipe",
                   s / "good.toml"},
                  1),
              digests);
  Process::Options options;
  options.words = {CLEAVE_TESTBED, bundle, "--fleet", s / "fleet.toml", "--original", s / "other"};
  options.log = own_ / "testbed.log";
  EXPECT_EQ(Process(options).wait(), 1);
  for (const auto& part : digests) EXPECT_TRUE(contains(base::read_text(options.log), part));
}

TEST_F(Guards, ABundleThatWasNeverCalibratedSaysSoOnce) {
  const Scratch& s = *shared_;
  const Words warning{"warning: ", "was never calibrated", "cleave calibrate"};
  const auto json = run({"infer", s / "cut", s / "data/test", "--local", "--format", "json"});
  expect_line(json, warning);
  EXPECT_EQ(count_of(json.out, "\"weights\":\"not calibrated\""), 30);
  expect_line(run({"bench", s / "cut", "--local", "--requests", "2", "--warmup", "0"}), warning);
  const auto bench = nlohmann::json::parse(
      run({"bench", s / "cut", "--local", "--requests", "2", "--warmup", "0", "--format", "json"})
          .out);
  EXPECT_EQ(bench.at("weights"), "not calibrated");
  EXPECT_EQ(run({"infer", s / "calibrated", s / "data/test/low", "--local"}).error, "");
  EXPECT_TRUE(contains(run({"inspect", s / "cut"}).out, "weights: not calibrated"));
  EXPECT_TRUE(contains(run({"inspect", s / "calibrated"}).out, "weights: calibrated"));
}

TEST_F(Guards, AgentsAndTheServerWarnAndTheServersClientsToo) {
  const Scratch& s = *shared_;
  // An agent has manifest, plans and its part.
  for (const auto& device : tiny_devices) {
    const std::string part = "/parts/default/" + device;
    fs::create_directories(own_ / "alone/parts/default");
    fs::copy(s / "cut" + part, own_ / "alone" + part, fs::copy_options::recursive);
  }
  fs::copy(s / "cut/plans", own_ / "alone/plans", fs::copy_options::recursive);
  fs::copy(s / "cut/manifest.json", own_ / "alone/manifest.json");
  const auto agents = start_agents(own_ / "alone", own_);
  const auto [server, address] = start_server(s / "cut", own_);
  for (const char* log : {"hub.log", "cam.log", "door.log", "serve.log"})
    EXPECT_EQ(count_of(base::read_text(own_ / log), "was never calibrated"), 1) << log;
  const auto via = run({"infer", "--via", address, s / "data/test/low", "--format", "json"});
  expect_line(via, {"warning: " + address, "was never calibrated"});
  EXPECT_TRUE(contains(via.out, "\"weights\":\"not calibrated\"")) << via.out;
  Process::Options options;
  options.words = {CLEAVE_PROGRAM, "agent", s / "calibrated", "--device", "hub",
                   "--format",     "json"};
  options.log = own_ / "json.log";
  Process agent(options);
  const auto said = nlohmann::json::parse(agent.read_line(std::chrono::seconds(30)));
  EXPECT_EQ(said.at("weights"), "calibrated");
  kill(agent.id(), SIGTERM);
  agent.wait();
  EXPECT_FALSE(contains(base::read_text(own_ / "json.log"), "warning"));
}

TEST_F(Guards, AnInterruptedCalibrationIsSaid) {
  const Scratch& s = *shared_;
  const std::string bundle = copy("cut");
  plan::write_calibration(bundle, "default", plan::CalibrationState::unfinished);
  expect_line(run({"infer", bundle, s / "data/test/low", "--local"}),
              {"warning: ", "unfinished", "the same `cleave calibrate`"});
}

TEST_F(Guards, RandomWeightsAreSaid) {
  const Scratch& s = *shared_;
  make_tiny_model(own_, own_ / "random");
  const auto ran = run({"infer", own_ / "random", s / "data/test/low", "--format", "json"});
  expect_line(ran, {"warning: ", "random weights"});
  EXPECT_TRUE(contains(ran.out, "\"weights\":\"random\"")) << ran.out;
}

TEST_F(Guards, CalibrateThatEndsWorseKeepsTheBundleAndExitsWith3) {
  const Scratch& s = *shared_;
  const std::string bundle = copy("calibrated");
  const std::string before = identity(bundle);
  const Words words{"calibrate", bundle,    "--teacher", s / "model",
                    "--data",    s / "idx", "--recipe",  s / "bad.toml"};
  const auto ran = run(words, 3);
  EXPECT_TRUE(contains(ran.out, "fused before the first step ")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "it ended worse than it began: the bundle keeps its weights"))
      << ran.out;
  EXPECT_EQ(identity(bundle), before);
  Words in_json = words;
  in_json.insert(in_json.end(), {"--format", "json"});
  const auto json = nlohmann::json::parse(run(in_json, 3).out);
  EXPECT_EQ(json.at("rejected"), true);
  EXPECT_LT(json.at("fused"), json.at("start"));
  EXPECT_EQ(identity(bundle), before);
}

TEST_F(Guards, CalibrateRefusesADamagedFileOfItsWork) {
  const Scratch& s = *shared_;
  for (const std::string name : {"checkpoint", "teacher-view-0"}) {
    const std::string bundle = copy("calibrated");
    const std::string before = identity(bundle), file = bundle + "/.work/" + name + ".safetensors";
    std::string bytes = base::read_text(file);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    write_text(file, bytes);
    const auto ran = run({"calibrate", bundle, "--teacher", s / "model", "--data", s / "idx",
                          "--recipe", s / "good.toml"},
                         1);
    expect_line(ran, {"[" + file + "] ", "damaged", "needs to be deleted"});
    EXPECT_EQ(identity(bundle), before);
    EXPECT_EQ(base::read_text(file), bytes);
    fs::remove_all(bundle);
  }
}

TEST_F(Guards, CalibrateWithoutAValidationSplitSaysUnknown) {
  const Scratch& s = *shared_;
  const std::string bundle = copy("cut");
  const Words words{"calibrate", bundle,     "--teacher", s / "model",
                    "--data",    s / "data", "--recipe",  s / "blind.toml"};
  EXPECT_TRUE(contains(run(words).out, "is unknown: there is no validation split"));
  Words in_json = words;
  in_json.insert(in_json.end(), {"--format", "json"});
  const auto json = nlohmann::json::parse(run(in_json).out);
  EXPECT_TRUE(json.at("rejected").is_null() && json.at("start").is_null()) << json;
}

TEST_F(Guards, TrainReplacesAnothersModelOnlyWithForce) {
  const Scratch& s = *shared_;
  write_text(own_ / "one.toml", train_recipe(1));
  write_text(own_ / "two.toml", train_recipe(2));
  const auto train = [&](const std::string& recipe, int code, const Words& more = {}) {
    Words words{"train", own_ / recipe, "--data", s / "data", "--out", own_ / "model"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words, code);
  };
  train("one.toml", 0);
  const std::string weights = base::read_text(own_ / "model/model.safetensors");
  train("one.toml", 0);
  expect_line(train("two.toml", 1), {"another recipe", "the model in ", "--force"});
  EXPECT_EQ(base::read_text(own_ / "model/model.safetensors"), weights);
  train("two.toml", 0, {"--force"});
  EXPECT_NE(base::read_text(own_ / "model/model.safetensors"), weights);
  expect_line(run({"train", own_ / "one.toml", "--data", s / "data", "--out", s / "calibrated"}, 1),
              {"is a bundle"});
}

TEST_F(Guards, AFileOfAnotherKindIsNotWrittenOver) {
  const Scratch& s = *shared_;
  const std::string fleet = own_ / "fleet.toml", text = tiny_fleet();
  const Words ask{"bench", s / "model", "--requests", "1", "--warmup", "0"};
  const auto with = [](Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  for (const auto& [words, kind] :
       {std::pair(Words{"plan", s / "model", "--fleet", fleet, "--out", fleet}, "plan"),
        std::pair(Words{"profile", "--like", s / "model", "--out", fleet}, "profile"),
        std::pair(Words{"simulate", s / "plan.json", "--fleet", fleet, "--trace", fleet}, "trace"),
        std::pair(with(ask, {"--csv", fleet}), "table as CSV"),
        std::pair(Words{"evaluate", s / "model", "--data", s / "data", "--csv", fleet},
                  "table as CSV")}) {
    write_text(fleet, text);
    expect_line(run(words, 1), {"fleet.toml] exists and is no " + std::string(kind)});
    EXPECT_EQ(base::read_text(fleet), text);
  }
  for (int i = 0; i < 2; ++i) {  // its own kind it replaces
    run({"plan", s / "model", "--fleet", fleet, "--max-part-share", "0.8", "--out",
         own_ / "plan.json"});
    run({"simulate", own_ / "plan.json", "--fleet", fleet, "--trace", own_ / "trace.json"});
    run({"profile", "--like", s / "model", "--max-time", "0.2 s", "--out", own_ / "profile.json"});
    run(with(ask, {"--csv", own_ / "table.csv"}));
  }
}

}  // namespace
}  // namespace cleave::tools
