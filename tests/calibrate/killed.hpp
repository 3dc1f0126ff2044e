#pragma once

#include <csignal>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace cleave::testing {

/// How often a program had to be started until it lived to its end.
struct Deaths {
  int killed = 0;
  int exit_code = -1;
};

inline int run_victim(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), CLEAVE_VICTIM);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execv(pointers[0], pointers.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

/// Runs the victim with ever more time to live: killed in ever other places, and at last not at
/// all.
inline Deaths run_until_it_survives(const std::vector<std::string>& arguments, int first_ms,
                                    int step_ms) {
  Deaths deaths;
  for (int ms = first_ms; deaths.killed < 100; ms += step_ms) {
    auto with_time = arguments;
    with_time.push_back(std::to_string(ms));
    const int status = run_victim(with_time);
    if (WIFEXITED(status)) {
      deaths.exit_code = WEXITSTATUS(status);
      return deaths;
    }
    ++deaths.killed;
  }
  return deaths;
}

}  // namespace cleave::testing
