#include "infer/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include "infer/draws.hpp"

namespace cleave::infer {
namespace {

const std::vector<double> few = {1, 3, 2, -1};

/// Logits of a vocabulary, as different as a model's.
std::vector<double> many(std::size_t tokens, std::uint64_t seed = 5) {
  Draw draw;
  draw.sampling.options.seed = seed;
  const Noise noise(draw);
  std::vector<double> logits;
  for (std::size_t i = 0; i < tokens; ++i)
    logits.push_back(static_cast<float>(1.5 * noise(static_cast<std::int64_t>(i))));
  return logits;
}

Draw drawing(double temperature, std::int64_t step = 0, std::uint64_t seed = 1) {
  Draw draw;
  draw.sampling.options.temperature = temperature;
  draw.sampling.options.seed = seed;
  draw.sampling.step = step;
  return draw;
}

/// By one who has all logits.
Choice of_all(const Draw& draw, const std::vector<double>& logits) {
  return choose(draw, {shard_of(draw, 0, logits, static_cast<std::int64_t>(logits.size()))});
}

/// By devices that have these many tokens each.
Choice of_parts(const Draw& draw, const std::vector<double>& logits,
                const std::vector<std::size_t>& sizes, std::int64_t k) {
  std::vector<Shard> shards;
  auto first = logits.begin();
  for (const std::size_t size : sizes) {
    const auto last = first + static_cast<std::ptrdiff_t>(size);
    shards.push_back(shard_of(draw, first - logits.begin(), {first, last}, k));
    first = last;
  }
  EXPECT_EQ(first, logits.end());
  return choose(draw, shards);
}

std::vector<double> softmax(const std::vector<double>& logits, double temperature) {
  std::vector<double> shares;
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit / temperature);
  for (const double logit : logits) shares.push_back(std::exp(logit / temperature) / sum);
  return shares;
}

/// χ² of draws against shares of the tokens that may be drawn; the others must not be.
double chi_square(const std::vector<double>& logits, SamplingOptions options,
                  const std::vector<double>& shares, int draws) {
  std::vector<double> found(logits.size(), 0);
  Draw draw;
  draw.sampling.options = options;
  for (draw.sampling.step = 0; draw.sampling.step < draws; ++draw.sampling.step)
    found.at(static_cast<std::size_t>(of_all(draw, logits).token)) += 1;
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (shares[i] == 0) {
      EXPECT_EQ(found[i], 0) << i;
      continue;
    }
    const double expected = shares[i] * draws;
    sum += (found[i] - expected) * (found[i] - expected) / expected;
  }
  return sum;
}

TEST(Sampler, TakesTheMostLikelyTokenWithoutATemperature) {
  const Choice choice = of_all({}, few);
  EXPECT_EQ(choice.token, 1);
  EXPECT_DOUBLE_EQ(choice.margin, 1);
  EXPECT_TRUE(choice.certain);
}

// Of n tokens χ² has n − 1 degrees of freedom: 50.9 is exceeded once in a thousand of 23, 16.3
// of 3.
TEST(Sampler, DrawsAsOftenAsTheSoftmaxSays) {
  SamplingOptions options;
  for (const double temperature : {0.7, 2.0}) {
    options.temperature = temperature;
    EXPECT_LT(chi_square(few, options, softmax(few, temperature), 40000), 16.3);
    const auto logits = many(24);
    EXPECT_LT(chi_square(logits, options, softmax(logits, temperature), 40000), 49.7);
    EXPECT_GT(chi_square(logits, options, softmax(logits, 1.1 * temperature), 40000), 49.7)
        << "another temperature is told from it";
  }
}

TEST(Sampler, DrawsAsOftenAsTheSoftmaxOfWhatIsLeftSays) {
  const auto logits = many(24);
  const auto shares = softmax(logits, 1);
  std::vector<std::size_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  const auto left = [&](std::size_t count) {
    std::vector<double> of(logits.size(), 0);
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += shares[order[i]];
    for (std::size_t i = 0; i < count; ++i) of[order[i]] = shares[order[i]] / sum;
    return of;
  };
  SamplingOptions options;
  options.temperature = 1;
  options.top_k = 5;
  EXPECT_LT(chi_square(logits, options, left(5), 40000), 18.5);  // 4 degrees
  options.top_k = 0;
  options.top_p = 0.8;
  std::size_t nucleus = 0;
  for (double sum = 0; sum < 0.8; ++nucleus) sum += shares[order[nucleus]];
  ASSERT_GT(nucleus, 3u);
  ASSERT_LT(nucleus, 12u);
  EXPECT_LT(chi_square(logits, options, left(nucleus), 40000), 31.3);  // at most 11 degrees
}

