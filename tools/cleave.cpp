// The command line: one program, one command for each step of the main job.

#include <cstdio>
#include <string>
#include <vector>

#include "base/reader.hpp"
#include "infer/machine.hpp"
#include "tools/commands/commands.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

std::vector<Command> commands() {
  return {profile_command(), plan_command(),      simulate_command(),  init_command(),
          train_command(),   decompose_command(), calibrate_command(), evaluate_command(),
          agent_command(),   serve_command(),     status_command(),    infer_command(),
          bench_command(),   inspect_command(),   generate_command(),  tokenize_command()};
}

std::string overview() {
  std::string text =
      "cleave takes a transformer and a fleet of unequal devices and makes the fleet answer "
      "together.\n\n"
      "Usage: cleave COMMAND … (cleave COMMAND --help says more)\n\n";
  for (const auto& command : commands())
    text += format("  %-10s %s\n", std::string(command.name).c_str(),
                   std::string(command.summary).c_str());
  return text +
         "\nEvery option is also an environment variable: --max-queue is CLEAVE_MAX_QUEUE.\n";
}

int main(const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    std::fputs(overview().c_str(), words.empty() ? stderr : stdout);
    return words.empty() ? exit_usage : flush_output("cleave", exit_done);
  }
  if (words[0] == "--version") return print_version("cleave");
  std::vector<std::string> names;
  for (const auto& command : commands()) {
    if (command.name == words[0])
      return run_command("cleave", command, {words.begin() + 1, words.end()});
    names.emplace_back(command.name);
  }
  const std::string near = base::nearest(words[0], names);
  std::fprintf(stderr, "cleave: unknown command '%s'%s\n", words[0].c_str(),
               near.empty() ? "; see cleave --help" : ("; did you mean '" + near + "'?").c_str());
  return exit_usage;
}

}  // namespace
}  // namespace cleave::tools

int main(int argc, char** argv) {
  cleave::infer::take_best_blas_kernels(argv);
  return cleave::tools::main(std::vector<std::string>(argv + 1, argv + argc));
}
