#pragma once

#include <string>
#include <vector>

#include "tools/options.hpp"

namespace cleave::tools {

/// Exit codes of every command.
enum ExitCode : int { exit_done = 0, exit_failed = 1, exit_usage = 2, exit_negative = 3 };

Command agent_command();
Command bench_command();
Command calibrate_command();
Command decompose_command();
Command evaluate_command();
Command generate_command();
Command infer_command();
Command init_command();
Command inspect_command();
Command plan_command();
Command profile_command();
Command serve_command();
Command simulate_command();
Command status_command();
Command tokenize_command();
Command train_command();

/// `code`, or exit_failed where standard output could not take what was printed (a full disk, a
/// closed pipe).
int flush_output(const std::string& program, int code);

/// `--version`: of the program, the BLAS in use and libtorch.
int print_version(const std::string& program);

/// Runs one command: help, errors in one line, exit code. `program` is what the help calls itself.
int run_command(const std::string& program, const Command& command,
                const std::vector<std::string>& words);

}  // namespace cleave::tools
