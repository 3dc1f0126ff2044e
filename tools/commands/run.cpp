#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <new>

#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include "infer/engine.hpp"
#include "tools/commands/commands.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// Those that drain, checkpoint or tidy up when asked to stop. The others end at once.
bool heeds_signals(const Command& command) {
  constexpr std::array<std::string_view, 7> names = {"agent", "calibrate", "init", "profile",
                                                     "serve", "testbed",   "train"};
  return std::find(names.begin(), names.end(), command.name) != names.end();
}

int complain(const std::string& program, const std::string& message, int code) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), message.c_str());
  return code;
}

}  // namespace

int flush_output(const std::string& program, int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  return complain(program, "[standard output] cannot write", exit_failed);
}

int print_version(const std::string& program) {
  infer::set_threads(1);
  const auto blas = infer::blas_info();
  std::printf("%s %s\nBLAS: %s\n", program.c_str(), CLEAVE_VERSION, blas.name.c_str());
  if (!blas.warning.empty()) std::printf("warning: %s\n", blas.warning.c_str());
  std::printf("%s\n", at::show_config().c_str());
  return flush_output(program, exit_done);
}

int run_command(const std::string& program, const Command& command,
                const std::vector<std::string>& words) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error like another
  if (heeds_signals(command)) catch_signals();
  bool verbose = false;
  try {
    if (words.size() == 1 && words[0] == "--version") return print_version(program);
    const Args args = Args::parse(command, words);
    verbose = args.flag("verbose");
    if (args.help_wanted()) {
      std::fputs(help_page(program, command).c_str(), stdout);
      return flush_output(program, exit_done);
    }
    return flush_output(program, command.run(args));
  } catch (const UsageError& error) {
    return complain(program, error.what(), exit_usage);
  } catch (const c10::Error& error) {
    return complain(program, verbose ? error.what() : error.what_without_backtrace(), exit_failed);
  } catch (const std::bad_alloc&) {
    return complain(program, "[memory] the machine has not enough for this", exit_failed);
  } catch (const std::exception& error) {
    return complain(program, error.what(), exit_failed);
  }
}

}  // namespace cleave::tools
