#include "infer/generate.hpp"

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "infer/draws.hpp"

namespace cleave::infer {
namespace {

void check_prompts(const std::vector<Text>& prompts, const GenerateOptions& options) {
  if (prompts.empty())
    throw std::invalid_argument("[generate] prompts: saw none, needs at least 1");
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::string name =
        i < options.names.size() ? options.names[i] : "prompt " + std::to_string(i);
    const std::string where = "[generate] " + name + ": saw ";
    const auto tokens = static_cast<std::int64_t>(prompts[i].size());
    if (tokens == 0) throw std::invalid_argument(where + "no token, needs at least 1");
    if (tokens + options.max_tokens > options.context)
      throw std::invalid_argument(where + std::to_string(tokens) + " tokens and " +
                                  std::to_string(options.max_tokens) +
                                  " to generate, needs at most " + std::to_string(options.context) +
                                  " together, " + options.context_name);
  }
}

}  // namespace

void GenerateOptions::check() const {
  if (max_tokens < 1)
    throw std::invalid_argument("[generate] max_tokens: saw " + std::to_string(max_tokens) +
                                ", needs at least 1");
  sampling.check();
}

std::vector<Generated> generate(const Continue& ask, std::uint64_t sequence,
                                const std::vector<Text>& prompts, const GenerateOptions& options,
                                const OnToken& on_token, std::exception_ptr* failure) {
  options.check();
  check_prompts(prompts, options);
  std::vector<Generated> results(prompts.size());
  std::vector<Text> fresh = prompts;
  std::vector<std::size_t> seen(prompts.size(), 0);  // tokens that the devices have
  std::vector<bool> running(prompts.size(), true);
  std::size_t longest = 0;
  for (const Text& prompt : prompts) longest = std::max(longest, prompt.size());
  Sequence at{sequence, 0, static_cast<std::int64_t>(longest) + options.max_tokens};
  for (std::int64_t step = 0; step < options.max_tokens; ++step) {
    at.past = static_cast<std::int64_t>(*std::max_element(seen.begin(), seen.end()));
    std::vector<Choice> choices;
    try {
      choices = choices_of(ask(filled_up(fresh), at, {options.sampling, step, options.vocabulary}),
                           fresh.size());
      for (std::size_t i = 0; i < choices.size(); ++i)
        if (running[i] && choices[i].token < 0)
          throw std::runtime_error("[generate] answer: saw no token of text " + std::to_string(i));
    } catch (...) {
      if (failure == nullptr) throw;
      *failure = std::current_exception();
      for (std::size_t i = 0; i < results.size(); ++i)
        if (running[i]) results[i].ending = Ending::failed;
      return results;
    }
    for (std::size_t i = 0; i < fresh.size(); ++i) {
      seen[i] += fresh[i].size();
      fresh[i].clear();
      if (!running[i]) continue;
      const Choice& choice = choices[i];
      const auto& ends = options.end_tokens;
      if (std::find(ends.begin(), ends.end(), choice.token) != ends.end()) {
        results[i].ending = Ending::end_token;
        running[i] = false;
        continue;
      }
      results[i].tokens.push_back(choice.token);
      results[i].margins.push_back(choice.margin);
      fresh[i] = {choice.token};
      if (on_token && !on_token(i, choice.token)) {
        results[i].ending = Ending::stopped;
        running[i] = false;
        fresh[i].clear();
      }
    }
    if (std::find(running.begin(), running.end(), true) == running.end()) break;
  }
  return results;
}

net::Value filled_up(const std::vector<Text>& texts) {
  std::size_t longest = 1;
  for (const Text& text : texts) longest = std::max(longest, text.size());
  auto ids = std::make_shared<std::vector<std::int32_t>>(texts.size() * longest, -1);
  for (std::size_t i = 0; i < texts.size(); ++i)
    std::transform(texts[i].begin(), texts[i].end(),
                   ids->begin() + static_cast<std::ptrdiff_t>(i * longest),
                   [](std::int64_t id) { return static_cast<std::int32_t>(id); });
  net::Value value;
  value.element = base::Element::i32;
  value.dims = {static_cast<std::int64_t>(texts.size()), static_cast<std::int64_t>(longest)};
  value.data = net::Buffer(ids, reinterpret_cast<const std::byte*>(ids->data()),
                           ids->size() * sizeof(std::int32_t));
  return value;
}

}  // namespace cleave::infer
