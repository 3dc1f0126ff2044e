// Training and calibration by several processes, as a person starts them on several machines.

#include <cmath>
#include <memory>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "tests/tools/command_line.hpp"

namespace cleave::tools {
namespace {

using nlohmann::json;

/// Listens on a port of loopback that nobody else has.
class Listener {
 public:
  Listener() : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    listen(socket_, 1);
    socklen_t size = sizeof address;
    getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { close(socket_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  int port() const { return port_; }

 private:
  int socket_, port_ = 0;
};

int free_port() { return Listener().port(); }

class DataParallel : public testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 60; ++i) text += "one two buckle my shoe, three four open the door.\n";
    write_text(scratch_ / "data/rhyme.txt", text);
    write_recipe(3);
  }

  void write_recipe(int epochs) {
    write_text(
        scratch_ / "recipe.toml",
        "format = 1\ndropout = 0.1\n[data]\nformat = \"text\"\npath = \"data\"\nvalidation "
        "= 4\n[model]\nfamily = \"gpt2\"\ntokenizer = \"bytes\"\nwidth = 32\nlayers = "
        "2\nheads = 2\ncontext = 32\n[schedule]\nbatch = 8\nlearning_rate = 3e-3\nepochs = " +
            std::to_string(epochs) + "\n");
  }
  std::vector<std::string> train(const std::string& out) const {
    return {"train", scratch_ / "recipe.toml", "--out", scratch_ / out, "--threads", "1"};
  }

  std::vector<std::string> calibrate(const std::string& bundle) const {
    return {"calibrate", scratch_ / bundle,           "--teacher", scratch_ / "model",
            "--recipe",  scratch_ / "calibrate.toml", "--threads", "1"};
  }
  void copy(const std::string& from, const std::string& to) const {
    std::filesystem::copy(scratch_ / from, scratch_ / to, std::filesystem::copy_options::recursive);
  }

  /// Process `rank` of `size`, of cleave or another program; what it says on standard error is in
  /// rank<rank>.log.
  std::unique_ptr<Process> start(const std::vector<std::string>& words, int rank, int size,
                                 int port, const std::string& program = CLEAVE_PROGRAM) const {
    Process::Options options;
    options.words = {"/usr/bin/env",
                     "WORLD_SIZE=" + std::to_string(size),
                     "RANK=" + std::to_string(rank),
                     "MASTER_ADDR=127.0.0.1",
                     "MASTER_PORT=" + std::to_string(port),
                     program};
    options.words.insert(options.words.end(), words.begin(), words.end());
    options.log = log(rank);
    std::filesystem::remove(options.log);
    return std::make_unique<Process>(options);
  }
  std::vector<std::unique_ptr<Process>> start_all(const std::vector<std::string>& words,
                                                  int size) const {
    std::vector<std::unique_ptr<Process>> processes;
    const int port = free_port();
    for (int rank = 0; rank < size; ++rank) processes.push_back(start(words, rank, size, port));
    return processes;
  }
  void run_all(const std::vector<std::string>& words, int size, int code = 0) const {
    auto processes = start_all(words, size);
    for (int rank = 0; rank < size; ++rank)
      EXPECT_EQ(processes[static_cast<std::size_t>(rank)]->wait(), code) << said(rank);
  }
  std::string log(int rank) const { return scratch_ / ("rank" + std::to_string(rank) + ".log"); }
  std::string said(int rank) const { return base::read_text(log(rank)); }

  std::vector<json> epochs(const std::string& file) const {
    std::vector<json> lines;
    if (!std::filesystem::exists(scratch_ / file)) return lines;
    std::istringstream text(base::read_text(scratch_ / file));
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  }
  void wait_for_epochs(const std::string& file, std::size_t count) const {
    for (int i = 0; i < 600 && epochs(file).size() < count; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_GE(epochs(file).size(), count);
  }
  void expect_refused(int rank, pid_t holder) const {
    EXPECT_NE(said(rank).find("[" + (scratch_ / "out") + "] is in use: saw process " +
                              std::to_string(holder) + " at work in it, needs it to end first\n"),
              std::string::npos)
        << said(rank);
  }
  void expect_same_curve(const std::string& one, const std::string& other) const {
    const auto a = epochs(one), b = epochs(other);
    ASSERT_FALSE(a.empty());
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i)
      for (const std::string figure : {"loss", "validation"})
        EXPECT_NEAR(a[i].at(figure).get<double>(), b[i].at(figure).get<double>(), 1e-4)
            << figure << " of line " << i;
  }

