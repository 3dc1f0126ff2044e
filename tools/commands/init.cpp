#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "decompose/decompose.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/config.hpp"
#include "tools/print.hpp"

namespace cleave::tools {
namespace {

int init(const Args& args) {
  const auto config = config_of(args, "config");
  const std::string out = args.text("out");
  const double parameters = static_cast<double>(model::count_parameters(config));
  if (!args.flag("dry-run")) {
    ProgressBar bar;
    decompose::init(config, static_cast<std::uint64_t>(args.integer("seed")), out, bar.callback(),
                    static_cast<std::uint64_t>(args.bytes("shard-size")));
  }
  if (args.json())
    std::printf("%s\n", nlohmann::json{{"out", out},
                                       {"parameters", parameters},
                                       {"bytes", 4 * parameters},
                                       {"written", !args.flag("dry-run")}}
                            .dump(2)
                            .c_str());
  else
    std::printf(
        "%s %s: %s parameters, %s, random weights (not trained: for speed and memory only)\n",
        args.flag("dry-run") ? "would write" : "wrote", out.c_str(),
        base::format_count(parameters).c_str(), base::format_bytes(4 * parameters).c_str());
  return exit_done;
}

}  // namespace

Command init_command() {
  return {"init",
          "write a randomly initialised checkpoint, for speed and memory work",
          {},
          {"config", "out", "seed", "shard-size", "dry-run", "format", "verbose"},
          "cleave init --config vit-base --out vit-base-random/",
          init};
}

}  // namespace cleave::tools