// The sum of u is even too: noise of neighbours, and of steps, is independent.
TEST(Sampler, NoiseIsGumbels) {
  std::vector<double> u;
  double product = 0, before = 0;
  for (int step = 0; step < 50; ++step) {
    const Noise noise(drawing(1, step));
    for (std::int64_t token = 0; token < 1000; ++token) {
      const double g = noise(token);
      EXPECT_LE(g, noise.bound(token));
      u.push_back(std::exp(-std::exp(-g)));
      product += (u.back() - 0.5) * (before - 0.5);
      before = u.back();
    }
  }
  const auto n = static_cast<double>(u.size());
  EXPECT_LT(std::abs(product / n * 12), 4 / std::sqrt(n)) << "correlation of neighbours";
  std::sort(u.begin(), u.end());
  double distance = 0;  // Kolmogorov-Smirnov: 1.95/√n is exceeded once in a thousand
  for (std::size_t i = 0; i < u.size(); ++i)
    distance = std::max(distance, std::abs(u[i] - (static_cast<double>(i) + 0.5) / n));
  EXPECT_LT(distance, 1.95 / std::sqrt(n));
}

TEST(Sampler, DrawsTheSameWithTheSameSeedStreamAndStepAlone) {
  const auto logits = many(50);
  const auto drawn = [&](std::uint64_t seed, std::int64_t stream) {
    Text tokens;
    Draw draw = drawing(3, 0, seed);
    draw.stream = stream;
    for (; draw.sampling.step < 30; ++draw.sampling.step)
      tokens.push_back(of_all(draw, logits).token);
    return tokens;
  };
  EXPECT_EQ(drawn(1, 0), drawn(1, 0));
  EXPECT_NE(drawn(1, 0), drawn(2, 0));
  EXPECT_NE(drawn(1, 0), drawn(1, 1));
  Text sorted = drawn(1, 0);
  std::sort(sorted.begin(), sorted.end());
  EXPECT_NE(sorted.front(), sorted.back()) << "steps differ";
}

/// Options that do not need all logits where k is 8, and some that may.
std::map<std::string, SamplingOptions> all_options() {
  std::map<std::string, SamplingOptions> all;
  const auto add = [&](const std::string& name, double temperature, std::int64_t top_k,
                       double top_p) {
    all[name].temperature = temperature;
    all[name].top_k = top_k;
    all[name].top_p = top_p;
  };
  add("greedy", 0, 0, 1);
  add("temperature", 1.3, 0, 1);
  add("cold", 1e-9, 0, 1);
  add("top_k", 1, 8, 1);
  add("top_k and top_p", 1, 8, 0.5);
  add("top_p within", 0.5, 0, 0.3);
  add("top_p beyond", 3, 0, 0.9);
  add("top_k beyond", 2, 20, 1);
  add("both beyond", 3, 20, 0.95);
  add("all of them", 1, 1000, 1);
  return all;
}

// However the vocabulary is divided, a device with one token, or none, among them.
TEST(Sampler, EveryDivisionOfTheVocabularyDrawsTheSame) {
  const auto logits = many(100);
  const std::vector<std::vector<std::size_t>> divisions = {{100},      {50, 50},     {99, 1},
                                                           {0, 97, 3}, {34, 33, 33}, {1, 1, 98}};
  for (const auto& [name, options] : all_options())
    for (const std::int64_t vocabulary : {0, 60}) {
      int uncertain = 0, tokens = 0;
      for (const auto& sizes : divisions)
        for (std::int64_t step = 0; step < 200; ++step) {
          Draw draw;
          draw.sampling.options = options;
          draw.sampling.step = step;
          draw.sampling.vocabulary = vocabulary;
          const Choice whole = of_all(draw, logits), parts = of_parts(draw, logits, sizes, 8);
          ASSERT_TRUE(whole.certain);
          ++tokens;
          if (!parts.certain) {
            ++uncertain;
            EXPECT_TRUE(may_need_more(options, 8)) << name;
            continue;
          }
          EXPECT_EQ(parts.token, whole.token) << name << ", step " << step;
          EXPECT_LT(vocabulary == 0 ? 0 : whole.token, 60);
          const bool same = may_need_more(options, 8) || parts.margin == whole.margin ||
                            std::abs(parts.margin - whole.margin) < 1e-9;
          EXPECT_TRUE(same) << name << ": " << parts.margin << ", " << whole.margin;
        }
      EXPECT_LT(uncertain, tokens) << name << ": some are certain, by noise";
      const bool beyond = name.find("beyond") != std::string::npos;
      EXPECT_EQ(uncertain > 0, beyond) << name << ": " << uncertain << " of " << tokens;
    }
}

