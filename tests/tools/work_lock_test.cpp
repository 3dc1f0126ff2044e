// Two at work in one folder: the second is refused while the first lives, and not a moment longer.

#include "base/digest.hpp"
#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) found[entry.path().string()] = base::sha256_file(entry.path());
  return found;
}

class WorkLock : public testing::Test {
 protected:
  void SetUp() override { make_images(s_ / "data/train", 60, 1); }

  /// Never ends by itself.
  Words train() {
    make_images(s_ / "data/test", 6, 2);
    write_text(s_ / "train.toml",
               "format = 1\nthreads = 1\n[data]\npath = \"data\"\nflip = false\nshift = "
               "0\nvalidation = 6\n[model]\nwidth = 16\nlayers = 1\nheads = 2\npatch = 4\nimage = "
               "8\nchannels = 1\nclasses = 3\n[schedule]\nepochs = 100000\nbatch = 20\n");
    return {"train", s_ / "train.toml", "--out", s_ / "out"};
  }
  Words calibrate() {
    make_tiny_plan(s_);
    make_tiny_model(s_, s_ / "model");
    EXPECT_EQ(run_cleave(s_, decompose()).code, 0);
    write_text(s_ / "calibrate.toml",
               "format = 1\nthreads = 1\n[data]\npath = \"data\"\nflip = false\nshift = "
               "0\nvalidation = 6\n[joint]\nepochs = 100000\nbatch = 20\n");
    return {"calibrate", s_ / "out",  "--teacher", s_ / "model",
            "--data",    s_ / "data", "--recipe",  s_ / "calibrate.toml"};
  }
  Words decompose(const Words& more = {}) const {
    Words words{"decompose", s_ / "model", "--plan", s_ / "plan.json", "--out", s_ / "out"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  /// Started, and writing checkpoints.
  std::unique_ptr<Process> start(Words words, const std::string& log) {
    words.insert(words.begin(), CLEAVE_PROGRAM);
    Process::Options options;
    options.words = words;
    options.log = s_ / log;
    auto process = std::make_unique<Process>(options);
    const std::string own = std::to_string(process->id()) + " ";
    for (int i = 0; i < 1200 && process->is_running(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (fs::exists(s_ / "out/.work/lock") &&
          fs::exists(s_ / "out/.work/checkpoint.safetensors") &&
          base::read_text(s_ / "out/.work/lock").rfind(own, 0) == 0)
        return process;
    }
    ADD_FAILURE() << "did not begin: " << base::read_text(s_ / log);
    return process;
  }
  void expect_refused(const Words& words, pid_t holder) {
    const auto ran = run_cleave(s_, words);
    EXPECT_EQ(ran.code, 1) << ran.error;
    EXPECT_EQ(ran.error.substr(ran.error.find('[')),
              "[" + (s_ / "out") + "] is in use: saw process " + std::to_string(holder) +
                  " at work in it, needs it to end first\n");
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1) << ran.error;
  }
  /// As SIGKILL leaves it; the next has the lock at once.
  void expect_taken_after_a_kill(const Words& words, std::unique_ptr<Process> first) {
    ::kill(first->id(), SIGKILL);
    EXPECT_EQ(first->wait(), 128 + SIGKILL);
    EXPECT_TRUE(fs::exists(s_ / "out/.work/lock"));
    const auto next = start(words, "next.txt");
    ::kill(next->id(), SIGINT);
    next->wait();
    EXPECT_FALSE(fs::exists(s_ / "out/.work/lock"));
    EXPECT_TRUE(fs::exists(s_ / "out/.work/checkpoint.safetensors"));
  }

  Scratch s_;
};

TEST_F(WorkLock, TrainIsAloneInItsFolder) {
  const Words words = train();
  auto first = start(words, "first.txt");
  expect_refused(words, first->id());
  Words forced = words;
  forced.emplace_back("--force");
  expect_refused(forced, first->id());
  EXPECT_TRUE(first->is_running());
  expect_taken_after_a_kill(words, std::move(first));
}

TEST_F(WorkLock, CalibrateIsAloneInItsBundle) {
  const Words words = calibrate();
  auto first = start(words, "first.txt");
  ::kill(first->id(), SIGSTOP);  // so that what it writes is not taken for the others'
  const auto before = contents(s_ / "out");
  expect_refused(words, first->id());
  expect_refused(decompose({"--force"}), first->id());
  EXPECT_EQ(contents(s_ / "out"), before);
  ::kill(first->id(), SIGCONT);
  expect_taken_after_a_kill(words, std::move(first));
  EXPECT_EQ(run_cleave(s_, decompose({"--force"})).code, 0);
  EXPECT_FALSE(fs::exists(s_ / "out/.work"));
}

// Before there is anything to lose but the run.
TEST_F(WorkLock, ALockAloneIsNothingToLose) {
  calibrate();
  fs::create_directories(s_ / "out/.work");
  write_text(s_ / "out/.work/lock", "1 elsewhere\n");
  EXPECT_EQ(run_cleave(s_, decompose()).code, 0);
}

}  // namespace
}  // namespace cleave::tools
