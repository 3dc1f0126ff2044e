#include "infer/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <stdexcept>

namespace cleave::infer {
namespace {

void expect(bool holds, const std::string& field, double saw, const std::string& needs) {
  if (holds) return;
  std::ostringstream text;
  text << "[sampling] " << field << ": saw " << saw << ", needs " << needs;
  throw std::invalid_argument(text.str());
}

constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;

/// The finaliser of SplitMix64 (Steele and others 2014).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

bool is_before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/// The k first of logits, in order.
std::vector<Candidate> first_of(std::int64_t first, const std::vector<double>& logits,
                                std::size_t count, std::size_t k) {
  std::vector<Candidate> best;  // a heap, the last one in front
  for (std::size_t i = 0; i < count; ++i) {
    const Candidate next{first + static_cast<std::int64_t>(i), logits[i]};
    if (best.size() == k) {
      if (!is_before(next, best.front())) continue;
      std::pop_heap(best.begin(), best.end(), is_before);
      best.pop_back();
    }
    best.push_back(next);
    std::push_heap(best.begin(), best.end(), is_before);
  }
  std::sort_heap(best.begin(), best.end(), is_before);
  return best;
}

/// The two candidates with the largest scores.
class TwoBest {
 public:
  double second_score() const { return second_score_; }
  void add(const Candidate& candidate, double score) {
    if (is_above(candidate, score, best_, best_score_)) {
      second_ = best_;
      second_score_ = best_score_;
      best_ = candidate;
      best_score_ = score;
    } else if (is_above(candidate, score, second_, second_score_)) {
      second_ = candidate;
      second_score_ = score;
    }
  }
  std::vector<Candidate> list() const {
    std::vector<Candidate> found;
    if (best_.token >= 0) found.push_back(best_);
    if (second_.token >= 0) found.push_back(second_);
    return found;
  }
  const Candidate& best() const { return best_; }
  double difference() const { return best_score_ - second_score_; }

 private:
  static bool is_above(const Candidate& a, double a_score, const Candidate& b, double b_score) {
    return b.token < 0 || a_score > b_score || (a_score == b_score && a.token < b.token);
  }
  static constexpr double none = -std::numeric_limits<double>::infinity();
  Candidate best_{-1, 0}, second_{-1, 0};
  double best_score_ = none, second_score_ = none;
};

/// Which tokens may be chosen, as far as shards tell.
struct Allowed {
  std::size_t at_least = 0;  // so many of the first
  bool exactly = false;      // and no others
};

/// `known`: so many of `order` are the most likely of all; `all`: tokens there are.
Allowed allowed_of(const SamplingOptions& options, const std::vector<Candidate>& order,
                   std::size_t known, std::size_t all, double total) {
  const std::size_t most =
      options.top_k > 0 ? std::min(all, static_cast<std::size_t>(options.top_k)) : all;
  const std::size_t count = std::min(most, known);
  if (options.top_p == 1) return {count, most <= known};
  const auto weight = [&](std::size_t i) {
    return std::exp((order[i].logit - order.front().logit) / options.temperature);
  };
  bool total_is_known = true;
  if (most < all) {
    // What is behind the known ones could only add to the sum.
    total = 0;
    for (std::size_t i = 0; i < count; ++i) total += weight(i);
    total_is_known = most <= known;
  }
  // The last one is the one that reaches top_p.
  double sum = 0;
  std::size_t n = 0;
  while (n < count && (n == 0 || sum < options.top_p * total)) sum += weight(n++);
  const bool reached = sum >= options.top_p * total;
  return {n, total_is_known && (reached || n == most)};
}

}  // namespace

void SamplingOptions::check() const {
  expect(temperature >= 0 && temperature <= 1000, "temperature", temperature, "0..1000");
  expect(top_k >= 0, "top_k", static_cast<double>(top_k), "0 or more");
  expect(top_p > 0 && top_p <= 1, "top_p", top_p, "more than 0, at most 1");
  expect(repetition_penalty > 0 && repetition_penalty <= 1000, "repetition_penalty",
         repetition_penalty, "more than 0, at most 1000");
}

void Sampling::check() const {
  options.check();
  expect(step >= 0, "step", static_cast<double>(step), "0 or more");
  expect(vocabulary >= 0, "vocabulary", static_cast<double>(vocabulary), "0 (all) or more");
}

Noise::Noise(const Draw& draw) : key_(mix(draw.sampling.options.seed + golden)) {
  key_ = mix((key_ ^ static_cast<std::uint64_t>(draw.stream)) + golden);
  key_ = mix((key_ ^ static_cast<std::uint64_t>(draw.sampling.step)) + golden);
}

/// 53 of them.
std::uint64_t Noise::bits(std::int64_t token) const {
  return mix(key_ + (static_cast<std::uint64_t>(token) + 1) * golden) >> 11;
}

double Noise::operator()(std::int64_t token) const {
  const double u = (static_cast<double>(bits(token)) + 0.5) / 9007199254740992.0;  // 2^53
  return -std::log(-std::log(u));
}

/// −log(−log u) ≤ −log(1 − u), and 1 − u ≥ 2^(b − 53), where b is the highest bit of what is left
/// of 2^53.
double Noise::bound(std::int64_t token) const {
  const std::uint64_t left = (std::uint64_t{1} << 53) - 1 - bits(token);
  if (left == 0) return 55 * std::log(2.0);
  const int highest = 63 - __builtin_clzll(left);
  return (53 - highest) * std::log(2.0);
}

void penalise(const SamplingOptions& options, const Text& text, std::int64_t first,
              std::vector<double>& logits) {
  if (options.repetition_penalty == 1) return;
  for (const std::int64_t token : std::set<std::int64_t>(text.begin(), text.end())) {
    const std::int64_t at = token - first;
    if (at < 0 || at >= static_cast<std::int64_t>(logits.size())) continue;
    double& logit = logits[static_cast<std::size_t>(at)];
    const double penalty = options.repetition_penalty;
    logit = static_cast<float>(logit > 0 ? logit / penalty : logit * penalty);
  }
}

bool may_need_more(const SamplingOptions& options, std::int64_t k) {
  return options.temperature > 0 && (options.top_p < 1 || options.top_k > k) &&
         (options.top_k == 0 || options.top_k > k);
}

Shard shard_of(const Draw& draw, std::int64_t first, const std::vector<double>& logits,
               std::int64_t k) {
  const Sampling& sampling = draw.sampling;
  const SamplingOptions& options = sampling.options;
  auto count = static_cast<std::int64_t>(logits.size());
  if (sampling.vocabulary > 0)
    count = std::clamp<std::int64_t>(sampling.vocabulary - first, 0, count);
  for (std::int64_t i = 0; i < count; ++i)
    if (!std::isfinite(logits[static_cast<std::size_t>(i)]))
      throw std::runtime_error("[best] logit of token " + std::to_string(first + i) + ": saw " +
                               std::to_string(logits[static_cast<std::size_t>(i)]) +
                               ", needs a finite number");
  Shard shard;
  shard.best =
      first_of(first, logits, static_cast<std::size_t>(count), static_cast<std::size_t>(k));
  shard.left_out = count - static_cast<std::int64_t>(shard.best.size());
  if (options.temperature == 0 || shard.best.empty()) return shard;
  const double largest = shard.best.front().logit;
  const auto scaled = [&](std::int64_t i) {
    return (logits[static_cast<std::size_t>(i)] - largest) / options.temperature;
  };
  if (options.top_p < 1)
    for (std::int64_t i = 0; i < count; ++i) shard.mass += std::exp(scaled(i));
  if (options.top_k > 0 && options.top_k <= k) return shard;
  const Noise noise(draw);
  TwoBest two;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t token = first + i;
    if (scaled(i) + noise.bound(token) < two.second_score()) continue;
    two.add({token, logits[static_cast<std::size_t>(i)]}, scaled(i) + noise(token));
  }
  shard.drawn = two.list();
  return shard;
}

