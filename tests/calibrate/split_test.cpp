#include "calibrate/split.hpp"

#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/file.hpp"
#include "tests/calibrate/task.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::calibrate {
namespace {

using namespace testing;

/// `count` images of 8 x 8 sorted by class, `size` of each of four; the first two pixels of an
/// image number it.
std::filesystem::path sorted_images(const Scratch& scratch, std::uint32_t size) {
  std::filesystem::create_directories(scratch / "sorted");
  for (const std::string lead : {"train", "t10k"}) {
    std::string images = big_endian(0x803) + big_endian(4 * size) + big_endian(8) + big_endian(8),
                labels = big_endian(0x801) + big_endian(4 * size);
    for (std::uint32_t i = 0; i < 4 * size; ++i) {
      images += static_cast<char>(i / 256);
      images += static_cast<char>(i % 256);
      images += std::string(62, static_cast<char>(60));
      labels += static_cast<char>(i / size);
    }
    write_bytes(scratch / ("sorted/" + lead + "-images-idx3-ubyte"), images);
    write_bytes(scratch / ("sorted/" + lead + "-labels-idx1-ubyte"), labels);
  }
  return scratch / "sorted";
}

DataRecipe recipe_of(const std::filesystem::path& data, std::int64_t validation,
                     std::int64_t train_limit = 0) {
  DataRecipe recipe;
  recipe.path = data;
  recipe.validation = validation;
  recipe.train_limit = train_limit;
  return recipe;
}

/// The numbers of a part's images.
std::set<std::int64_t> numbers(const model::Dataset& data) {
  std::set<std::int64_t> found;
  const at::Tensor rows = data.rows(0, data.size());
  for (std::int64_t i = 0; i < data.size(); ++i)
    found.insert(256 * rows[i][0][0][0].item<std::int64_t>() +
                 rows[i][0][0][1].item<std::int64_t>());
  return found;
}

std::vector<std::int64_t> of_each_class(const model::Dataset& data) {
  std::vector<std::int64_t> counts(4, 0);
  for (const std::int64_t label : data.classes()) ++counts[static_cast<std::size_t>(label)];
  return counts;
}

TEST(Split, OfRowsSortedByClassHasEveryClassOnBothSides) {
  const Scratch scratch;
  const Split split = read_split(recipe_of(sorted_images(scratch, 100), 40, 60), bars_config());
  EXPECT_EQ(of_each_class(split.validation), (std::vector<std::int64_t>{10, 10, 10, 10}));
  EXPECT_EQ(of_each_class(split.training), (std::vector<std::int64_t>{15, 15, 15, 15}));
  const auto training = numbers(split.training), validation = numbers(split.validation);
  EXPECT_EQ(training.size() + validation.size(), 100U);
  for (const std::int64_t number : validation) EXPECT_EQ(training.count(number), 0U);
  // Labels are those of the images.
  for (const model::Dataset* part : {&split.training, &split.validation}) {
    const at::Tensor rows = part->rows(0, part->size());
    for (std::int64_t i = 0; i < part->size(); ++i)
      EXPECT_EQ(
          (256 * rows[i][0][0][0].item<std::int64_t>() + rows[i][0][0][1].item<std::int64_t>()) /
              100,
          part->labels[i].item<std::int64_t>());
  }
  EXPECT_TRUE(split.remarks.empty());
}

TEST(Split, IsNoCopyOfTheImages) {
  const Scratch scratch;
  const Split split = read_split(recipe_of(sorted_images(scratch, 20), 8), bars_config());
  EXPECT_EQ(split.training.inputs.data_ptr(), split.validation.inputs.data_ptr());
  EXPECT_EQ(split.training.size() + split.validation.size(), split.training.inputs.size(0));
}

TEST(Split, HoldsTheSameImagesOutWhateverTheLimit) {
  const Scratch scratch;
  const auto data = bars(scratch);
  const Split whole = read_split(recipe_of(data, 64), bars_config()),
              limited = read_split(recipe_of(data, 64, 100), bars_config());
  EXPECT_EQ(whole.training.size(), 384);
  EXPECT_EQ(limited.training.size(), 100);
  EXPECT_TRUE(limited.validation.chosen.equal(whole.validation.chosen));
  EXPECT_EQ(limited.held_out.digest, whole.held_out.digest);
  EXPECT_EQ(read_split(recipe_of(data, 64, 1000), bars_config()).training.size(), 384);
}

TEST(Split, TakesTheLastRowsWhereARecipeSaysSo) {
  const Scratch scratch;
  DataRecipe recipe = recipe_of(sorted_images(scratch, 20), 20, 30);
  recipe.split = SplitBy::last;
  const Split split = read_split(recipe, bars_config());
  EXPECT_EQ(of_each_class(split.validation), (std::vector<std::int64_t>{0, 0, 0, 20}));
  EXPECT_EQ(of_each_class(split.training), (std::vector<std::int64_t>{20, 10, 0, 0}));
  ASSERT_EQ(split.remarks.size(), 1U);
  EXPECT_EQ(split.remarks[0].what, "unseen_classes");
  EXPECT_TRUE(split.remarks[0].warning);
  EXPECT_NE(split.remarks[0].text.find("never sees 2 of 4 classes: class 2, class 3"),
            std::string::npos)
      << split.remarks[0].text;
}

TEST(Split, OfPairsKeepsBothTextsTogether) {
  const Scratch scratch;
  model::ModelConfig config = model::testing::tiny_text_config(model::Family::bert);
  config.vocabulary = 256;
  config.task = model::Task::embedding;
  config.classes = 0;
  model::write_byte_tokenizer(scratch.path());
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    const char name = static_cast<char>('0' + i);
    lines += std::string(1, name) + "\t" + name + name + "\t" + std::to_string(i) + "\n";
  }
  base::write_whole(scratch / "train.tsv", lines);
  const auto tokenizer = tokenizer_of(config, scratch.path());
  const Split split = read_split(recipe_of(scratch.path(), 21), config, tokenizer.get());
  EXPECT_EQ(split.validation.size(), 20) << "texts, of 10 pairs";
  EXPECT_EQ(split.training.size(), 60);
  EXPECT_EQ(split.held_out.rows, 40);
  EXPECT_EQ(split.held_out.count, 10);
  std::set<std::int64_t> seen;
  for (const model::Dataset* part : {&split.training, &split.validation}) {
    const at::Tensor rows = part->rows(0, part->size());
    ASSERT_EQ(part->scores.size(0), part->size() / 2);
    for (std::int64_t i = 0; i < part->size(); ++i) {
      const auto number = rows[i][0].item<std::int64_t>() - '0';
      EXPECT_EQ(number, static_cast<std::int64_t>(part->scores[i / 2].item<float>()));
      EXPECT_EQ((rows[i] >= 0).sum().item<std::int64_t>(), 1 + i % 2) << "first text, second text";
      seen.insert(number);
    }
  }
  EXPECT_EQ(seen.size(), 40U);

