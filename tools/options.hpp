#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cleave::tools {

/// Wrong usage: shown in one line, exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// One row of the table of options. An option means the same in every command that takes it, and
/// can be given as --name or as the environment variable CLEAVE_NAME (the flag wins).
struct Option {
  /// texts: may be given several times; choices: some of them with commas between.
  enum class Kind { flag, text, texts, choice, choices, integer, number, seconds, bytes, address };
  std::string_view name;
  Kind kind = Kind::text;
  std::string_view value;     // what the help calls its value: "FILE"
  std::string_view fallback;  // default, as it would be typed; empty: none
  std::string_view help;
  double low = 0, high = 0;  // for numbers and the port of an address, both included
  std::vector<std::string_view> choices = {};

  /// CLEAVE_MAX_PART_SHARE for max-part-share.
  std::string variable() const;
  /// "1..64", "text|json", or empty.
  std::string range() const;
};

/// Every option of every command.
const std::vector<Option>& options();
const Option& find_option(std::string_view name);

struct Positional {
  std::string_view name;  // "MODEL"
  std::string_view help;
  bool required = true;
  bool repeated = false;  // the last one only
};

class Args;

/// One command: what it takes, an example, and what it does.
struct Command {
  std::string_view name;
  std::string_view summary;
  std::vector<Positional> positionals;
  std::vector<std::string_view> options;
  std::string_view example;
  int (*run)(const Args& args);
};

/// The values of one call: flags over environment over defaults, each checked against its range.
class Args {
 public:
  /// Throws UsageError: unknown option (names the nearest), missing or surplus positional, value
  /// out of range.
  static Args parse(const Command& command, const std::vector<std::string>& words);

  const std::string& at(std::size_t positional) const { return positionals_.at(positional); }
  const std::vector<std::string>& positionals() const { return positionals_; }
  bool has(std::string_view name) const;    // given, or has a default
  bool given(std::string_view name) const;  // as flag or variable
  bool flag(std::string_view name) const;
  std::string text(std::string_view name) const;
  /// `fallback` where it is not given, or not an option of the command.
  std::string text_or(std::string_view name, const std::string& fallback = {}) const;
  /// Each time that it was given.
  std::vector<std::string> texts(std::string_view name) const;
  /// What stands between its commas.
  std::vector<std::string> list(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;
  double seconds(std::string_view name) const;
  std::chrono::milliseconds milliseconds(std::string_view name) const;
  double bytes(std::string_view name) const;
  bool json() const { return text("format") == "json"; }
  bool help_wanted() const { return help_; }

 private:
  std::map<std::string, std::string, std::less<>> values_;
  std::map<std::string, std::vector<std::string>, std::less<>> lists_;  // Kind::texts
  std::set<std::string, std::less<>> given_;
  std::vector<std::string> positionals_;
  bool help_ = false;
};

/// Throws UsageError where `text` is not "host:port" with a port from `lowest_port` on.
void check_address(const std::string& text, const std::string& where, int lowest_port = 1);

/// --threads, or `fallback` where it is 0.
int threads_of(const Args& args, int fallback);
/// One for each core.
int all_threads();

/// The page that `cleave COMMAND --help` prints.
std::string help_page(std::string_view program, const Command& command);

/// Makes what command-line options describe; what it finds wrong with them is wrong usage.
template <typename Make>
auto from_options(const Make& make) {
  try {
    return make();
  } catch (const std::invalid_argument& wrong) {
    throw UsageError(wrong.what());
  }
}

}  // namespace cleave::tools
