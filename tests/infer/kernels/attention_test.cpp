#include "infer/kernels/attention.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "tests/infer/kernels/numbers.hpp"

namespace cleave::kernels {
namespace {

struct Case {
  std::int64_t heads = 2, group = 1, width = 8, rows = 5, keys = 5;
  std::vector<float> bias;
  std::vector<std::int32_t> seen_from, positions;
};

/// Queries, keys and values of a case, and what is stored of them.
struct Told {
  Told(const Table& table, Format format, const Case& c, std::int64_t capacity)
      : shape{format, c.heads, c.width, capacity}, memory(key_value_bytes(table, shape)) {
    query = noise(c.rows * c.heads * c.group * c.width, 1);
    keys = noise(c.keys * c.heads * c.width, 2);
    values = noise(c.keys * c.heads * c.width, 3);
    kept = key_values(table, shape, memory.data());
    // In two goes, as a text that goes on.
    const std::int64_t stride = c.heads * c.width, some = c.keys / 2;
    if (some > 0) store(kept, {0, c.heads}, 0, some, keys.data(), stride, values.data(), stride);
    store(kept, {0, c.heads}, some, c.keys - some, keys.data() + some * stride, stride,
          values.data() + some * stride, stride);
  }
  KeyValueShape shape;
  Memory memory;
  std::vector<float> query, keys, values;
  KeyValues kept;
};

std::vector<float> attended(const Told& told, const Case& c, Pool* pool, std::int64_t first_row = 0,
                            std::int64_t rows = -1, Heads heads = {}) {
  if (rows < 0) rows = c.rows;
  if (heads.count == 0) heads = {0, c.heads};
  const std::int64_t width = heads.count * c.group * c.width, all = c.heads * c.group * c.width;
  std::vector<float> out(static_cast<std::size_t>(rows * width),
                         std::numeric_limits<float>::quiet_NaN());
  Attention a;
  a.heads = heads;
  a.group = c.group;
  a.rows = rows;
  a.keys = c.keys;
  a.query = told.query.data() + first_row * all + heads.first * c.group * c.width;
  a.query_stride = all;
  if (!c.bias.empty()) a.bias = c.bias.data();
  if (!c.seen_from.empty()) {
    a.seen_from = c.seen_from.data();
    a.positions = c.positions.data() + first_row;
  }
  a.out = out.data();
  a.out_stride = width;
  attend(told.kept, a, pool);
  return out;
}

/// The same by the definition, in double precision.
double expected(const Told& told, const Case& c, std::int64_t row, std::int64_t head,
                std::int64_t column) {
  const auto at = [&](const std::vector<float>& v, std::int64_t i) {
    return double{v[static_cast<std::size_t>(i)]};
  };
  const std::int64_t kv = head / c.group, stride = c.heads * c.width;
  std::vector<double> scores;
  double most = -1e300;
  for (std::int64_t j = 0; j < c.keys; ++j) {
    double score = 0;
    for (std::int64_t i = 0; i < c.width; ++i)
      score += at(told.query, (row * c.heads * c.group + head) * c.width + i) *
               at(told.keys, j * stride + kv * c.width + i);
    score /= std::sqrt(static_cast<double>(c.width));
    const auto key = static_cast<std::size_t>(j);
    if (!c.bias.empty()) score += double{c.bias[key]};
    const bool seen =
        c.seen_from.empty() || c.seen_from[key] <= c.positions[static_cast<std::size_t>(row)];
    scores.push_back(seen ? score : -1e300);
    most = std::max(most, scores.back());
  }
  double sum = 0, value = 0;
  for (std::int64_t j = 0; j < c.keys; ++j) {
    const double weight = std::exp(scores[static_cast<std::size_t>(j)] - most);
    sum += weight;
    value += weight * at(told.values, j * stride + kv * c.width + column);
  }
  return value / sum;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::int64_t width : {1, 7, 12, 13, 31, 33, 64})
    for (const std::int64_t keys : {1, 12, 33, 197}) {
      Case c;
      c.width = width;
      c.keys = keys;
      all.push_back(c);
    }
  Case grouped;
  grouped.group = 3;
  grouped.rows = 7;
  all.push_back(grouped);
  Case causal;
  causal.rows = causal.keys = 150;
  for (std::int32_t i = 0; i < 150; ++i) {
    causal.seen_from.push_back(i);
    causal.positions.push_back(i);
  }
  all.push_back(causal);
  // Rows that stand for several, of which some are seen later and one counts nothing.
  Case means;
  means.keys = 6;
  means.bias = {0, std::log(3.0F), std::log(2.0F), 0, 0, -std::numeric_limits<float>::infinity()};
  means.seen_from = {0, 0, 2, 2, 3, 0};
  means.positions = {0, 1, 2, 3, 4};
  all.push_back(means);
  return all;
}

class AttentionOn : public testing::TestWithParam<Target> {
 protected:
  const Table& table = table_of(GetParam());
};

TEST_P(AttentionOn, IsTheWeightedMeanOfWhatARowSees) {
  for (const auto& [format, near] :
       {std::pair(Format::f32, 3e-6), std::pair(Format::bf16, 3e-2), std::pair(Format::int8, 6e-2)})
    for (const Case& c : cases()) {
      const Told told(table, format, c, c.keys + 3);
      const auto out = attended(told, c, nullptr);
      const std::int64_t heads = c.heads * c.group;
      for (std::int64_t r = 0; r < c.rows; ++r)
        for (std::int64_t h = 0; h < heads; ++h)
          for (std::int64_t i = 0; i < c.width; ++i)
            ASSERT_NEAR(out[static_cast<std::size_t>((r * heads + h) * c.width + i)],
                        expected(told, c, r, h, i), near)
                << "width " << c.width << ", keys " << c.keys << ", row " << r << ", head " << h
                << ", format " << static_cast<int>(format);
    }
}

TEST_P(AttentionOn, RowsThreadsHeadsAndLaterKeysChangeNoBit) {
  for (const auto format : {Format::f32, Format::bf16, Format::int8}) {
    Case c;
    c.heads = 3;
    c.group = 2;
    c.width = 20;
    c.rows = c.keys = 333;
    for (std::int32_t i = 0; i < 333; ++i) {
      c.seen_from.push_back(i);
      c.positions.push_back(i);
    }
    const Told told(table, format, c, 400);
    const auto whole = attended(told, c, nullptr);
    const std::int64_t row_size = c.heads * c.group * c.width;
    for (const int threads : {2, 3, 5}) {
      Pool pool(threads);
      ASSERT_EQ(attended(told, c, &pool), whole) << threads << " threads";
    }
    for (const std::int64_t rows : {1, 2, 3, 13, 31})
      for (const std::int64_t first : {0, 100, 300})
        ASSERT_EQ(attended(told, c, nullptr, first, rows),
                  std::vector<float>(whole.begin() + first * row_size,
                                     whole.begin() + (first + rows) * row_size))
            << rows << " rows from " << first;
    // Of one head of three alone.
    const std::int64_t one = c.group * c.width;
    const auto head = attended(told, c, nullptr, 0, c.rows, {1, 1});
    for (std::int64_t r = 0; r < c.rows; ++r)
      for (std::int64_t i = 0; i < one; ++i)
        ASSERT_EQ(head[static_cast<std::size_t>(r * one + i)],
                  whole[static_cast<std::size_t>(r * row_size + one + i)]);
    // A text that has gone on: the rows before see nothing of it.
    Case shorter = c;
    shorter.rows = shorter.keys = 200;
    ASSERT_EQ(attended(told, shorter, nullptr),
              std::vector<float>(whole.begin(), whole.begin() + 200 * row_size));
  }
}

std::string name_of_target(const testing::TestParamInfo<Target>& info) {
  std::string name(name_of(info.param));
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(Attention, AttentionOn, testing::ValuesIn(targets_here()), name_of_target);

// ---- norms and sums of exponentials ----

class RowsOn : public AttentionOn {};

TEST_P(RowsOn, ANormIsThatOfItsRow) {
  for (const std::int64_t width : {1, 7, 12, 13, 31, 33, 768})
    for (const bool is_rms : {false, true}) {
      const std::int64_t rows = 3;
      const auto x = noise(rows * width, 1), residual = noise(rows * width, 2);
      const auto weight = noise(width, 3), bias = noise(width, 4);
      std::vector<float> out(x.size()), stream(x.size());
      NormRows n;
      n.rows = rows;
      n.width = width;
      n.x = x.data();
      n.residual = residual.data();
      n.weight = weight.data();
      if (!is_rms) n.bias = bias.data();
      n.eps = 1e-5F;
      n.is_rms = is_rms;
      n.stream = stream.data();
      n.out = out.data();
      table.norm(n);
      for (std::int64_t r = 0; r < rows; ++r) {
        double mean = 0, squares = 0;
        const auto at = [&](std::int64_t i) {
          const auto k = static_cast<std::size_t>(r * width + i);
          return double{x[k]} + double{residual[k]};
        };
        if (!is_rms)
          for (std::int64_t i = 0; i < width; ++i) mean += at(i) / static_cast<double>(width);
        for (std::int64_t i = 0; i < width; ++i)
          squares += (at(i) - mean) * (at(i) - mean) / static_cast<double>(width);
        for (std::int64_t i = 0; i < width; ++i) {
          const auto k = static_cast<std::size_t>(i);
          const double wanted = (at(i) - mean) / std::sqrt(squares + 1e-5) * double{weight[k]} +
                                (is_rms ? 0.0 : double{bias[k]});
          ASSERT_NEAR(out[static_cast<std::size_t>(r * width + i)], wanted, 2e-5) << width;
          ASSERT_NEAR(stream[static_cast<std::size_t>(r * width + i)], at(i), 1e-6);
        }
      }
      // One row alone has the same bits.
      std::vector<float> alone(static_cast<std::size_t>(width)), sums(alone.size());
      n.rows = 1;
      n.x += width;
      n.residual += width;
      n.stream = sums.data();
      n.out = alone.data();
      table.norm(n);
      ASSERT_EQ(alone, std::vector<float>(out.begin() + width, out.begin() + 2 * width));
    }
}

TEST_P(RowsOn, ASumOfExponentialsIsThatBesideTheLargest) {
  for (const std::int64_t count : {1, 7, 31, 33, 50257}) {
    auto x = noise(count, 7, 4);
    x[0] = -200;  // also where the padding of the last vector would be the largest
    for (float& value : x) value -= 100;
    const auto found = table.largest_and_sum(x.data(), count, 0.5F);
    double largest = -1e300, sum = 0;
    for (const float value : x) largest = std::max(largest, 0.5 * double{value});
    for (const float value : x) sum += std::exp(0.5 * double{value} - largest);
    EXPECT_NEAR(found.largest, largest, 1e-5);
    EXPECT_NEAR(found.sum, sum, 1e-5 * sum) << count;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, RowsOn, testing::ValuesIn(targets_here()), name_of_target);

}  // namespace
}  // namespace cleave::kernels
