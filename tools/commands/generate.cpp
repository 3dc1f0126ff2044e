#include "infer/generate.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <type_traits>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/units.hpp"
#include "infer/engine.hpp"
#include "model/config/hugging_face.hpp"
#include "model/tokenizer/text_stream.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/serving.hpp"
#include "tools/commands/statistics.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"

namespace cleave::tools {
namespace {

/// "1 2 3; 4 5" -> two texts.
std::vector<infer::Text> ids_of(const std::string& text) {
  std::vector<infer::Text> texts;
  std::istringstream all(text);
  for (std::string one; std::getline(all, one, ';');) {
    texts.emplace_back();
    std::istringstream words(one);
    for (std::string word; words >> word;) {
      std::size_t used = 0;
      std::int64_t id = -1;
      try {
        id = std::stoll(word, &used);
      } catch (const std::exception&) {
      }
      if (used != word.size() || id < 0 || id > std::numeric_limits<std::int32_t>::max())
        throw UsageError("[--ids] saw '" + word + "', needs token numbers");
      texts.back().push_back(id);
    }
  }
  return texts;
}

/// Throws std::runtime_error where the model does not generate.
void expect_generates(const model::ModelConfig& config, const std::string& where) {
  if (config.task == model::Task::causal_lm && config.classes > 0) return;
  throw std::runtime_error("[" + where +
                           "] saw a model that does not generate, needs a causal language model "
                           "with its head (GPT2LMHeadModel, LlamaForCausalLM)");
}

/// Standard output as one text goes on in it.
class Screen {
 public:
  /// Nothing is shown where `prompt` is none.
  explicit Screen(std::optional<std::string> prompt) : prompt_(std::move(prompt)) {}

  /// The prompt comes with the first of it.
  void show(const std::string& more) {
    if (!prompt_) return;
    const std::string text = shown_ ? more : *prompt_ + more;
    shown_ = true;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  /// A line of its own on standard error, also where both are one terminal.
  void say(const std::string& line) const {
    const bool in_line = shown_ && isatty(STDOUT_FILENO) != 0;
    std::fprintf(stderr, "%s%s\n", in_line ? "\n" : "", line.c_str());
  }
  void end() const {
    if (shown_) std::printf("\n");
  }
  bool shows() const { return prompt_.has_value(); }

 private:
  std::optional<std::string> prompt_;
  bool shown_ = false;
};

/// Steps on a service, and what they took.
class Asking {
 public:
  Asking(const Args& args, infer::Service& service, const Screen& screen)
      : service_(service),
        screen_(screen),
        deadline_(args.milliseconds("deadline")),
        require_all_(args.flag("require-all")),
        id(service.new_sequence()) {}
  ~Asking() { service_.end_sequence(id); }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

  net::Value operator()(const net::Value& ids, const infer::Sequence& at,
                        const infer::Sampling& sampling) {
    if (stop_wanted()) throw std::runtime_error("[generate] stopped on request");
    infer::Request request;
    request.input = ids;
    request.sequence = at;
    request.sampling = sampling;
    request.deadline = deadline_;
    request.require_all = require_all_;
    last = ask(service_, std::move(request));
    if (last.status == infer::Status::no_device) throw NobodyAnswers(last.message);
    if (last.status != infer::Status::answered) throw std::runtime_error(last.message);
    seconds.push_back(last.total_s);
    for (const auto& device : last.devices)
      if (!device.present && missing.emplace(device.device, device.why).second)
        screen_.say("token " + std::to_string(seconds.size()) + " on: without '" + device.device +
                    "'" + (device.why.empty() ? "" : " (" + device.why + ")"));
    return last.output;
  }

 private:
  infer::Service& service_;
  const Screen& screen_;
  std::chrono::milliseconds deadline_;
  bool require_all_;

