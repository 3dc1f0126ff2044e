#include "tools/options.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <limits>
#include <optional>
#include <sstream>
#include <thread>

#define CXXOPTS_VECTOR_DELIMITER '\0'  // a text may have commas
#include <cxxopts.hpp>

#include "base/reader.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "optimizer/plan/names.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::tools {
namespace {

constexpr double no_limit = 1e15;

/// "auto" and the table of strategies.
std::vector<std::string_view> strategy_names() {
  std::vector<std::string_view> names = {"auto"};
  for (const plan::Strategy& strategy : plan::strategies()) names.emplace_back(strategy.name);
  return names;
}

std::vector<std::string_view> wire_names() {
  std::vector<std::string_view> names;
  for (const base::Element format : plan::wire_formats()) names.push_back(base::name_of(format));
  return names;
}

std::string number_text(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

/// The value as a number in SI units; throws std::invalid_argument.
double to_number(const Option& option, const std::string& text) {
  switch (option.kind) {
    case Option::Kind::seconds:
      return base::parse_seconds(text);
    case Option::Kind::bytes:
      return static_cast<double>(base::parse_bytes(text));
    default: {
      std::size_t used = 0;
      const double value = std::stod(text, &used);
      if (used != text.size()) throw std::invalid_argument("trailing text");
      if (option.kind == Option::Kind::integer &&
          value != static_cast<double>(static_cast<std::int64_t>(value)))
        throw std::invalid_argument("not whole");
      return value;
    }
  }
}

/// Throws UsageError where `text` is no value of `option`; `where` is the flag or the variable it
/// came from.
void check_value(const Option& option, const std::string& text, const std::string& where) {
  using Kind = Option::Kind;
  if (option.kind == Kind::text || option.kind == Kind::texts) return;
  if (option.kind == Kind::flag) {
    if (text == "1" || text == "0" || text == "true" || text == "false") return;
    throw UsageError("[" + where + "] saw '" + text + "', needs 1 or 0");
  }
  if (option.kind == Kind::choice || option.kind == Kind::choices) {
    for (const std::string& word :
         option.kind == Kind::choice ? std::vector{text} : base::split(text, ','))
      if (std::find(option.choices.begin(), option.choices.end(), word) == option.choices.end())
        throw UsageError("[" + where + "] saw '" + word + "', needs one of " + option.range());
    return;
  }
  if (option.kind == Kind::address) return check_address(text, where, static_cast<int>(option.low));
  double value = 0;
  try {
    value = to_number(option, text);
  } catch (const std::exception&) {
    throw UsageError("[" + where + "] saw '" + text + "', needs " +
                     (option.kind == Kind::integer  ? "a whole number"
                      : option.kind == Kind::number ? "a number"
                      : option.kind == Kind::bytes  ? "a size such as 256 MB"
                                                    : "a time such as 20 ms"));
  }
  if (!(value >= option.low && value <= option.high))
    throw UsageError("[" + where + "] saw " + text + ", needs " + option.range());
}

std::vector<std::string> known_names(const Command& command) {
  std::vector<std::string> names{"help"};
  for (const auto& name : command.options) names.emplace_back(name);
  return names;
}

/// "--flet" -> the message with the nearest option of the command.
UsageError unknown_option(const Command& command, const std::string& word) {
  const auto dashes = word.find_first_not_of('-');
  const std::string bare =
      dashes == std::string::npos ? word : word.substr(dashes, word.find('=') - dashes);
  const std::string near = base::nearest(bare, known_names(command));
  return UsageError("[" + std::string(command.name) + "] unknown option --" + bare +
                    (near.empty() ? "; see --help" : "; did you mean --" + near + "?"));
}

}  // namespace

std::string Option::variable() const {
  std::string result = "CLEAVE_";
  for (char c : name)
    result += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return result;
}

std::string Option::range() const {
  if (kind == Kind::choice || kind == Kind::choices) {
    std::string result;
    for (const auto& choice : choices) result += (result.empty() ? "" : "|") + std::string(choice);
    return result;
  }
  if (kind == Kind::texts) return "several";
  if (kind == Kind::flag || kind == Kind::text || kind == Kind::address) return {};
  const auto show = [this](double bound) {
    if (kind == Kind::seconds) return bound == 0 ? std::string("0") : base::format_seconds(bound);
    if (kind == Kind::bytes) return bound == 0 ? std::string("0") : base::format_bytes(bound);
    return number_text(bound);
  };
  return high >= no_limit ? "from " + show(low) : show(low) + ".." + show(high);
}

const std::vector<Option>& options() {
  using Kind = Option::Kind;
  static const std::vector<Option> table = {
      {"out", Kind::text, "PATH", "", "where to write"},
      {"format", Kind::choice, "FORMAT", "text", "how to print", 0, 0, {"text", "json"}},
      {"csv", Kind::text, "FILE", "", "also write the table as CSV"},
      {"dry-run", Kind::flag, "", "", "say what would be written, write nothing"},
      {"force", Kind::flag, "", "", "replace what took long and is refused otherwise"},
      {"seed", Kind::integer, "N", "1", "seed of everything random; a recipe has its own", 0,
       9007199254740991.0},
      {"verbose", Kind::flag, "", "", "more words, and the full text of errors"},
      {"threads", Kind::integer, "N", "0", "compute threads; 0: this command's default", 0, 1024},
      {"accelerator",
       Kind::choice,
       "KIND",
       "none",
       "what computes instead of the CPU; of several GPUs the one that LOCAL_RANK numbers",
       0,
       0,
       {"none", "cuda"}},
      {"fleet", Kind::text, "FILE", "", "fleet.toml: devices, what they give, links"},
      {"plan", Kind::text, "PLAN", "",
       "plan.json or a folder of them, or the name of a plan in the bundle; several with commas "
       "between, the default one first"},
      {"name", Kind::text, "NAME", "default", "what the plan is called"},
      {"into", Kind::text, "BUNDLE", "",
       "write the plan into a bundle whose devices hold its weights already"},
      {"recipe", Kind::text, "FILE", "", "recipe (TOML)"},
      {"teacher", Kind::text, "MODEL", "", "folder of the original checkpoint"},
      {"data", Kind::text, "PATH", "",
       "data set: IDX, CIFAR, train/ and test/ with one directory a class each; TSV, JSONL or text "
       "files"},
      {"data-format",
       Kind::choice,
       "FORMAT",
       "auto",
       "layout of --data",
       0,
       0,
       {"auto", "idx", "cifar10", "cifar100", "folder", "tsv", "jsonl", "stsb", "text"}},
      {"split", Kind::choice, "SPLIT", "test", "which part of --data", 0, 0, {"train", "test"}},
      {"limit", Kind::integer, "N", "0", "at most this many rows of the data; 0: all", 0, no_limit},
      {"stride", Kind::integer, "N", "0",
       "tokens that a window of running text begins behind the last one; 0: no overlap", 0,
       no_limit},
      {"length", Kind::integer, "N", "0",
       "most tokens of a text, or of a window of running text; 0: the model's context", 0,
       no_limit},
      {"rows", Kind::integer, "N", "512", "rows of the data that importance is measured on", 1,
       1e6},
      {"fit",
       Kind::choice,
       "HOW",
       "auto",
       "parts are fitted front to back to the teacher's activations on --data, and fusion heads; "
       "parts, heads: one of them; auto: sequential where there is data",
       0,
       0,
       {"auto", "sequential", "parts", "heads", "none"}},
      {"fit-rows", Kind::integer, "N", "2048", "rows of the data that parts are fitted on", 1, 1e6},
      {"stream",
       Kind::choice,
       "WHAT",
       "channels",
       "what a fitted part's stream is made of: channels of the teacher's, or principal components",
       0,
       0,
       {"channels", "components"}},
      {"like", Kind::text, "MODEL", "", "model folder or preset whose shapes are measured"},
      {"max-time", Kind::seconds, "TIME", "30 s", "stop measuring after this", 0.1, 86400},
      {"config", Kind::text, "NAME", "", "preset (vit-base …) or a config.json"},
      {"objective",
       Kind::choice,
       "WHAT",
       "latency",
       "what the plan makes best",
       0,
       0,
       {"latency", "accuracy", "memory"}},
      {"strategy", Kind::choices, "NAME", "auto",
       "how to share the model; of several with commas between each gets a plan, named after it", 0,
       0, strategy_names()},
      {"shares", Kind::text, "SHARES", "",
       "what each agent of the fleet takes, in its order, as 3,1,1: for strategies that leave it "
       "to "
       "choose"},
      {"wire", Kind::choice, "FORMAT", "f32",
       "how values travel between devices that share the model; int8 has a scale for each row", 0,
       0, wire_names()},
      {"compression", Kind::number, "RATE", "4",
       "strategy prism: rows of a device that are one row for the others", 1, 1048576},
      {"clusters", Kind::flag, "", "",
       "strategy prism: those are rows that are alike, not consecutive ones"},
      {"latency-limit", Kind::seconds, "TIME", "0", "refuse plans that are slower; 0: no limit", 0,
       86400},
      {"max-part-share", Kind::number, "SHARE", "0.4",
       "no part has more of the teacher's parameters; 0: no limit", 0, 1},
      {"min-width-share", Kind::number, "SHARE", "0",
       "every part keeps this share of the residual channels; 1: only heads and MLPs are cut", 0,
       1},
      {"min-importance", Kind::number, "SHARE", "0",
       "refuse plans that keep less importance (an estimate)", 0, 1},
      {"accuracy-weight", Kind::number, "WEIGHT", "1",
       "price of lost importance, in teacher latencies", 0, 1000},
      {"shares-of", Kind::text, "PLAN", "",
       "search nothing: the relative widths, heads and depth of this plan"},
      {"width-step", Kind::integer, "N", "8", "widths are multiples of this", 1, 4096},
      {"partition", Kind::flag, "", "", "parts may not share channels or heads"},
      {"batch", Kind::integer, "N", "1", "images or texts in a request; a plan has its own", 1,
       65536},
      {"importance",
       Kind::choice,
       "HOW",
       "auto",
       "what units are worth: gradients on --data, or weight norms",
       0,
       0,
       {"auto", "taylor", "weights"}},
      {"trace", Kind::text, "FILE", "", "write a Perfetto/Chrome trace"},
      {"columns", Kind::integer, "N", "100", "width of drawings", 40, 400},
      {"device", Kind::text, "NAME", "", "which device this is"},
      {"listen", Kind::address, "HOST:PORT", "127.0.0.1:0", "where to listen; port 0: any free one",
       0, 65535},
      {"insecure", Kind::flag, "", "", "allow listening beyond loopback without TLS"},
      {"start", Kind::text, "MODEL", "", "folder of the model that the recipe starts from"},
      {"shard-size", Kind::bytes, "SIZE", "5 GB", "most bytes of weights in one file", 1, no_limit},
      {"memory", Kind::bytes, "SIZE", "",
       "what this process may take; 0: no limit; default: what the plan gives its device", 0,
       no_limit},
      {"request-memory", Kind::bytes, "SIZE", "256 MB",
       "memory for the requests of all clients together, from their arrival until they are "
       "computed",
       1e6, no_limit},
      {"max-requests", Kind::integer, "N", "4", "requests admitted at once", 1, 1024},
      {"max-queue", Kind::integer, "N", "64", "requests waiting before the answer is 'overloaded'",
       1, 65536},
      {"hosts", Kind::text, "FILE", "",
       "addresses of the devices (hosts.toml); default: the bundle's"},
      {"original", Kind::text, "MODEL", "",
       "also run this model whole on the fastest device, in turn (testbed)"},
      {"dilate", Kind::number, "FACTOR", "1", "slow devices and links together (testbed)", 1, 1000},
      {"loopback", Kind::flag, "", "", "links are loopback's, not shaped (testbed)"},
      {"namespaces", Kind::flag, "", "",
       "links are shaped by the kernel, between network namespaces: needs root (testbed)"},
      {"link", Kind::text, "FILE", "",
       "behave as behind such a link: rows of seconds,mbit_s,latency_ms,jitter_ms (testbed)"},
      {"measured", Kind::flag, "", "", "only what was measured: accuracy, memory, latency, bytes"},
      {"pace", Kind::number, "SHARE", "1", "be as slow as this share of a core (testbed)", 0.001,
       1},
      {"pace-turns", Kind::text, "FILE", "",
       "paced processes with the same file compute one at a time (testbed)"},
      {"via", Kind::address, "HOST:PORT", "", "ask a running `cleave serve`", 1, 65535},
      {"local", Kind::flag, "", "", "run every part in this process"},
      {"kernels", Kind::flag, "", "",
       "this machine's kernels beside its limits; --requests says how many rounds (default 5)"},
      {"require-all", Kind::flag, "", "", "an answer without every device is a failure (exit 3)"},
      {"without", Kind::text, "DEVICES", "",
       "leave these devices out (comma-separated, with --local)"},
      {"deadline", Kind::seconds, "TIME", "10 s", "how long to wait for an answer", 0.001, 86400},
      {"join-timeout", Kind::seconds, "TIME", "5 s", "how long to wait for agents at the start", 0,
       3600},
      {"wait", Kind::seconds, "TIME", "5 s",
       "how long to wait for the first agent before the server says that it listens", 0, 3600},
      {"drain", Kind::seconds, "TIME", "30 s",
       "when asked to stop (SIGTERM): how long until it has ended, whatever its peers do", 0, 3600},
      {"texts", Kind::text, "FILE", "", "texts, one a line, beside those given"},
      {"pairs", Kind::flag, "", "",
       "texts are asked two by two; in a file, two in each line with a tab between"},
      {"tokenizer", Kind::text, "MODEL", "", "folder of the tokenizer, with --via"},
      {"prompts", Kind::text, "FILE", "", "prompts, one a line, beside those given"},
      {"ids", Kind::text, "\"1 2; 3\"", "",
       "prompts as token numbers, for models without a tokenizer"},
      {"tokens", Kind::integer, "N", "64",
       "tokens of a text: of a planned or measured request, or to generate", 1, 4194304},
      {"generate", Kind::integer, "N", "0",
       "tokens that are generated behind --tokens; a step is what is planned", 0, 4194304},
      {"temperature", Kind::number, "T", "",
       "how freely tokens are drawn; 0: the most likely one (default: as the model says, or 0)", 0,
       1000},
      {"top-k", Kind::integer, "K", "",
       "draw among the K most likely tokens; 0: all (default: as the model says, or 0)", 0,
       no_limit},
      {"top-p", Kind::number, "P", "",
       "draw among the most likely tokens that are P together (default: as the model says, or 1)",
       1e-9, 1},
      {"repetition-penalty", Kind::number, "F", "",
       "makes tokens less likely that the text has already (default: as the model says, or 1)",
       0.001, 1000},
      {"stop", Kind::texts, "TEXT", "", "end a text where this comes"},
      {"ignore-end", Kind::flag, "", "", "go on behind the model's end of text"},
      {"top", Kind::integer, "N", "1", "classes to print, or tokens for a mask", 1, 1000},
      {"logits", Kind::flag, "", "", "print all logits"},
      {"exif-rotation", Kind::flag, "", "", "turn photographs upright as their EXIF says"},
      {"lossy", Kind::flag, "", "", "replace what is no valid UTF-8 instead of refusing it"},
      {"times", Kind::flag, "", "", "say where the time went, predicted beside measured"},
      {"requests", Kind::integer, "N", "200", "requests to measure", 1, 10000000},
      {"warmup", Kind::integer, "N", "20", "requests before that, not counted", 0, 1000000},
      {"concurrency", Kind::integer, "N", "1", "requests in flight at once", 1, 1024},
      {"target", Kind::number, "QUALITY", "0",
       "exit 3 where it is worse than this (accuracy or rank correlation 0..1, or nats)", 0, 1000},
  };
  return table;
}

const Option& find_option(std::string_view name) {
  for (const auto& option : options())
    if (option.name == name) return option;
  throw std::logic_error("no option --" + std::string(name) + " in the table");
}

Args Args::parse(const Command& command, const std::vector<std::string>& words) {
  cxxopts::Options parser("cleave");
  auto add = parser.add_options();
  add("h,help", "");
  for (const auto& name : command.options) {
    const std::string text(name);
    const Option::Kind kind = find_option(name).kind;
    if (kind == Option::Kind::texts)
      add(text, "", cxxopts::value<std::vector<std::string>>());
    else if (kind == Option::Kind::flag)
      add(text, "", cxxopts::value<std::string>()->implicit_value("1"));
    else
      add(text, "", cxxopts::value<std::string>());
  }
  add("positionals", "", cxxopts::value<std::vector<std::string>>());
  parser.parse_positional("positionals");

  std::vector<const char*> argv{"cleave"};
  for (const auto& word : words) argv.push_back(word.c_str());
  std::optional<cxxopts::ParseResult> parsed;
  try {
    parsed = parser.parse(static_cast<int>(argv.size()), argv.data());
  } catch (const cxxopts::exceptions::exception& error) {
    // cxxopts' own words do not name the nearest option: find the word it stumbled over.
    const auto known = known_names(command);
    for (const auto& word : words) {
      if (word.size() < 3 || word.rfind("--", 0) != 0) continue;
      if (std::find(known.begin(), known.end(), word.substr(2, word.find('=') - 2)) == known.end())
        throw unknown_option(command, word);
    }
    throw UsageError("[" + std::string(command.name) + "] " + error.what() + "; see --help");
  }

  Args args;
  args.help_ = parsed->count("help") > 0;
  for (const auto& name : command.options) {
    const Option& option = find_option(name);
    const std::string key(name);
    const char* environment = std::getenv(option.variable().c_str());
    std::string value(option.fallback), where = "--" + key;
    if (option.kind == Option::Kind::texts) {
      if (parsed->count(key) > 0)
        args.lists_[key] = (*parsed)[key].as<std::vector<std::string>>();
      else if (environment != nullptr && *environment != '\0')
        args.lists_[key] = {environment};
      continue;
    }
    if (parsed->count(key) > 0) {
      value = (*parsed)[key].as<std::string>();
      args.given_.insert(key);
    } else if (environment != nullptr && *environment != '\0') {
      value = environment;
      where = option.variable();
      args.given_.insert(key);
    } else if (value.empty()) {
      continue;
    }
    check_value(option, value, where);
    args.values_[key] = value;
  }
  if (parsed->count("positionals") > 0)
    args.positionals_ = (*parsed)["positionals"].as<std::vector<std::string>>();
  if (args.help_) return args;

  std::size_t required = 0;
  for (const auto& positional : command.positionals) required += positional.required ? 1 : 0;
  if (args.positionals_.size() < required)
    throw UsageError(
        "[" + std::string(command.name) + "] " +
        std::string(command.positionals[args.positionals_.size()].name) + " is missing: " +
        std::string(command.positionals[args.positionals_.size()].help) + "; see --help");
  const bool repeated = !command.positionals.empty() && command.positionals.back().repeated;
  if (!repeated && args.positionals_.size() > command.positionals.size())
    throw UsageError("[" + std::string(command.name) + "] saw '" +
                     args.positionals_[command.positionals.size()] +
                     "', which is one argument too many; see --help");
  return args;
}

bool Args::has(std::string_view name) const { return values_.find(name) != values_.end(); }

bool Args::given(std::string_view name) const { return given_.find(name) != given_.end(); }

bool Args::flag(std::string_view name) const {
  const auto found = values_.find(name);
  return found != values_.end() && (found->second == "1" || found->second == "true");
}

std::string Args::text(std::string_view name) const {
  const auto found = values_.find(name);
  if (found != values_.end()) return found->second;
  throw UsageError("[--" + std::string(name) +
                   "] is missing: " + std::string(find_option(name).help));
}

std::vector<std::string> Args::list(std::string_view name) const {
  return base::split(text(name), ',');
}

double Args::number(std::string_view name) const {
  return to_number(find_option(name), text(name));
}
std::vector<std::string> Args::texts(std::string_view name) const {
  const auto found = lists_.find(name);
  return found == lists_.end() ? std::vector<std::string>{} : found->second;
}

std::string Args::text_or(std::string_view name, const std::string& fallback) const {
  return has(name) ? text(name) : fallback;
}

std::int64_t Args::integer(std::string_view name) const {
  return static_cast<std::int64_t>(number(name));
}
double Args::seconds(std::string_view name) const { return number(name); }

std::chrono::milliseconds Args::milliseconds(std::string_view name) const {
  return std::chrono::milliseconds(static_cast<std::int64_t>(1000 * seconds(name)));
}
double Args::bytes(std::string_view name) const { return number(name); }

void check_address(const std::string& text, const std::string& where, int lowest_port) {
  const bool any_port = lowest_port == 0 && text.size() > 2 && text.substr(text.size() - 2) == ":0";
  if (plan::is_address(any_port ? text.substr(0, text.size() - 1) + "1" : text)) return;
  throw UsageError("[" + where + "] saw '" + text + "', needs host:port with a port " +
                   std::to_string(lowest_port) + "..65535");
}

int threads_of(const Args& args, int fallback) {
  const auto wanted = static_cast<int>(args.integer("threads"));
  return wanted > 0 ? wanted : fallback;
}

int all_threads() { return static_cast<int>(std::max(1U, std::thread::hardware_concurrency())); }

std::string help_page(std::string_view program, const Command& command) {
  std::ostringstream out;
  out << program;
  if (!command.name.empty() && program == "cleave") out << ' ' << command.name;
  for (const auto& positional : command.positionals)
    out << ' ' << (positional.required ? "" : "[") << positional.name
        << (positional.repeated ? "…" : "") << (positional.required ? "" : "]");
  out << " [options]\n\n" << command.summary << "\n\n";
  for (const auto& positional : command.positionals) {
    out << "  " << positional.name
        << std::string(positional.name.size() < 26 ? 26 - positional.name.size() : 1, ' ')
        << positional.help << '\n';
  }
  for (const auto& name : command.options) {
    const Option& option = find_option(name);
    std::string left =
        "--" + std::string(name) + (option.value.empty() ? "" : " " + std::string(option.value));
    left += std::string(left.size() < 26 ? 26 - left.size() : 1, ' ');
    out << "  " << left << option.help;
    if (!option.range().empty()) out << " (" << option.range() << ")";
    if (!option.fallback.empty()) out << " [" << option.fallback << "]";
    out << "  " << option.variable() << '\n';
  }
  out << "\nExample:\n  " << command.example << '\n';
  return out.str();
}

}  // namespace cleave::tools
