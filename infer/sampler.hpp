#pragma once

#include <cstdint>
#include <vector>

namespace cleave::infer {

/// How the next token is drawn from logits. Defaults: the most likely one.
struct SamplingOptions {
  /// Logits are divided by it; 0: the most likely token, nothing is drawn.
  double temperature = 0;
  /// Only the k most likely tokens; 0: all.
  std::int64_t top_k = 0;
  /// Only the most likely tokens that have this probability together; 1: all (Holtzman and others
  /// 2020).
  double top_p = 1;
  /// Logits of tokens that the text has already are divided by it where positive, multiplied else
  /// (Keskar and others 2019); 1: none.
  double repetition_penalty = 1;
  std::uint64_t seed = 1;
  /// Throws std::invalid_argument "[sampling] top_p: saw 0, needs more than 0, at most 1".
  void check() const;
};

/// What was chosen, and how clear the choice was.
struct Choice {
  std::int64_t token = 0;
  /// The best logit less the next one, as the model gave them.
  double margin = 0;
};

/// Draws tokens of one text. The same seed and logits: the same tokens, on every machine.
class Sampler {
 public:
  /// `stream` tells texts of one request apart.
  Sampler(const SamplingOptions& options, std::uint64_t stream);
  /// Applied in the order of Transformers: penalty, temperature, top_k, top_p. [V]; `text` is
  /// prompt and what was generated.
  Choice next(const float* logits, std::int64_t vocabulary, const std::vector<std::int64_t>& text);

 private:
  double uniform();

  SamplingOptions options_;
  std::uint64_t state_;
};

}  // namespace cleave::infer
