// A disk that is full for every file above 4 kB, by the limit on file sizes: no root is needed.

#include <algorithm>

#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;

/// Ten images a split in MNIST's layout, 8x8, of classes 0 to 2.
void make_idx(const std::string& folder) {
  for (const std::string lead : {"train", "t10k"}) {
    std::string images("\0\0\x08\x03\0\0\0\x0a\0\0\0\x08\0\0\0\x08", 16);
    std::string labels("\0\0\x08\x01\0\0\0\x0a", 8);
    for (int i = 0; i < 10; ++i) {
      images += std::string(64, static_cast<char>(40 + 20 * (i % 3)));
      labels += static_cast<char>(i % 3);
    }
    write_text(folder + "/" + lead + "-images-idx3-ubyte", images);
    write_text(folder + "/" + lead + "-labels-idx1-ubyte", labels);
  }
}

class FileLimit : public testing::Test {
 protected:
  void SetUp() override {
    make_tiny_model(s_, s_ / "model");
    write_text(s_ / "fleet.toml", tiny_fleet());
    run({"plan", s_ / "model", "--fleet", s_ / "fleet.toml", "--strategy", "decomposed",
         "--max-part-share", "0.8", "--accuracy-weight", "1000", "--out", s_ / "plan.json"});
  }

  void run(const std::vector<std::string>& words) {
    const auto ran = run_cleave(s_, words);
    ASSERT_EQ(ran.code, 0) << ran.error;
  }

  /// Fails unless the command ends with 1 and one line that names what it could not write.
  void expect_full(const std::vector<std::string>& words) {
    std::string line = std::string("trap '' XFSZ; ulimit -f 8; exec ") + CLEAVE_PROGRAM;
    for (const auto& word : words) line += " '" + word + "'";
    Process::Options options;
    options.words = {"/bin/sh", "-c", line};
    options.log = s_ / "stderr.txt";
    Process process(options);
    process.read_all();
    EXPECT_EQ(process.wait(), 1);
    const std::string said = base::read_text(options.log);
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    EXPECT_NE(said.find("cannot write"), std::string::npos) << said;
    EXPECT_NE(said.find("File too large"), std::string::npos) << said;
    fs::remove(options.log);
    for (const auto& entry : fs::recursive_directory_iterator(s_.path())) {
      const std::string name = entry.path().filename().string();
      EXPECT_EQ(name.find(".tmp-"), std::string::npos) << entry.path();
      EXPECT_EQ(name.find(".staging-"), std::string::npos) << entry.path();
    }
  }

  Scratch s_;
};

TEST_F(FileLimit, DecomposeLeavesNoBundle) {
  expect_full({"decompose", s_ / "model", "--plan", s_ / "plan.json", "--out", s_ / "bundle"});
  EXPECT_FALSE(fs::exists(s_ / "bundle"));
}

TEST_F(FileLimit, DecomposeLeavesTheOldBundle) {
  run({"decompose", s_ / "model", "--plan", s_ / "plan.json", "--out", s_ / "bundle"});
  const std::string before = plan::Bundle(s_ / "bundle").identity();
  write_text(s_ / "bundle/calibration.jsonl", "precious");
  expect_full(
      {"decompose", s_ / "model", "--plan", s_ / "plan.json", "--out", s_ / "bundle", "--force"});
  EXPECT_EQ(plan::Bundle(s_ / "bundle").identity(), before);
  EXPECT_NO_THROW(plan::Bundle(s_ / "bundle").verify(""));
  EXPECT_EQ(base::read_text(s_ / "bundle/calibration.jsonl"), "precious");
}

TEST_F(FileLimit, CalibrateLeavesTheBundleAndGoesOnLater) {
  make_idx(s_ / "data");
  write_text(s_ / "recipe.toml",
             "format = 1\n[data]\npath = \"data\"\nflip = false\nshift = 0\n[joint]\nepochs = "
             "1\nbatch = 5\n");
  run({"decompose", s_ / "model", "--plan", s_ / "plan.json", "--out", s_ / "bundle"});
  const std::string before = plan::Bundle(s_ / "bundle").identity();
  const std::vector<std::string> calibrate{
      "calibrate", s_ / "bundle", "--teacher",        s_ / "model", "--data",
      s_ / "data", "--recipe",    s_ / "recipe.toml", "--threads",  "1"};
  expect_full(calibrate);
  EXPECT_EQ(plan::Bundle(s_ / "bundle").identity(), before);
  EXPECT_NO_THROW(plan::Bundle(s_ / "bundle").verify(""));
  run(calibrate);
  EXPECT_NE(plan::Bundle(s_ / "bundle").identity(), before);
}

}  // namespace
}  // namespace cleave::tools
