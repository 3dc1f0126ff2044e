#include "tools/testbed/process.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sstream>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include "base/file.hpp"

namespace cleave::tools {
namespace {

constexpr const char* name_start = "cleave-";

/// The environment, with or without the CLEAVE_… variables.
std::vector<char*> environment(bool own_settings) {
  std::vector<char*> kept;
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (own_settings || std::strncmp(*variable, "CLEAVE_", 7) != 0) kept.push_back(*variable);
  kept.push_back(nullptr);
  return kept;
}

std::vector<char*> argv_of(const std::vector<std::string>& words) {
  std::vector<char*> argv;
  for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  return argv;
}

[[noreturn]] void child_fails(const char* what) {
  const std::string text = std::string(what) + ": " + std::generic_category().message(errno) + "\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
  _exit(127);
}

int exit_status(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace

Process::Process(const Options& options) : options_(options) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "[process] pipe");
  const auto argv = argv_of(options_.words);
  const auto variables = environment(options_.own_settings);
  const std::string space =
      options_.network_namespace.empty() ? "" : "/var/run/netns/" + options_.network_namespace;
  pid_ = fork();
  if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "[process] fork");
  if (pid_ == 0) {
    // A testbed that is killed takes its processes along.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Ctrl-C at the terminal reaches the testbed alone; it ends its children in order.
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    dup2(ends[1], STDOUT_FILENO);
    const int log = open(options_.log.empty() ? "/dev/null" : options_.log.c_str(),
                         O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log >= 0) dup2(log, STDERR_FILENO);
    // Sockets of the threads beside this one: held open by a child, they would never be closed.
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (!options_.cgroup.empty()) {
      const int members = open(options_.cgroup.c_str(), O_WRONLY | O_CLOEXEC);
      if (members < 0 || write(members, "0", 1) != 1) child_fails(options_.cgroup.c_str());
    }
    if (!space.empty()) {
      const int fd = open(space.c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) child_fails(space.c_str());
    }
    execvpe(argv[0], argv.data(), variables.data());
    child_fails(argv[0]);
  }
  close(ends[1]);
  output_ = ends[0];
}

Process::Process(Process&& other) noexcept
    : options_(std::move(other.options_)),
      pid_(other.pid_),
      output_(other.output_),
      status_(other.status_),
      buffered_(std::move(other.buffered_)) {
  other.pid_ = -1;
  other.output_ = -1;
}

Process::~Process() {
  stop();
  if (output_ >= 0) close(output_);
}

std::string Process::tail_of_log() const {
  std::ifstream file(options_.log);
  std::string line, tail;
  while (std::getline(file, line)) tail = line;
  return tail.empty() ? "" : ": " + tail;
}

std::string Process::read_line(std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto end = buffered_.find('\n');
    if (end != std::string::npos) {
      const std::string line = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      return line;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                          until - std::chrono::steady_clock::now())
                          .count();
    pollfd ready{output_, POLLIN, 0};
    const int found = left > 0 ? poll(&ready, 1, static_cast<int>(left)) : 0;
    if (found == 0)
      throw std::runtime_error("[" + options_.words[0] + "] said nothing for " +
                               std::to_string(timeout.count()) + " ms" + tail_of_log());
    if (found < 0) throw std::runtime_error("[" + options_.words[0] + "] interrupted");
    char piece[512];
    const auto size = read(output_, piece, sizeof piece);
    if (size <= 0)
      throw std::runtime_error("[" + options_.words[0] + "] ended with status " +
                               std::to_string(wait()) + tail_of_log());
    buffered_.append(piece, static_cast<std::size_t>(size));
  }
}

std::string Process::read_all() {
  char piece[4096];
  for (;;) {
    const auto size = read(output_, piece, sizeof piece);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return std::exchange(buffered_, {});
    buffered_.append(piece, static_cast<std::size_t>(size));
  }
}

double Process::peak_memory_bytes() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("VmHWM:", 0) == 0) return 1024 * std::strtod(line.c_str() + 6, nullptr);
  return 0;
}

bool Process::is_running() {
  if (pid_ < 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  status_ = exit_status(status);
  pid_ = -1;
  return false;
}

int Process::wait() {
  if (pid_ >= 0) {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    status_ = exit_status(status);
    pid_ = -1;
  }
  return status_;
}

void Process::stop() {
  if (pid_ < 0) return;
  kill(pid_, SIGTERM);
  for (int i = 0; i < 150 && is_running(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  wait();
}

std::string own_name(const std::string& what) {
  return name_start + std::to_string(getpid()) + "-" + what;
}

bool is_left_behind(const std::string& name) {
  const std::string start = name_start;
  if (name.rfind(start, 0) != 0) return false;
  const auto pid = static_cast<pid_t>(std::strtol(name.c_str() + start.size(), nullptr, 10));
  return pid > 0 && kill(pid, 0) != 0 && errno == ESRCH;
}

void run_program(const std::vector<std::string>& words) {
  std::string pattern = (std::filesystem::temp_directory_path() / "cleave-run-XXXXXX").string();
  const int fd = mkstemp(pattern.data());
  if (fd >= 0) close(fd);
  const std::filesystem::path log = pattern;
  Process::Options options;
  options.words = words;
  options.log = log;
  const int status = Process(options).wait();
  std::string said = base::read_text(log);
  std::filesystem::remove(log);
  if (status == 0) return;
  while (!said.empty() && said.back() == '\n') said.pop_back();
  std::string line;
  for (const auto& word : words) line += (line.empty() ? "" : " ") + word;
  throw std::runtime_error("[" + line + "] failed with status " + std::to_string(status) +
                           (said.empty() ? "" : ": " + said));
}

}  // namespace cleave::tools
