#include "calibrate/augment.hpp"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/tokenizer/segment.hpp"

namespace cleave::calibrate {
namespace {

/// n images of 1 x 3 x 4, pixels 1, 2, 3 …
at::Tensor numbered(std::int64_t count) {
  return at::arange(1, 12 * count + 1, at::kByte).view({count, 1, 3, 4});
}

model::Dataset of(const at::Tensor& inputs) {
  model::Dataset data;
  data.inputs = inputs;
  return data;
}

at::Tensor all(std::int64_t count) { return at::arange(count, at::kLong); }

/// `image` [1, h, w] mirrored or not, moved, and 0 where nothing came from.
at::Tensor moved(const at::Tensor& image, bool mirror, std::int64_t down, std::int64_t right) {
  const at::Tensor from = mirror ? image.flip({2}) : image;
  at::Tensor to = at::zeros_like(image);
  for (std::int64_t y = 0; y < image.size(1); ++y)
    for (std::int64_t x = 0; x < image.size(2); ++x)
      if (y - down >= 0 && y - down < image.size(1) && x - right >= 0 && x - right < image.size(2))
        to[0][y][x] = from[0][y - down][x - right];
  return to;
}

TEST(Draw, IsAFunctionOfItsKey) {
  Draw one({1, 2}), same({1, 2}), swapped({2, 1});
  const auto first = one.next();
  EXPECT_EQ(first, same.next());
  EXPECT_NE(first, swapped.next());
  EXPECT_NE(first, one.next());
}

TEST(Draw, IsUniform) {
  Draw draw({7});
  double sum = 0;
  std::vector<int> seen(5, 0);
  for (int i = 0; i < 5000; ++i) {
    sum += draw.uniform();
    ++seen[static_cast<std::size_t>(draw.below(5))];
  }
  EXPECT_NEAR(sum / 5000, 0.5, 0.02);
  EXPECT_GT(*std::min_element(seen.begin(), seen.end()), 850);
}

TEST(Shuffled, IsAPermutationThatDependsOnTheKey) {
  const auto order = shuffled(100, {1, 2});
  EXPECT_EQ(std::set<std::int64_t>(order.begin(), order.end()).size(), 100U);
  EXPECT_EQ(order, shuffled(100, {1, 2}));
  EXPECT_NE(order, shuffled(100, {1, 3}));
}

TEST(TakeView, ViewZeroIsTheImageAsItIs) {
  const auto images = numbered(3);
  EXPECT_TRUE(take_view(of(images), all(3), {true, 2}, 1, 0).equal(images));
}

TEST(TakeView, MirrorsAndShiftsEachImageInSomeWay) {
  const auto images = numbered(20);
  const auto view = take_view(of(images), all(20), {true, 2}, 1, 1);
  std::set<std::string> ways;
  for (std::int64_t i = 0; i < 20; ++i) {
    int explanations = 0;
    for (int mirror = 0; mirror < 2; ++mirror)
      for (int down = -2; down <= 2; ++down)
        for (int right = -2; right <= 2; ++right)
          if (view[i].equal(moved(images[i], mirror == 1, down, right))) {
            ++explanations;
            ways.insert(std::to_string(mirror) + " " + std::to_string(down) + " " +
                        std::to_string(right));
          }
    EXPECT_GE(explanations, 1) << "image " << i;
  }
  EXPECT_GT(ways.size(), 8U);
}

TEST(TakeView, IsAFunctionOfSeedViewAndIndex) {
  const auto images = numbered(20);
  const Augmentation how{true, 1};
  const auto view = take_view(of(images), all(20), how, 1, 1);
  EXPECT_TRUE(take_view(of(images), all(20), how, 1, 1).equal(view));
  EXPECT_FALSE(take_view(of(images), all(20), how, 1, 2).equal(view));
  EXPECT_FALSE(take_view(of(images), all(20), how, 2, 1).equal(view));
  const auto some = at::tensor({17, 4}, at::kLong);
  EXPECT_TRUE(take_view(of(images), some, how, 1, 1).equal(view.index_select(0, some)));
}

// A pair is a first text, 1 … 0, and a second one, marked, that ends with 0 too.
TEST(TakeView, SplicesPairsIntoPairs) {
  using model::second_text;
  const std::int64_t count = 60;
  at::Tensor texts = at::full({count, 12}, -1, at::kInt);
  for (std::int64_t i = 0; i < count; ++i) {
    std::vector<std::int64_t> row = {1};
    for (std::int64_t k = 0; k < 1 + i % 4; ++k) row.push_back(10 * i + 2 + k);
    row.push_back(0);
    for (std::int64_t k = 0; k < 1 + i % 5; ++k) row.push_back((10 * i + 6 + k % 4) | second_text);
    row.push_back(second_text);
    for (std::size_t k = 0; k < row.size(); ++k) texts[i][static_cast<std::int64_t>(k)] = row[k];
  }
  const auto view = take_view(of(texts), all(count), {false, 0, 1}, 1, 1);
  std::int64_t changed = 0, in_first = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const at::Tensor row = view[i];
    const auto length = (row >= 0).sum().item<std::int64_t>();
    const auto first = ((row >= 0) & (row < second_text)).sum().item<std::int64_t>();
    EXPECT_TRUE((row.narrow(0, 0, length) >= 0).all().item<bool>());
    EXPECT_TRUE((row.narrow(0, first, length - first) >= second_text).all().item<bool>()) << row;
    EXPECT_EQ(row[0].item<int>(), 1);
    EXPECT_EQ(row[first - 1].item<int>(), 0) << "the first text ends: " << row;
    EXPECT_EQ(row[length - 1].item<std::int64_t>(), second_text) << "the second text ends: " << row;
    EXPECT_EQ((row == 0).sum().item<std::int64_t>(), 1);
    const bool other = !row.equal(texts[i]);
    changed += other;
    in_first += other && !row.narrow(0, 0, first).equal(texts[i].narrow(0, 0, first));
  }
  EXPECT_GT(changed, count / 2);
  EXPECT_GT(in_first, 5);
}

TEST(TakeView, SplicesTextsOfTheBeginningOfOneAndTheEndOfAnother) {
  // Text i: 1, then 10 i + 2 … , then 0; 2 to 7 tokens in rows of 8.
  const std::int64_t count = 40;
  at::Tensor texts = at::full({count, 8}, -1, at::kInt);
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t k = 0; k < 1 + i % 6; ++k) texts[i][k] = k == 0 ? 1 : 10 * i + k + 1;
    texts[i][1 + i % 6] = 0;
  }
  EXPECT_TRUE(take_view(of(texts), all(count), {false, 0, 1}, 1, 0).equal(texts));
  EXPECT_TRUE(take_view(of(texts), all(count), {true, 2, 0}, 1, 1).equal(texts));
  const auto view = take_view(of(texts), all(count), {false, 0, 1}, 1, 1);
  std::set<std::int64_t> others;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto length = (view[i] >= 0).sum().item<std::int64_t>();
    EXPECT_TRUE((view[i].narrow(0, 0, length) >= 0).all().item<bool>());
    EXPECT_EQ(view[i][0].item<int>(), 1);
    EXPECT_EQ(view[i][length - 1].item<int>(), 0);
    int switches = 0;
    for (std::int64_t k = 1; k + 1 < length; ++k) {
      const std::int64_t from = view[i][k].item<int>() / 10;
      if (from != i) others.insert(from);
      switches += k > 1 && from != view[i][k - 1].item<int>() / 10 ? 1 : 0;
    }
    EXPECT_LE(switches, 1) << view[i];
  }
  EXPECT_GT(others.size(), 10U);
  const auto half = take_view(of(texts), all(count), {false, 0, 0.5}, 1, 1);
  const auto changed = (half != texts).any(1).sum().item<std::int64_t>();
  EXPECT_GT(changed, 5);
  EXPECT_LT(changed, 35);
}

// A part of the data is seen as if it were all there is: no text of the rest gets in.
TEST(TakeView, OfChosenRowsIsThatOfADataSetWithoutTheRest) {
  const auto chosen = at::tensor({1, 4, 6, 7, 12, 19}, at::kLong);
  at::Tensor texts = at::full({20, 8}, 5, at::kInt);
  for (std::int64_t i = 0; i < 20; ++i) texts[i].fill_(i + 1);
  for (const at::Tensor& rows : {numbered(20), texts})
    for (const std::uint64_t view : {0, 1}) {
      model::Dataset part = of(rows);
      part.chosen = chosen;
      ASSERT_EQ(part.size(), 6);
      const Augmentation how{true, 1, 0.9};
      EXPECT_TRUE(take_view(part, all(6), how, 1, view)
                      .equal(take_view(of(rows.index_select(0, chosen)), all(6), how, 1, view)));
    }
}

TEST(TakeView, SurvivesAShiftWiderThanTheImage) {
  const auto view = take_view(of(numbered(20)), all(20), {false, 9}, 1, 1);
  EXPECT_TRUE(view.flatten(1).amax(1).eq(0).any().item<bool>());
}

}  // namespace
}  // namespace cleave::calibrate
