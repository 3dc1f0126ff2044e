#include "infer/draws.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace cleave::infer {
namespace {

std::int64_t bits_of(double number) {
  std::int64_t bits = 0;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}

double double_of(std::int64_t bits) {
  double number = 0;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

/// A whole number in a row of doubles. Throws std::runtime_error.
std::int64_t integer(double number, double least, const char* what) {
  constexpr double most = std::numeric_limits<std::int32_t>::max();
  if (!(number >= least && number <= most) || number != std::floor(number))
    throw std::runtime_error(std::string("[sample] ") + what + ": saw " + std::to_string(number) +
                             ", needs a whole number from " +
                             std::to_string(static_cast<int>(least)) + " on");
  return static_cast<std::int64_t>(number);
}

double finite(double number, const char* what) {
  if (!std::isfinite(number))
    throw std::runtime_error(std::string("[sample] ") + what + ": saw " + std::to_string(number) +
                             ", needs a finite number");
  return number;
}

double* write(const std::vector<Candidate>& candidates, std::int64_t k, double* at) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(k); ++i) {
    const Candidate next = i < candidates.size() ? candidates[i] : Candidate{-1, 0};
    *at++ = static_cast<double>(next.token);
    *at++ = next.logit;
  }
  return at;
}

std::vector<Candidate> read(const double*& at, std::int64_t k) {
  std::vector<Candidate> candidates;
  for (std::int64_t i = 0; i < k; ++i, at += 2) {
    const Candidate next{integer(at[0], -1, "token"), finite(at[1], "logit")};
    if (next.token >= 0) candidates.push_back(next);
  }
  return candidates;
}

}  // namespace

net::Value value_of(const Sampling& sampling, std::int64_t texts) {
  const SamplingOptions& options = sampling.options;
  std::vector<std::int64_t> rows;
  for (std::int64_t stream = 0; stream < texts; ++stream)
    for (const std::int64_t number :
         {static_cast<std::int64_t>(options.seed), stream, sampling.step, sampling.vocabulary,
          options.top_k, bits_of(options.temperature), bits_of(options.top_p),
          bits_of(options.repetition_penalty)})
      rows.push_back(number);
  net::Value value;
  value.element = base::Element::i64;
  value.dims = {texts, plan::sampling_columns};
  value.data = net::Buffer::copy_of(rows.data(), rows.size() * sizeof(std::int64_t));
  return value;
}

Draw draw_of(const std::int64_t* row) {
  Draw draw;
  SamplingOptions& options = draw.sampling.options;
  options.seed = static_cast<std::uint64_t>(row[0]);
  draw.stream = row[1];
  draw.sampling.step = row[2];
  draw.sampling.vocabulary = row[3];
  options.top_k = row[4];
  options.temperature = double_of(row[5]);
  options.top_p = double_of(row[6]);
  options.repetition_penalty = double_of(row[7]);
  draw.sampling.check();
  return draw;
}

void write_shard(const Shard& shard, std::int64_t k, double* row) {
  *row++ = shard.mass;
  *row++ = static_cast<double>(shard.left_out);
  write(shard.drawn, 2, write(shard.best, k, row));
}

Shard read_shard(const double* row, std::int64_t k) {
  Shard shard;
  shard.mass = finite(*row++, "mass");
  shard.left_out = integer(*row++, 0, "left_out");
  shard.best = read(row, k);
  shard.drawn = read(row, 2);
  return shard;
}

void write_choice(const Choice& choice, double* row) {
  row[0] = static_cast<double>(choice.token);
  row[1] = choice.margin;
  row[2] = choice.certain ? 1 : 0;
}

