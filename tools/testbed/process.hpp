#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <sys/types.h>
#include <vector>

namespace cleave::tools {

/// A program that runs beside this one, and ends with it: asked by SIGTERM, then made to, when this
/// value goes.
class Process {
 public:
  struct Options {
    std::vector<std::string> words;      // program and arguments
    std::string network_namespace = {};  // empty: this one
    std::filesystem::path cgroup = {};   // its cgroup.procs; empty: this one
    bool own_settings = true;            // keeps CLEAVE_… variables
    std::filesystem::path log =
        {};  // standard error goes here; standard output is read by read_line
  };
  /// Throws std::system_error where it cannot be started.
  explicit Process(const Options& options);
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;

  pid_t id() const { return pid_; }
  /// The next line of its standard output; throws std::runtime_error (with the log's last lines)
  /// when it ended or `timeout` passed.
  std::string read_line(std::chrono::milliseconds timeout);
  /// All of its standard output until it closes it.
  std::string read_all();
  /// VmHWM, bytes; 0 when it is gone.
  double peak_memory_bytes() const;
  bool is_running();
  /// Waits for its end; returns the exit status, or 128 + signal.
  int wait();
  void stop();

 private:
  std::string tail_of_log() const;
  Options options_;
  pid_t pid_ = -1;
  int output_ = -1;
  int status_ = -1;
  std::string buffered_;
};

/// "cleave-<this process>-<what>": names what would outlive a killed testbed.
std::string own_name(const std::string& what);
/// Whether it is such a name of a process that is gone.
bool is_left_behind(const std::string& name);

/// Runs a program to its end. Throws std::runtime_error with its standard error when it fails.
void run_program(const std::vector<std::string>& words);

}  // namespace cleave::tools
