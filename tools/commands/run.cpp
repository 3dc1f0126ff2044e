#include <algorithm>
#include <cstdio>
#include <new>

#include <c10/util/Exception.h>

#include "tools/commands/commands.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

bool verbose_wanted(const std::vector<std::string>& words) {
  return std::find(words.begin(), words.end(), "--verbose") != words.end();
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

int run_command(const std::string& program, const Command& command,
                const std::vector<std::string>& words) {
  catch_signals();
  try {
    const Args args = Args::parse(command, words);
    if (args.help_wanted()) {
      std::fputs(help_page(program, command).c_str(), stdout);
      return flush_output(program, exit_done);
    }
    return flush_output(program, command.run(args));
  } catch (const UsageError& error) {
    return complain(program, error.what(), exit_usage);
  } catch (const c10::Error& error) {
    return complain(program, verbose_wanted(words) ? error.what() : error.what_without_backtrace(),
                    exit_failed);
  } catch (const std::bad_alloc&) {
    return complain(program, "[memory] the machine has not enough for this", exit_failed);
  } catch (const std::exception& error) {
    return complain(program, error.what(), exit_failed);
  }
}

}  // namespace cleave::tools
