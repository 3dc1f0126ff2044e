#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "infer/sampler.hpp"
#include "net/buffer.hpp"
#include "optimizer/plan/instruction.hpp"

namespace cleave::infer {

// How choosing tokens is told in the values of a program: what an engine needs for keep_ids, best
// and sample. Values are in this layout, row by row a text:
//
//   sampling  i64 [B, 8]         seed, stream, step, vocabulary, top_k; the bits of the doubles
//                                temperature, top_p, repetition_penalty
//   best      f64 [B, 2k + 6]    mass, left_out; token and logit of k candidates, then of the two
//                                that are drawn; token −1 where there is none
//   choice    f64 [B, 3]         token (−1: none), margin, 1 where it is certain

/// Row i is of stream i.
net::Value value_of(const Sampling& sampling, std::int64_t texts);
/// One row. Throws std::invalid_argument where an option is out of its range.
Draw draw_of(const std::int64_t* row);

void write_shard(const Shard& shard, std::int64_t k, double* row);
/// Throws std::runtime_error where a row is none, as another device may send.
Shard read_shard(const double* row, std::int64_t k);

void write_choice(const Choice& choice, double* row);
/// What a request for tokens is answered with. Throws std::runtime_error where it is not of B
/// texts.
std::vector<Choice> choices_of(const net::Value& value, std::size_t texts);
/// Whether some token has to be chosen from all logits: by the same request, `from_kept`.
bool needs_logits(const net::Value& choices);

/// What is kept of the texts of a sequence for choosing tokens, beside keys and values.
class KeptTexts {
 public:
  /// New ids int32 [B, N] (−1: padding) behind `past` tokens (of the longest). A step that is asked
  /// again begins where it began.
  void add(std::int64_t past, const std::int32_t* ids, std::size_t texts, std::size_t tokens);
  const std::vector<Text>& texts() const { return texts_; }
  /// All tokens are there. False where some steps were not added.
  bool is_whole() const { return whole_; }
  /// The last step has tokens of the text.
  bool goes_on(std::size_t text) const { return goes_on_.at(text); }

  /// By text, what best(k) left for kept_logits: none of a text that did not go on, and nothing at
  /// all where the choice is certain.
  std::vector<std::vector<double>> logits;

 private:
  std::size_t longest() const;

  std::vector<Text> texts_;
  std::vector<bool> goes_on_;
  std::map<std::size_t, std::vector<std::size_t>> lengths_at_;  // before a step, by the longest
  bool whole_ = true;
};

/// best(k) on logits [B, v] of tokens from `first` on -> `rows`, f64 [B, best_columns(k)]. `kept`:
/// null where the logits are penalised. Throws std::runtime_error.
void run_best(const plan::Best& best, std::vector<std::vector<double>> logits,
              const std::int64_t* sampling, KeptTexts* kept, double* rows);
/// sample on what ranks say, each with its k -> `rows`, f64 [B, choice_columns].
struct ShardRows {
  const double* rows;
  std::int64_t k;
};
void run_sample(const std::vector<ShardRows>& shards, const std::int64_t* sampling,
                std::size_t texts, double* rows);

}  // namespace cleave::infer