TEST(Sampler, OfEqualLogitsTakesTheFirst) {
  const std::vector<double> flat(30, 2.5);
  EXPECT_EQ(of_all({}, flat).token, 0);
  EXPECT_EQ(of_all({}, flat).margin, 0);
  EXPECT_EQ(of_parts({}, flat, {10, 10, 10}, 2).token, 0);
  // The two best of the first device, and no others.
  for (std::int64_t step = 0; step < 100; ++step) {
    Draw draw = drawing(1, step);
    draw.sampling.options.top_k = 2;
    const Choice choice = of_parts(draw, flat, {10, 10, 10}, 2);
    EXPECT_LT(choice.token, 2);
    EXPECT_EQ(choice.token, of_all(draw, flat).token);
  }
}

TEST(Sampler, PenalisesWhatTheTextHas) {
  SamplingOptions options;
  options.repetition_penalty = 2;
  std::vector<double> logits = few;
  penalise(options, {1, 1, 3, 99}, 0, logits);
  EXPECT_EQ(logits, (std::vector<double>{1, 1.5, 2, -2}));
  std::vector<double> part = {few[2], few[3]};
  penalise(options, {1, 1, 3, 99}, 2, part);
  EXPECT_EQ(part, (std::vector<double>{2, -2})) << "of some tokens";
}

TEST(Sampler, SaysHowFarTheNextTokenIsBehind) {
  Draw draw = drawing(2, 3);
  const Noise noise(draw);
  std::vector<double> scores;
  for (std::size_t i = 0; i < few.size(); ++i)
    scores.push_back(few[i] + 2 * noise(static_cast<std::int64_t>(i)));
  std::sort(scores.rbegin(), scores.rend());
  EXPECT_NEAR(of_all(draw, few).margin, scores[0] - scores[1], 1e-12);
  EXPECT_EQ(of_all({}, {4}).margin, std::numeric_limits<double>::infinity()) << "there is none";
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  EXPECT_EQ(error_of([] {
              of_all({}, {1, std::nan("")});
            }),
            "[best] logit of token 1: saw nan, needs a finite number");
  Draw draw;
  draw.sampling.vocabulary = 1;
  EXPECT_EQ(of_all(draw, {1, std::nan("")}).token, 0) << "behind the tokens anything may stand";
}

TEST(Sampler, NamesTheOptionThatIsWrong) {
  const auto wrong = [](const std::function<void(Sampling&)>& change) {
    Sampling sampling;
    change(sampling);
    return error_of([&] { sampling.check(); });
  };
  EXPECT_EQ(wrong([](auto& s) { s.options.top_p = 0; }),
            "[sampling] top_p: saw 0, needs more than 0, at most 1");
  EXPECT_EQ(wrong([](auto& s) { s.options.temperature = -1; }),
            "[sampling] temperature: saw -1, needs 0..1000");
  EXPECT_EQ(wrong([](auto& s) { s.options.temperature = std::nan(""); }),
            "[sampling] temperature: saw nan, needs 0..1000");
  EXPECT_EQ(wrong([](auto& s) { s.options.top_k = -1; }),
            "[sampling] top_k: saw -1, needs 0 or more");
  EXPECT_EQ(wrong([](auto& s) { s.options.repetition_penalty = 0; }),
            "[sampling] repetition_penalty: saw 0, needs more than 0, at most 1000");
  EXPECT_EQ(wrong([](auto& s) { s.step = -1; }), "[sampling] step: saw -1, needs 0 or more");
  EXPECT_EQ(wrong([](auto& s) { s.vocabulary = -2; }),
            "[sampling] vocabulary: saw -2, needs 0 (all) or more");
  EXPECT_EQ(wrong([](auto&) {}), "");
}