  Scratch scratch_;
};

TEST_F(DataParallel, SeveralProcessesGiveTheLossCurveOfOne) {
  ASSERT_EQ(run_cleave(scratch_, train("one")).code, 0);
  for (const int size : {2, 3}) {
    const std::string out = "of" + std::to_string(size);
    run_all(train(out), size);
    expect_same_curve("one/training.jsonl", out + "/training.jsonl");
  }
}

TEST_F(DataParallel, OnAcceleratorsTooTheCurveIsThatOfOneProcess) {
  ASSERT_EQ(run_cleave(scratch_, train("one")).code, 0);
  const std::vector<std::string> words = {scratch_ / "recipe.toml", scratch_ / "there"};
  const int port = free_port();
  auto leader = start(words, 0, 2, port, CLEAVE_ACCELERATOR_PEER);
  auto other = start(words, 1, 2, port, CLEAVE_ACCELERATOR_PEER);
  EXPECT_EQ(leader->wait(), 0) << said(0);
  EXPECT_EQ(other->wait(), 0) << said(1);
  expect_same_curve("one/training.jsonl", "there/training.jsonl");
}

TEST_F(DataParallel, CalibratesAsOneProcess) {
  make_tiny_bundle(scratch_);
  make_images(scratch_ / "images/train", 96, 1);
  copy("bundle", "again");
  write_text(scratch_ / "calibrate.toml",
             "format = 1\nviews = 2\n[data]\nformat = \"folder\"\npath = \"images\"\nvalidation = "
             "24\n[alone]\nepochs = 1\nbatch = 16\n[joint]\nepochs = 2\nbatch = 16\n");
  const auto ran = run_cleave(scratch_, calibrate("bundle"));
  ASSERT_EQ(ran.code, 0) << ran.error;
  run_all(calibrate("again"), 2);
  expect_same_curve("bundle/calibration.jsonl", "again/calibration.jsonl");
}

// Only the leader judges, so the others have to be told.
TEST_F(DataParallel, ACalibrationThatEndsWorseKeepsTheWeightsAndAllExitWith3) {
  make_tiny_bundle(scratch_);
  make_images(scratch_ / "images/train", 96, 1);
  const auto write = [&](const std::string& rate) {
    write_text(scratch_ / "calibrate.toml",
               "format = 1\nviews = 2\n[data]\nformat = \"folder\"\npath = \"images\"\n"
               "validation = 24\n[joint]\nepochs = 3\nbatch = 16\nlearning_rate = " +
                   rate + "\n");
  };
  write("0.01");
  const auto good = run_cleave(scratch_, calibrate("bundle"));
  ASSERT_EQ(good.code, 0) << good.out << good.error;
  write("30");
  copy("bundle", "spoilt");
  const std::string before = plan::Bundle(scratch_ / "spoilt").identity();
  const auto processes = start_all(calibrate("spoilt"), 2);
  const std::string out = processes[0]->read_all();
  EXPECT_EQ(processes[1]->read_all(), "") << "the leader speaks for all";
  for (int rank = 0; rank < 2; ++rank)
    EXPECT_EQ(processes[static_cast<std::size_t>(rank)]->wait(), 3) << said(rank);
  EXPECT_EQ(count_of(out, "it ended worse than it began: the bundle keeps its weights"), 1) << out;
  EXPECT_EQ(count_of(out, "fused before the first step "), 1) << out;
  EXPECT_EQ(count_of(said(0) + said(1), "worse"), 0) << said(0) << said(1);
  EXPECT_EQ(plan::Bundle(scratch_ / "spoilt").identity(), before);
}

TEST_F(DataParallel, StoppedByOneAllGoOnToTheSameResult) {
  write_recipe(40);
  run_all(train("straight"), 2);
  auto processes = start_all(train("stopped"), 2);
  wait_for_epochs("stopped/training.jsonl", 3);
  kill(processes[1]->id(), SIGINT);
  EXPECT_EQ(processes[0]->wait(), 1);
  EXPECT_EQ(processes[1]->wait(), 1);
  EXPECT_LT(epochs("stopped/training.jsonl").size(), 40U);
  run_all(train("stopped"), 2);
  EXPECT_EQ(base::read_text(scratch_ / "straight/model.safetensors"),
            base::read_text(scratch_ / "stopped/model.safetensors"));
}

TEST_F(DataParallel, OneThatDiesEndsAllAndTheyGoOn) {
  write_recipe(40);
  run_all(train("straight"), 2);
  for (const int victim : {1, 0}) {
    const std::size_t done = epochs("killed/training.jsonl").size();
    auto processes = start_all(train("killed"), 2);
    wait_for_epochs("killed/training.jsonl", done + 3);
    kill(processes[static_cast<std::size_t>(victim)]->id(), SIGKILL);
    EXPECT_EQ(processes[static_cast<std::size_t>(1 - victim)]->wait(), 1);
    const std::string text = said(1 - victim);
    EXPECT_NE(text.find("another process is gone or silent"), std::string::npos) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
  run_all(train("killed"), 2);
  EXPECT_EQ(base::read_text(scratch_ / "straight/model.safetensors"),
            base::read_text(scratch_ / "killed/model.safetensors"));
}

TEST_F(DataParallel, SaysInOneLineWhatIsWrong) {
  const auto error = [&](int rank) {
    const std::string text = said(rank);
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
    return text;
  };
  EXPECT_EQ(start(train("out"), 2, 2, 29500)->wait(), 1);
  EXPECT_NE(error(2).find("[environment] RANK: saw '2', needs 0 … 1"), std::string::npos);

  const Listener taken;
  EXPECT_EQ(start(train("out"), 0, 2, taken.port())->wait(), 1);
  EXPECT_NE(error(0).find("Address already in use"), std::string::npos) << said(0);

  const int port = free_port();
  auto leader = start(train("out"), 0, 2, port);
  auto words = train("out");
  words.insert(words.end(), {"--seed", "7"});
  EXPECT_EQ(start(words, 1, 2, port)->wait(), 1);
  EXPECT_EQ(leader->wait(), 1);
  EXPECT_NE(error(1).find("has another recipe, data or start than process 0"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "out/model.safetensors"));
}

// On another machine the same text lies elsewhere, and another text may lie at the same place.
TEST_F(DataParallel, ComparesWhatTheDataSayNotWhereTheyLie) {
  const auto elsewhere = [&](const std::string& name) {
    std::filesystem::create_directories(scratch_ / name);
    std::filesystem::copy(scratch_ / "data", scratch_ / (name + "/data"));
    std::filesystem::copy(scratch_ / "recipe.toml", scratch_ / (name + "/recipe.toml"));
    return std::vector<std::string>{"train",     scratch_ / (name + "/recipe.toml"),
                                    "--out",     scratch_ / (name + "/out"),
                                    "--threads", "1"};
  };
  const auto with_leader = [&](const std::vector<std::string>& words, const std::string& out) {
    const int port = free_port();
    auto leader = start(train(out), 0, 2, port);
    const int code = start(words, 1, 2, port)->wait();
    EXPECT_EQ(leader->wait(), code) << said(0);
    return code;
  };
  EXPECT_EQ(with_leader(elsewhere("same"), "of-two"), 0) << said(1);
  const auto words = elsewhere("other");
  std::string text = base::read_text(scratch_ / "other/data/rhyme.txt");
  text[0] = 'O';
  write_text(scratch_ / "other/data/rhyme.txt", text);
  EXPECT_EQ(with_leader(words, "of-others"), 1);
  EXPECT_NE(said(1).find("has another recipe, data or start than process 0"), std::string::npos)
      << said(1);
}

// The leader has the lock for all; where it is refused, every process says so.
TEST_F(DataParallel, ASecondGroupIsRefusedWhileTheFirstLives) {
  write_recipe(100000);
  auto first = start_all(train("out"), 2);
  wait_for_epochs("out/training.jsonl", 1);
  for (int rank = 0; rank < 2; ++rank) std::filesystem::rename(log(rank), log(rank) + ".first");
  run_all(train("out"), 2, 1);
  for (int rank = 0; rank < 2; ++rank) expect_refused(rank, first[0]->id());
  EXPECT_TRUE(first[0]->is_running() && first[1]->is_running());
}

}  // namespace
}  // namespace cleave::tools