  DataRecipe last = recipe_of(scratch.path(), 21);
  last.split = SplitBy::last;
  const Split cut = read_split(last, config, tokenizer.get());
  EXPECT_EQ(cut.held_out.rows, 40);
  EXPECT_EQ(cut.held_out.count, 10) << "pairs, not texts";
  EXPECT_EQ(cut.validation.scores[0].item<float>(), 30);
}

TEST(Split, OfRunningTextHoldsItsEndOut) {
  const Scratch scratch;
  model::ModelConfig config = model::testing::tiny_text_config(model::Family::gpt2);
  config.vocabulary = config.classes = 256;
  model::write_byte_tokenizer(scratch.path());
  std::string text;
  for (int i = 0; i < 101; ++i) text += static_cast<char>(' ' + i % 90);
  base::write_whole(scratch / "train.txt", text);
  base::write_whole(scratch / "test.txt", text);
  const auto tokenizer = tokenizer_of(config, scratch.path());
  DataRecipe recipe = recipe_of(scratch.path(), 2);
  recipe.length = 10;
  const Split split = read_split(recipe, config, tokenizer.get());
  EXPECT_EQ(split.training.size(), 8);
  EXPECT_EQ(split.validation.inputs[0][0].item<int>(), ' ' + 80);
  EXPECT_EQ(split.training.stream.size(0), 81);
  EXPECT_EQ(split.held_out.rows, 101);
  EXPECT_EQ(split.held_out.count, 21);
  // Windows of another length are other windows, and yet within what was held out.
  recipe.length = 5;
  EXPECT_TRUE(read_split(recipe, config, tokenizer.get()).is_kept_apart_by(split.held_out));
  recipe.validation = 5;
  EXPECT_FALSE(read_split(recipe, config, tokenizer.get()).is_kept_apart_by(split.held_out));
}

TEST(Split, TellsWhetherAnotherRunLearnedFromWhatItHoldsOut) {
  const Scratch scratch;
  const auto data = sorted_images(scratch, 50);
  const auto split_of = [&](std::int64_t validation, SplitBy how = SplitBy::stratified) {
    DataRecipe recipe = recipe_of(data, validation);
    recipe.split = how;
    return read_split(recipe, bars_config());
  };
  const Split ours = split_of(40);
  EXPECT_EQ(ours.held_out.rows, 200);
  EXPECT_EQ(ours.held_out.count, 40);
  EXPECT_TRUE(ours.is_kept_apart_by(ours.held_out));
  EXPECT_TRUE(ours.is_kept_apart_by(split_of(60).held_out)) << "more rows contain fewer";
  EXPECT_FALSE(ours.is_kept_apart_by(split_of(39).held_out));
  EXPECT_FALSE(ours.is_kept_apart_by(split_of(0).held_out));
  EXPECT_FALSE(ours.is_kept_apart_by(split_of(40, SplitBy::last).held_out));
  EXPECT_TRUE(split_of(0).is_kept_apart_by(split_of(0).held_out));
  const Split last = split_of(40, SplitBy::last);
  EXPECT_TRUE(last.is_kept_apart_by(last.held_out));
  EXPECT_TRUE(last.is_kept_apart_by(split_of(60, SplitBy::last).held_out));
  EXPECT_FALSE(last.is_kept_apart_by(ours.held_out));
  // Other data, of as many rows or not.
  const Scratch other;
  const Split elsewhere = read_split(recipe_of(bars(other), 40), bars_config());
  EXPECT_FALSE(ours.is_kept_apart_by(elsewhere.held_out));
  model::HeldOut forged = ours.held_out;
  forged.digest[0] = forged.digest[0] == 'a' ? 'b' : 'a';
  EXPECT_FALSE(ours.is_kept_apart_by(forged));
}

TEST(Digest, IsThatOfTheRowsWhetherChosenOrCopied) {
  const Scratch scratch;
  const Split split = read_split(recipe_of(sorted_images(scratch, 600), 300), bars_config());
  model::Dataset copy = split.training;
  copy.inputs = split.training.rows(0, split.training.size()).clone();
  copy.chosen = at::Tensor();
  EXPECT_EQ(digest_of(copy), digest_of(split.training));
  EXPECT_NE(digest_of(copy), digest_of(split.validation));
}

}  // namespace
}  // namespace cleave::calibrate