// ---- as values of a program ----

TEST(Draws, TravelAsTheyAre) {
  Sampling sampling{{0.7, 40, 0.9, 1.1, ~std::uint64_t{0}}, 12, 500};
  const net::Value value = value_of(sampling, 3);
  EXPECT_EQ(value.dims, (std::vector<std::int64_t>{3, 8}));
  std::vector<std::int64_t> rows(24);
  std::memcpy(rows.data(), value.data.data(), value.data.size());
  const Draw draw = draw_of(rows.data() + 16);
  EXPECT_EQ(draw.stream, 2);
  EXPECT_EQ(draw.sampling.step, 12);
  EXPECT_EQ(draw.sampling.vocabulary, 500);
  EXPECT_EQ(draw.sampling.options.seed, ~std::uint64_t{0});
  EXPECT_EQ(draw.sampling.options.top_k, 40);
  EXPECT_EQ(draw.sampling.options.temperature, 0.7);
  EXPECT_EQ(draw.sampling.options.top_p, 0.9);
  EXPECT_EQ(draw.sampling.options.repetition_penalty, 1.1);

  const Shard shard = shard_of(draw, 7, many(50), 4);
  std::vector<double> row(static_cast<std::size_t>(plan::best_columns(4)));
  write_shard(shard, 4, row.data());
  const Shard read = read_shard(row.data(), 4);
  EXPECT_EQ(read.mass, shard.mass);
  EXPECT_EQ(read.left_out, 46);
  ASSERT_EQ(read.best.size(), 4u);
  ASSERT_EQ(read.drawn.size(), 2u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(read.best[i].token, shard.best[i].token);
    EXPECT_EQ(read.best[i].logit, shard.best[i].logit);
  }
  EXPECT_EQ(plan::candidates_in(plan::best_columns(4)), 4);
}

// Whatever a device may send.
TEST(Draws, RefuseNumbersThatAreNone) {
  const auto wrong = [](std::size_t at, double number) {
    std::vector<double> row(static_cast<std::size_t>(plan::best_columns(2)), 0);
    row[at] = number;
    return error_of([&] { read_shard(row.data(), 2); });
  };
  EXPECT_EQ(wrong(0, 0), "");
  EXPECT_EQ(wrong(0, std::nan("")), "[sample] mass: saw nan, needs a finite number");
  EXPECT_EQ(wrong(1, -1), "[sample] left_out: saw -1.000000, needs a whole number from 0 on");
  EXPECT_EQ(wrong(2, 0.5), "[sample] token: saw 0.500000, needs a whole number from -1 on");
  EXPECT_EQ(wrong(2, std::nan("")), "[sample] token: saw nan, needs a whole number from -1 on");
  EXPECT_EQ(wrong(3, std::numeric_limits<double>::infinity()),
            "[sample] logit: saw inf, needs a finite number");
}

/// A step's ids of two texts.
void add(KeptTexts& kept, std::int64_t past, const std::vector<std::int32_t>& ids) {
  kept.add(past, ids.data(), 2, ids.size() / 2);
}

TEST(KeptTexts, AreWhatWasSaidSoFar) {
  KeptTexts kept;
  add(kept, 0, {1, 2, 3, 4, -1, -1});
  add(kept, 3, {5, 6});
  EXPECT_EQ(kept.texts(), (std::vector<Text>{{1, 2, 3, 5}, {4, 6}}));
  add(kept, 4, {-1, 7});
  EXPECT_FALSE(kept.goes_on(0));
  EXPECT_TRUE(kept.goes_on(1));
  add(kept, 3, {8, 9});
  EXPECT_EQ(kept.texts(), (std::vector<Text>{{1, 2, 3, 8}, {4, 9}})) << "asked again";
  EXPECT_TRUE(kept.is_whole());
  add(kept, 20, {1, 1});
  EXPECT_FALSE(kept.is_whole()) << "some steps were not seen";
  add(kept, 0, {1, 2});
  EXPECT_TRUE(kept.is_whole());
  EXPECT_EQ(kept.texts(), (std::vector<Text>{{1}, {2}}));
}

}  // namespace
}  // namespace cleave::infer
