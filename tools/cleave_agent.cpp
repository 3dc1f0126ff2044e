// What a device needs: `cleave agent` as a program of its own.

#include "infer/machine.hpp"
#include "tools/commands/commands.hpp"

int main(int argc, char** argv) {
  cleave::infer::take_best_blas_kernels(argv);
  return cleave::tools::run_command("cleave-agent", cleave::tools::agent_command(),
                                    std::vector<std::string>(argv + 1, argv + argc));
}