Choice choose(const Draw& draw, const std::vector<Shard>& shards) {
  const SamplingOptions& options = draw.sampling.options;
  std::vector<Candidate> order;
  std::int64_t left_out = 0;
  for (const Shard& shard : shards) {
    order.insert(order.end(), shard.best.begin(), shard.best.end());
    left_out += shard.left_out;
  }
  if (order.empty()) return {};
  std::sort(order.begin(), order.end(), is_before);
  if (options.temperature == 0) {
    const double next =
        order.size() > 1 ? order[1].logit : -std::numeric_limits<double>::infinity();
    return {order.front().token, order.front().logit - next, true};
  }
  // What a shard left out comes behind the last one that it has.
  std::size_t known = order.size();
  double total = 0;
  for (const Shard& shard : shards) {
    if (shard.best.empty()) continue;
    total += shard.mass *
             std::exp((shard.best.front().logit - order.front().logit) / options.temperature);
    if (shard.left_out == 0) continue;
    const auto last = std::lower_bound(order.begin(), order.end(), shard.best.back(), is_before);
    known = std::min(known, static_cast<std::size_t>(last - order.begin()) + 1);
  }
  const std::size_t all = order.size() + static_cast<std::size_t>(left_out);
  const Allowed allowed = allowed_of(options, order, known, all, total);

  const Noise noise(draw);
  TwoBest two;
  const auto add = [&](const Candidate& candidate) {
    two.add(candidate,
            (candidate.logit - order.front().logit) / options.temperature + noise(candidate.token));
  };
  const auto first_not_allowed = order.begin() + static_cast<std::ptrdiff_t>(allowed.at_least);
  if (allowed.exactly) {
    std::for_each(order.begin(), first_not_allowed, add);
  } else {
    for (const Shard& shard : shards) std::for_each(shard.drawn.begin(), shard.drawn.end(), add);
    const bool all_may = options.top_p == 1 &&
                         (options.top_k == 0 || static_cast<std::size_t>(options.top_k) >= all);
    if (!all_may && std::none_of(order.begin(), first_not_allowed, [&](const Candidate& candidate) {
          return candidate.token == two.best().token;
        }))
      return {-1, 0, false};
  }
  return {two.best().token, two.difference() * options.temperature, true};
}

}  // namespace cleave::infer
