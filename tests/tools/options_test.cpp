#include "tools/options.hpp"

#include <cstdlib>
#include <set>

#include <gtest/gtest.h>

#include "tools/commands/commands.hpp"

namespace cleave::tools {
namespace {

int nothing(const Args&) { return 0; }

const Command command{"demo",
                      "a command of the tests",
                      {{"MODEL", "model folder"}, {"IMAGE", "images", false, true}},
                      {"fleet", "batch", "deadline", "format", "dry-run"},
                      "cleave demo model/",
                      nothing};

/// Sets a variable for one test.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }

 private:
  const char* name_;
};

std::string usage_error(const std::vector<std::string>& words, const Command& of = command) {
  try {
    Args::parse(of, words);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<Command> every_command() {
  return {agent_command(),    bench_command(),    calibrate_command(), decompose_command(),
          evaluate_command(), infer_command(),    init_command(),      inspect_command(),
          plan_command(),     profile_command(),  serve_command(),     simulate_command(),
          status_command(),   tokenize_command(), train_command(),     generate_command()};
}

TEST(Options, DefaultsHoldUntilSomethingIsGiven) {
  const auto args = Args::parse(command, {"model"});
  EXPECT_EQ(args.integer("batch"), 1);
  EXPECT_FALSE(args.json());
  EXPECT_FALSE(args.has("fleet"));
  EXPECT_FALSE(args.flag("dry-run"));
}

TEST(Options, EnvironmentBeatsDefaultAndFlagBeatsEnvironment) {
  const Environment batch("CLEAVE_BATCH", "8");
  EXPECT_EQ(Args::parse(command, {"model"}).integer("batch"), 8);
  EXPECT_EQ(Args::parse(command, {"model", "--batch", "3"}).integer("batch"), 3);
}

TEST(Options, FlagsComeFromTheEnvironmentToo) {
  const Environment dry("CLEAVE_DRY_RUN", "1");
  EXPECT_TRUE(Args::parse(command, {"model"}).flag("dry-run"));
}

TEST(Options, AFlagCanBeSwitchedOff) {
  EXPECT_FALSE(Args::parse(command, {"model", "--dry-run=false"}).flag("dry-run"));
  EXPECT_TRUE(Args::parse(command, {"model", "--dry-run=true"}).flag("dry-run"));
  EXPECT_TRUE(Args::parse(command, {"--dry-run", "model"}).flag("dry-run"));
  EXPECT_EQ(usage_error({"model", "--dry-run=maybe"}), "[--dry-run] saw 'maybe', needs 1 or 0");
  const Environment dry("CLEAVE_DRY_RUN", "1");
  EXPECT_FALSE(Args::parse(command, {"model", "--dry-run=0"}).flag("dry-run"));
}

TEST(Options, ADefaultIsNotGiven) {
  EXPECT_TRUE(Args::parse(command, {"model"}).has("batch"));
  EXPECT_FALSE(Args::parse(command, {"model"}).given("batch"));
  EXPECT_TRUE(Args::parse(command, {"model", "--batch", "1"}).given("batch"));
  const Environment batch("CLEAVE_BATCH", "1");
  EXPECT_TRUE(Args::parse(command, {"model"}).given("batch"));
}

TEST(Options, AddressesAreCheckedWhereTheyAreGiven) {
  const auto listen = [](const std::string& address) {
    return usage_error({"bundle", "--listen", address}, serve_command());
  };
  EXPECT_EQ(listen("127.0.0.1:0"), "accepted");
  EXPECT_EQ(listen("[::1]:7100"), "accepted");
  EXPECT_EQ(listen("127.0.0.1:99999"),
            "[--listen] saw '127.0.0.1:99999', needs host:port with a port 0..65535");
  EXPECT_EQ(usage_error({"a.png", "--via", "hub:0"}, infer_command()),
            "[--via] saw 'hub:0', needs host:port with a port 1..65535");
}

TEST(Options, TimesTakeUnits) {
  EXPECT_DOUBLE_EQ(Args::parse(command, {"model", "--deadline", "20 ms"}).seconds("deadline"),
                   0.02);
}

TEST(Options, PositionalsMayRepeat) {
  EXPECT_EQ(Args::parse(command, {"model", "a.png", "b.png"}).positionals().size(), 3U);
}

TEST(Options, TextsKeepTheirCommas) {
  const auto args =
      Args::parse(generate_command(), {"model", "one, two", "--stop", "a,b", "--stop", "c"});
  EXPECT_EQ(args.positionals(), (std::vector<std::string>{"model", "one, two"}));
  EXPECT_EQ(args.texts("stop"), (std::vector<std::string>{"a,b", "c"}));
  EXPECT_TRUE(Args::parse(generate_command(), {"model"}).texts("stop").empty());
}

TEST(Options, AMisspeltOptionNamesTheNearest) {
  EXPECT_EQ(usage_error({"model", "--flet", "x"}),
            "[demo] unknown option --flet; did you mean --fleet?");
}

TEST(Options, AValueOutOfRangeSaysTheRange) {
  EXPECT_EQ(usage_error({"model", "--batch", "0"}), "[--batch] saw 0, needs 1..65536");
  EXPECT_EQ(usage_error({"model", "--batch", "two"}), "[--batch] saw 'two', needs a whole number");
  EXPECT_EQ(usage_error({"model", "--batch", "1.5"}), "[--batch] saw '1.5', needs a whole number");
  EXPECT_EQ(usage_error({"model", "--format", "xml"}),
            "[--format] saw 'xml', needs one of text|json");
}

TEST(Options, ABadVariableIsNamedAsSuch) {
  const Environment batch("CLEAVE_BATCH", "many");
  EXPECT_EQ(usage_error({"model"}), "[CLEAVE_BATCH] saw 'many', needs a whole number");
}

TEST(Options, AMissingPositionalIsNamed) {
  EXPECT_EQ(usage_error({}), "[demo] MODEL is missing: model folder; see --help");
}

TEST(Options, ASurplusPositionalIsShown) {
  EXPECT_EQ(usage_error({"a", "b"}, init_command()),
            "[init] saw 'a', which is one argument too many; see --help");
}

TEST(Options, EveryCommandUsesTheOneTableAndHasAnExample) {
  for (const auto& one : every_command()) {
    std::set<std::string_view> seen;
    for (const auto& name : one.options) {
      EXPECT_NO_THROW(find_option(name)) << one.name << " --" << name;
      EXPECT_TRUE(seen.insert(name).second) << one.name << " has --" << name << " twice";
    }
    EXPECT_EQ(one.example.substr(0, 6), "cleave") << one.name;
    EXPECT_NE(help_page("cleave", one).find("Example:"), std::string::npos);
  }
}

TEST(Options, EveryOptionIsUsedAndItsDefaultIsAllowed) {
  std::set<std::string_view> used{"original", "dilate", "loopback",
                                  "namespaces"};  // the testbed's own
  for (const auto& one : every_command()) used.insert(one.options.begin(), one.options.end());
  for (const auto& option : options()) {
    EXPECT_TRUE(used.count(option.name)) << "--" << option.name << " belongs to no command";
    const Command only{"demo", "", {}, {option.name}, "cleave demo", nothing};
    EXPECT_NO_THROW(Args::parse(only, {})) << option.name;
  }
}

TEST(Options, HelpNamesTheVariable) {
  EXPECT_NE(help_page("cleave", plan_command()).find("CLEAVE_MAX_PART_SHARE"), std::string::npos);
}

}  // namespace
}  // namespace cleave::tools