 public:
  std::uint64_t id;
  std::vector<double> seconds;                 // the prompt's, then each step's
  std::map<std::string, std::string> missing;  // device -> why
  infer::Response last;
};

std::string_view name_of(infer::Ending ending) {
  switch (ending) {
    case infer::Ending::length:
      return "length";
    case infer::Ending::end_token:
      return "end of text";
    case infer::Ending::stopped:
      return "stop string";
    case infer::Ending::failed:
      return "failed";
  }
  return "?";
}

/// The options, and where one is not given what the model's own files say, which is said where it
/// makes a difference.
infer::SamplingOptions sampling_of(const Args& args, const model::SamplingDefaults& usual) {
  infer::SamplingOptions sampling;
  std::string said;
  const auto choose = [&](const char* option, double own, auto& value) {
    const double neutral = static_cast<double>(value);
    const double chosen = args.given(option) ? args.number(option) : own;
    value = static_cast<std::remove_reference_t<decltype(value)>>(chosen);
    if (!args.given(option) && own != neutral)
      said += (said.empty() ? " --" : ", --") + std::string(option) + format(" %g", own);
  };
  choose("temperature", usual.temperature, sampling.temperature);
  choose("repetition-penalty", usual.repetition_penalty, sampling.repetition_penalty);
  if (sampling.temperature > 0) {
    choose("top-k", static_cast<double>(usual.top_k), sampling.top_k);
    choose("top-p", usual.top_p, sampling.top_p);
  }
  if (!said.empty())
    std::fprintf(stderr, "tokens are drawn as the model's files say:%s\n", said.c_str());
  return sampling;
}

infer::GenerateOptions options_of(const Args& args, const model::ModelConfig& config) {
  infer::GenerateOptions options;
  options.max_tokens = args.integer("tokens");
  options.context = config.context;
  options.context_name = config.context_name();
  options.end_tokens = config.end_tokens;
  if (args.flag("ignore-end")) options.end_tokens.clear();
  options.sampling = sampling_of(args, config.sampling);
  options.sampling.seed = static_cast<std::uint64_t>(args.integer("seed"));
  return options;
}

nlohmann::json to_json(const infer::Generated& text, const Asking& asking) {
  const auto close = std::count_if(text.margins.begin(), text.margins.end(),
                                   [](double margin) { return margin < 1e-3; });
  nlohmann::json json = {{"ids", text.tokens},
                         {"ending", name_of(text.ending)},
                         {"close_choices", close},
                         {"missing", asking.missing},
                         {"prompt_s", asking.seconds.front()}};
  if (asking.seconds.size() > 1) {
    const std::vector<double> steps(asking.seconds.begin() + 1, asking.seconds.end());
    const Spread spread = spread_of(steps);
    json["token_s"] = spread.median;
    json["token_mad_s"] = spread.mad;
  }
  return json;
}

struct Prompts {
  std::vector<std::string> words;  // none where they came as ids
  std::vector<infer::Text> ids;
  std::vector<model::TextStream> streams;  // of each text, what follows
};

void print(const std::vector<infer::Generated>& results, const Prompts& prompts,
           const std::vector<std::string>& texts, const Args& args, const Asking& asking,
           plan::WeightsState weights) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (args.json()) {
      auto json = to_json(results[i], asking);
      json["weights"] = plan::name_of(weights);
      if (!prompts.words.empty()) json["prompt"] = prompts.words[i];
      if (!prompts.words.empty()) json["text"] = texts[i];
      std::printf("%s\n", json.dump(-1, ' ', false, replace_invalid).c_str());
    } else if (!prompts.words.empty()) {
      std::printf("%s%s\n", prompts.words[i].c_str(), texts[i].c_str());
    } else {
      for (const auto id : results[i].tokens) std::printf("%lld ", static_cast<long long>(id));
      std::printf("\n");
    }
  }
}

void print_times(const Asking& asking, const plan::Plan& plan) {
  const std::vector<double> steps(asking.seconds.begin() + 1, asking.seconds.end());
  std::printf("\nprompt %s", base::format_seconds(asking.seconds.front()).c_str());
  if (!steps.empty())
    std::printf(", a token %s (MAD %s)", base::format_seconds(spread_of(steps).median).c_str(),
                base::format_seconds(spread_of(steps).mad).c_str());
  std::printf("; the last one:\n%s", times_table(asking.last, plan).c_str());
}

/// What was generated is shown, also where a later token failed.
int go_on(const Args& args, const Source& source, Prompts prompts,
          const infer::GenerateOptions& options) {
  std::vector<std::string> texts(prompts.ids.size());
  const bool streaming = prompts.words.size() == 1 && !args.json();
  Screen screen(streaming ? std::optional(prompts.words.front()) : std::nullopt);
  const auto service = source.open();
  Asking asking(args, *service, screen);
  const auto show = [&](std::size_t i, const std::string& more) {
    texts[i] += more;
    screen.show(more);
  };
  std::exception_ptr failure;
  bool warned = false;
  const auto results = infer::generate(
      std::ref(asking), asking.id, prompts.ids, options,
      [&](std::size_t i, std::int64_t token) {
        if (!warned) warn_of_weights(source.weights, source.where);
        warned = true;
        if (prompts.streams.empty()) return true;
        show(i, prompts.streams[i].push(static_cast<model::TokenId>(token)));
        return !prompts.streams[i].stopped();
      },
      &failure);
  if (failure && asking.seconds.empty()) std::rethrow_exception(failure);
  for (std::size_t i = 0; i < prompts.streams.size(); ++i) show(i, prompts.streams[i].finish());
  screen.end();
  if (!screen.shows()) print(results, prompts, texts, args, asking, source.weights);
  if (args.flag("times") && !args.json()) print_times(asking, source.plan);
  std::fflush(stdout);
  if (failure) std::rethrow_exception(failure);
  return exit_done;
}

int generate(const Args& args) {
  if (args.has("ids") && (args.positionals().size() > 1 || args.has("prompts")))
    throw UsageError("[--ids] saw prompts too, needs one of them");
  if (args.has("ids") && !args.texts("stop").empty())
    throw UsageError("[--stop] saw --ids too, needs prompts that are texts");
  check_way(args);
  infer::set_threads(threads_of(args, 1));
  const auto given = texts_of(args, {args.positionals().begin() + 1, args.positionals().end()},
                              "prompt", "prompts");
  if (given.empty() && !args.has("ids"))
    throw UsageError("[generate] needs a PROMPT, --prompts FILE or --ids; see --help");
  const Source source = source_of(args, args.at(0));
  const model::ModelConfig& config = source.plan.teacher;
  expect_generates(config, args.at(0));
  std::optional<model::Tokenizer> tokenizer;
  std::vector<infer::Text> prompts;
  if (args.has("ids"))
    prompts = ids_of(args.text("ids"));
  else
    tokenizer = model::read_tokenizer(source.tokenizer, config.vocabulary);
  std::vector<model::TextStream> streams;
  std::vector<std::string> stops;
  for (const std::string& stop : args.texts("stop"))
    stops.push_back(checked_text(args, stop, "--stop"));
  infer::GenerateOptions options = options_of(args, config);
  std::vector<std::string> words;
  for (const auto& [text, where] : given) {
    auto ids = tokenizer->encode(text);
    prompts.emplace_back(ids.begin(), ids.end());
    streams.emplace_back(*tokenizer, std::move(ids), stops);
    words.push_back(text);
    options.names.push_back(where);
  }
  if (tokenizer) options.vocabulary = tokenizer->vocabulary_size();
  return with_every_device(args, [&] {
    return go_on(args, source, Prompts{words, prompts, std::move(streams)}, options);
  });
}

}  // namespace

Command generate_command() {
  return {"generate",
          "go on with prompts: a model alone, or a bundle as aggregator, --local or --via",
          {{"MODEL", "model or bundle folder"}, {"PROMPT", "how the texts begin", false, true}},
          {"prompts",
           "ids",
           "tokens",
           "temperature",
           "top-k",
           "top-p",
           "repetition-penalty",
           "seed",
           "stop",
           "ignore-end",
           "lossy",
           "local",
           "via",
           "fleet",
           "hosts",
           "plan",
           "without",
           "require-all",
           "deadline",
           "join-timeout",
           "pace",
           "pace-turns",
           "threads",
           "times",
           "format",
           "verbose"},
          "cleave generate bundle/ \"To be, or not to be\" --tokens 100 --temperature 0.8",
          generate};
}

}  // namespace cleave::tools
