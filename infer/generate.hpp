#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "infer/executor.hpp"
#include "infer/sampler.hpp"
#include "net/buffer.hpp"

namespace cleave::infer {

struct GenerateOptions {
  std::int64_t max_tokens = 64;
  SamplingOptions sampling;
  /// Any of these ends a text (and is not part of it).
  std::vector<std::int64_t> end_tokens;
  /// Most tokens of prompt and answer.
  std::int64_t context = 0;
  std::string context_name = "the model's context";
  /// Ids from here on are never drawn: a vocabulary may be filled up behind its tokens. 0: all may.
  std::int64_t vocabulary = 0;
  /// What a refusal calls each prompt. Empty: "prompt 0" and so on.
  std::vector<std::string> names;
  /// Throws std::invalid_argument.
  void check() const;
};

/// Why a text ended.
enum class Ending { length, end_token, stopped, failed };

struct Generated {
  Text tokens;  // without the prompt
  Ending ending = Ending::length;
  std::vector<double> margins;  // of each token: see Choice
};

/// The model, wherever it runs: new tokens of each text, int32 [B, N] (−1 fills up; a text that has
/// ended has none) -> each text's next token, as choices_of() reads it.
using Continue = std::function<net::Value(const net::Value& ids, const Sequence& sequence,
                                          const Sampling& sampling)>;
/// Hears of each token as it comes; false: this text is at its end.
using OnToken = std::function<bool(std::size_t text, std::int64_t token)>;

/// Generates a continuation of each prompt, all in one sequence. Throws std::invalid_argument where
/// a prompt is empty, or with the answer longer than the context ("[generate] prompt 0: saw 1020
/// tokens and 64 to generate, needs at most 1024 together"). What `ask` throws goes to `failure`,
/// and the texts end where they are; without one it is thrown on.
std::vector<Generated> generate(const Continue& ask, std::uint64_t sequence,
                                const std::vector<Text>& prompts, const GenerateOptions& options,
                                const OnToken& on_token = {},
                                std::exception_ptr* failure = nullptr);

/// Texts as a request holds them: int32 [B, N], −1 at the end of the shorter ones.
net::Value filled_up(const std::vector<Text>& texts);

}  // namespace cleave::infer
