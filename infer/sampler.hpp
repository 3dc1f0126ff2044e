#pragma once

#include <cstdint>
#include <vector>

namespace cleave::infer {

/// How the next token is chosen from logits. Defaults: the most likely one.
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

/// What a request says of how the next token of each of its texts is chosen.
struct Sampling {
  SamplingOptions options;
  /// Of the text that is generated: every step has noise of its own.
  std::int64_t step = 0;
  /// Ids from here on are never chosen: a vocabulary may be filled up behind its tokens. 0: all
  /// may.
  std::int64_t vocabulary = 0;
  /// Throws std::invalid_argument.
  void check() const;
};

/// The same of one text. `stream` tells texts of one request apart.
struct Draw {
  Sampling sampling;
  std::int64_t stream = 0;
};

/// Gumbel noise −log(−log u) by token, with u in (0, 1) from (seed, stream, step, token) alone:
/// the counter-based form of SplitMix64 (Steele and others 2014). The token with the largest sum of
/// logit/T and noise is a draw from softmax(logits/T), also of some of the tokens alone
/// (Gumbel-max; Maddison and others 2014), so that devices with a part of the vocabulary each draw
/// together what one with all of it draws.
class Noise {
 public:
  explicit Noise(const Draw& draw);
  double operator()(std::int64_t token) const;
  /// At least the noise; much cheaper.
  double bound(std::int64_t token) const;

 private:
  std::uint64_t bits(std::int64_t token) const;
  std::uint64_t key_;
};

/// A token that may be chosen, and its logit behind the penalty.
struct Candidate {
  std::int64_t token = 0;
  double logit = 0;
};

/// What of the logits of a part of the vocabulary decides which token is chosen.
struct Shard {
  /// Σ exp((logit − largest)/T); 0 where the options do not ask for it.
  double mass = 0;
  /// Tokens that may be chosen, beside those in `best`.
  std::int64_t left_out = 0;
  /// The most likely tokens, the first of equal ones first.
  std::vector<Candidate> best;
  /// The two with the largest sum of logit/T and noise, or fewer; none where `best` is enough.
  std::vector<Candidate> drawn;
};

/// What was chosen.
struct Choice {
  std::int64_t token = -1;  // −1: there was nothing to choose from
  /// How far the next one is behind, as a difference of logits (of drawn ones with T times their
  /// noise), behind the penalty; infinite where there is none.
  double margin = 0;
  /// False: the shards left out what could be chosen. The token is none.
  bool certain = true;
};

using Text = std::vector<std::int64_t>;  // token ids

/// Applies the repetition penalty to logits of the tokens from `first` on; what it changes are
/// numbers of fp32. `text` is prompt and what was generated.
void penalise(const SamplingOptions& options, const Text& text, std::int64_t first,
              std::vector<double>& logits);
/// Of penalised logits of the tokens from `first` on, with `k` candidates, 2 or more where
/// there are as many. Throws
/// std::runtime_error where a logit is no number.
Shard shard_of(const Draw& draw, std::int64_t first, const std::vector<double>& logits,
               std::int64_t k);
/// Whether a choice from shards of k candidates each may not be certain.
bool may_need_more(const SamplingOptions& options, std::int64_t k);
/// Chooses from shards that have the whole vocabulary together, in the order of Transformers: top_k
/// of the penalised logits, temperature, top_p of what is left. Any division of the vocabulary
/// gives the same token. Where the k best of each shard do not say which tokens are allowed, the
/// choice is still certain if the token with the largest sum of all is surely one of them.
Choice choose(const Draw& draw, const std::vector<Shard>& shards);

}  // namespace cleave::infer
