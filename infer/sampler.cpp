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

/// The finaliser of SplitMix64 (Steele and others 2014).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// The best and how far the next one is behind.
Choice best_of(const float* logits, std::int64_t vocabulary) {
  Choice best;
  double next = -std::numeric_limits<double>::infinity();
  for (std::int64_t token = 1; token < vocabulary; ++token) {
    const double value = logits[token];
    if (value > logits[best.token]) {
      next = logits[best.token];
      best.token = token;
    } else {
      next = std::max(next, value);
    }
  }
  best.margin = logits[best.token] - next;
  return best;
}

struct Candidate {
  double weight;  // logit, then probability
  std::int64_t token;
};

}  // namespace

void SamplingOptions::check() const {
  expect(temperature >= 0 && temperature <= 1000, "temperature", temperature, "0..1000");
  expect(top_k >= 0, "top_k", static_cast<double>(top_k), "0 or more");
  expect(top_p > 0 && top_p <= 1, "top_p", top_p, "more than 0, at most 1");
  expect(repetition_penalty > 0 && repetition_penalty <= 1000, "repetition_penalty",
         repetition_penalty, "more than 0, at most 1000");
}

Sampler::Sampler(const SamplingOptions& options, std::uint64_t stream)
    : options_(options), state_(mix(options.seed * 0x9e3779b97f4a7c15 + stream)) {
  options.check();
}

double Sampler::uniform() {
  state_ += 0x9e3779b97f4a7c15;
  return static_cast<double>(mix(state_) >> 11) / 9007199254740992.0;  // 2^53
}

Choice Sampler::next(const float* logits, std::int64_t vocabulary,
                     const std::vector<std::int64_t>& text) {
  Choice choice = best_of(logits, vocabulary);
  std::vector<float> changed(logits, logits + vocabulary);
  if (options_.repetition_penalty != 1) {
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (const std::int64_t token : std::set<std::int64_t>(text.begin(), text.end())) {
      if (token >= vocabulary) continue;  // never drawn
      float& value = changed[static_cast<std::size_t>(token)];
      value = value > 0 ? value / penalty : value * penalty;
    }
  }
  if (options_.temperature == 0) {
    choice.token = best_of(changed.data(), vocabulary).token;
    return choice;
  }
  std::vector<Candidate> candidates;
  for (std::int64_t token = 0; token < vocabulary; ++token)
    candidates.push_back({changed[static_cast<std::size_t>(token)] / options_.temperature, token});
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.weight > b.weight; });
  if (options_.top_k > 0 && options_.top_k < vocabulary)
    candidates.resize(static_cast<std::size_t>(options_.top_k));
  const double largest = candidates.front().weight;
  double total = 0;
  for (Candidate& candidate : candidates)
    total += candidate.weight = std::exp(candidate.weight - largest);
  // The last one kept is the one that reaches top_p.
  double kept = 0;
  std::size_t count = 0;
  while (count < candidates.size() && (count == 0 || kept < options_.top_p * total))
    kept += candidates[count++].weight;
  double point = uniform() * kept;
  for (std::size_t i = 0; i < count; ++i) {
    choice.token = candidates[i].token;
    point -= candidates[i].weight;
    if (point < 0) break;
  }
  return choice;
}

}  // namespace cleave::infer
