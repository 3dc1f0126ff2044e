// What a device needs: `cleave agent` as a program of its own.

#include "tools/commands/commands.hpp"

int main(int argc, char** argv) {
  return cleave::tools::run_command("cleave-agent", cleave::tools::agent_command(),
                                    std::vector<std::string>(argv + 1, argv + argc));
}
