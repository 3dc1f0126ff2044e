// Killed, or out of disk, wherever it hurts: what was there is whole, and nothing is left behind.

#include <cstring>
#include <sys/mount.h>

#include "optimizer/plan/bundle.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;
using namespace std::chrono_literals;

/// A teacher large enough that cutting it takes a while: D 256, 8 layers, 24 MB.
std::string slow_config() {
  return R"({"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 256, "num_hidden_layers": 8,
    "num_attention_heads": 4, "intermediate_size": 1024, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 32, "patch_size": 8,
    "num_channels": 1, "qkv_bias": true, "id2label": {"0": "low", "1": "middle", "2": "high"}})";
}

/// Files and folders of a process that did not come to its end.
std::vector<std::string> stagings(const fs::path& folder) {
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.find(".staging-") != std::string::npos || name.find(".tmp-") != std::string::npos)
      found.push_back(entry.path().string());
  }
  return found;
}

class Killed : public testing::Test {
 protected:
  void SetUp() override {
    write_text(s_ / "config/config.json", slow_config());
    write_text(s_ / "fleet.toml", tiny_fleet());
    run({"init", "--config", s_ / "config", "--out", s_ / "model"});
    run({"plan", s_ / "model", "--fleet", s_ / "fleet.toml", "--strategy", "decomposed",
         "--max-part-share", "0.8", "--accuracy-weight", "1000", "--out", s_ / "plan.json"});
  }
  Ran run(const Words& words, int code = 0) {
    auto ran = run_cleave(s_, words);
    EXPECT_EQ(ran.code, code) << words[0] << ": " << ran.error;
    return ran;
  }
  Words decompose(const std::string& out) const {
    return {"decompose", s_ / "model", "--plan", s_ / "plan.json", "--out", out, "--force"};
  }
  /// True: it was killed before it ended.
  bool run_and_kill(Words words, std::chrono::milliseconds after) {
    words.insert(words.begin(), CLEAVE_PROGRAM);
    Process::Options options;
    options.words = words;
    options.log = s_ / "killed.txt";
    Process process(options);
    std::this_thread::sleep_for(after);
    ::kill(process.id(), SIGKILL);
    return process.wait() == 128 + SIGKILL;
  }
  std::chrono::milliseconds duration_of(const Words& words) {
    const auto start = std::chrono::steady_clock::now();
    run(words);
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                                 start);
  }

  Scratch s_;
};

TEST_F(Killed, DecomposeLeavesNoBundleOrAWholeOne) {
  const auto whole = duration_of(decompose(s_ / "timed"));
  int kills = 0, stages = 0;
  // A machine that is busy at one time and not at another may need more of them.
  for (int i = 1; i <= 7 || ((kills < 3 || stages == 0) && i <= 70); ++i) {
    fs::remove_all(s_ / "bundle");
    kills += run_and_kill(decompose(s_ / "bundle"), whole * ((i - 1) % 7 + 5) / 12);
    stages += stagings(s_.path()).empty() ? 0 : 1;
    if (!fs::exists(s_ / "bundle")) continue;
    EXPECT_NO_THROW(plan::Bundle(s_ / "bundle").verify("")) << i;
  }
  EXPECT_GT(kills, 2);
  EXPECT_GT(stages, 0) << "no kill came while it wrote";
  run(decompose(s_ / "bundle"));
  EXPECT_EQ(stagings(s_.path()), std::vector<std::string>());
  EXPECT_NO_THROW(plan::Bundle(s_ / "bundle").verify(""));
}

TEST_F(Killed, DecomposeOverABundleLeavesTheOldOneOrTheNew) {
  const auto whole = duration_of(decompose(s_ / "bundle"));
  const std::string old = plan::Bundle(s_ / "bundle").identity();
  for (int i = 1; i <= 7; ++i) {
    run_and_kill(decompose(s_ / "bundle"), whole * (i + 4) / 12);
    const plan::Bundle bundle(s_ / "bundle");
    EXPECT_NO_THROW(bundle.verify("")) << i;
    EXPECT_EQ(bundle.identity(), old) << i;
  }
  run(decompose(s_ / "bundle"));
  EXPECT_EQ(stagings(s_.path()), std::vector<std::string>());
  EXPECT_FALSE(fs::exists(s_ / "bundle/.work"));
}