std::vector<Choice> choices_of(const net::Value& value, std::size_t texts) {
  const std::vector<std::int64_t> dims = {static_cast<std::int64_t>(texts), plan::choice_columns};
  if (!value.present || value.element != base::Element::f64 || value.dims != dims ||
      static_cast<std::int64_t>(value.data.size()) != value.bytes())
    throw std::runtime_error("[generate] answer: saw other than a token of each text");
  std::vector<Choice> choices;
  for (std::size_t i = 0; i < texts; ++i) {
    double row[plan::choice_columns];
    std::memcpy(row, value.data.data() + i * sizeof row, sizeof row);
    choices.push_back({integer(row[0], -1, "token"), row[1], row[2] == 1});
  }
  return choices;
}

bool needs_logits(const net::Value& choices) {
  const auto list = choices_of(choices, static_cast<std::size_t>(choices.dims.at(0)));
  return std::any_of(list.begin(), list.end(),
                     [](const Choice& choice) { return !choice.certain; });
}

std::size_t KeptTexts::longest() const {
  std::size_t most = 0;
  for (const Text& text : texts_) most = std::max(most, text.size());
  return most;
}

void KeptTexts::add(std::int64_t past, const std::int32_t* ids, std::size_t texts,
                    std::size_t tokens) {
  const auto before = static_cast<std::size_t>(past);
  if (before == 0 || texts_.size() != texts) {
    whole_ = before == 0;
    texts_.assign(texts, {});
    lengths_at_.clear();
  } else if (before != longest()) {
    const auto found = lengths_at_.find(before);
    whole_ = whole_ && found != lengths_at_.end();
    if (found != lengths_at_.end()) {
      for (std::size_t i = 0; i < texts; ++i) texts_[i].resize(found->second[i]);
      lengths_at_.erase(found, lengths_at_.end());
    }
  }
  auto& lengths = lengths_at_[before];
  lengths.clear();
  for (const Text& text : texts_) lengths.push_back(text.size());
  logits.clear();
  goes_on_.assign(texts, false);
  for (std::size_t i = 0; i < texts; ++i)
    for (std::size_t t = 0; t < tokens; ++t)
      if (const std::int32_t id = ids[i * tokens + t]; id >= 0) {
        texts_[i].push_back(id);
        goes_on_[i] = true;
      }
}

void run_best(const plan::Best& best, std::vector<std::vector<double>> logits,
              const std::int64_t* sampling, KeptTexts* kept, double* rows) {
  bool may_need = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const Draw draw = draw_of(sampling + i * plan::sampling_columns);
    const SamplingOptions& options = draw.sampling.options;
    if (kept != nullptr && kept->goes_on(i)) {
      if (options.repetition_penalty != 1 && !kept->is_whole())
        throw std::runtime_error(
            "[best] repetition_penalty: saw a text whose tokens are not all known, needs them to "
            "be asked for from its beginning on");
      penalise(options, kept->texts()[i], best.vocabulary.begin, logits[i]);
    }
    // A text that has ended has no next token.
    const bool chooses = kept == nullptr ? !std::isnan(logits[i].at(0)) : kept->goes_on(i);
    if (!chooses) logits[i].clear();
    const Shard shard =
        chooses ? shard_of(draw, best.vocabulary.begin, logits[i], best.k) : Shard();
    write_shard(shard, best.k, rows + i * static_cast<std::size_t>(plan::best_columns(best.k)));
    may_need = may_need || may_need_more(options, best.k);
  }
  if (kept != nullptr && may_need) kept->logits = std::move(logits);
}

void run_sample(const std::vector<ShardRows>& shards, const std::int64_t* sampling,
                std::size_t texts, double* rows) {
  for (std::size_t i = 0; i < texts; ++i) {
    std::vector<Shard> of_text;
    for (const ShardRows& shard : shards)
      of_text.push_back(read_shard(
          shard.rows + i * static_cast<std::size_t>(plan::best_columns(shard.k)), shard.k));
    write_choice(choose(draw_of(sampling + i * plan::sampling_columns), of_text),
                 rows + i * plan::choice_columns);
  }
}

}  // namespace cleave::infer