// The limit on file sizes kills (SIGXFSZ) in the middle of a write, where nobody heeds it.
TEST_F(Killed, AtTheLimitOnFileSizesToo) {
  for (const char* limit : {"1", "100", "1000", "3000"}) {
    std::string line = std::string("trap - XFSZ; ulimit -c 0; ulimit -f ") + limit + "; exec ";
    line += CLEAVE_PROGRAM;
    for (const auto& word : decompose(s_ / "bundle")) line += " '" + word + "'";
    Process::Options options;
    options.words = {"/bin/sh", "-c", line};
    options.log = s_ / "limit.txt";
    Process process(options);
    process.read_all();
    EXPECT_NE(process.wait(), 0) << limit;
    EXPECT_FALSE(fs::exists(s_ / "bundle")) << limit;
    fs::remove(s_ / "limit.txt");
  }
  run(decompose(s_ / "bundle"));
  EXPECT_EQ(stagings(s_.path()), std::vector<std::string>());
}

/// A file system of its own, of a size: needs root, and the right to mount.
class FullDisk : public Killed {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    fs::create_directories(disk());
    if (!mount_disk("64m", 0)) GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
    mounted_ = true;
    Killed::SetUp();
  }
  void TearDown() override {
    if (mounted_) ::umount2(disk().c_str(), MNT_DETACH);
  }
  bool mount_disk(const std::string& size, unsigned long flags) const {
    return ::mount("tmpfs", disk().c_str(), "tmpfs", flags, ("size=" + size).c_str()) == 0;
  }
  void resize(const std::string& size) const { ASSERT_TRUE(mount_disk(size, MS_REMOUNT)); }
  fs::path disk() const { return s_.path() / "disk"; }
  void expect_full(const Words& words) {
    const auto ran = run(words, 1);
    EXPECT_NE(ran.error.find("No space left on device"), std::string::npos) << ran.error;
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1) << ran.error;
    EXPECT_EQ(stagings(disk()), std::vector<std::string>());
  }

 private:
  bool mounted_ = false;
};

TEST_F(FullDisk, DecomposeSaysSoAndLeavesWhatWasThere) {
  const std::string out = (disk() / "bundle").string();
  for (const char* size : {"8k", "200k", "2m", "6m"}) {
    resize(size);
    expect_full(decompose(out));
    EXPECT_TRUE(fs::is_empty(disk())) << size;
  }
  resize("64m");
  run(decompose(out));
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(out))
    if (entry.is_regular_file()) bytes += entry.file_size();
  for (const std::uint64_t more : {100u, 1000u, 4000u}) {
    resize(std::to_string(bytes / 1024 + 200 + more) + "k");
    expect_full(decompose(out));
    EXPECT_NO_THROW(plan::Bundle(out).verify("")) << more;
  }
}

TEST_F(FullDisk, TrainSaysSoAndGoesOnWhereThereIsSpace) {
  make_images(s_ / "data/train", 60, 1);
  make_images(s_ / "data/test", 6, 2);
  write_text(s_ / "train.toml",
             "format = 1\nthreads = 1\n[data]\npath = \"data\"\nflip = false\nshift = "
             "0\nvalidation = 6\n[model]\nwidth = 16\nlayers = 1\nheads = 2\npatch = 4\nimage = "
             "8\nchannels = 1\nclasses = 3\n[schedule]\nepochs = 2\nbatch = 20\n");
  const Words train{"train", s_ / "train.toml", "--out", (disk() / "out").string()};
  for (const char* size : {"8k", "16k", "32k"}) {
    resize(size);
    expect_full(train);
    EXPECT_FALSE(fs::exists(disk() / "out/model.safetensors"));
  }
  resize("64m");
  run(train);
  EXPECT_TRUE(fs::exists(disk() / "out/model.safetensors"));
  EXPECT_EQ(stagings(disk()), std::vector<std::string>());
}

}  // namespace
}  // namespace cleave::tools
