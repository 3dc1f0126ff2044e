#pragma once

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/remark.hpp"
#include "model/config/config.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// A data set in memory, as the model takes it. What is undefined is not there.
struct Dataset {
  /// Images resized to the model's input, uint8 [n, c, h, w]; texts, int32 [n, N], −1 fills up (of
  /// a masked language model, windows of a running text with tokens masked; of a classifier of two
  /// texts, pairs, whose second text is marked: see model/tokenizer/segment.hpp);
  /// windows of a running text, int32 [n, N + 1], each beginning with the last token of the one
  /// before.
  at::Tensor inputs;
  /// Classes, int64 [n]; of texts with masked tokens what stands there, int64 [n, N], no_label
  /// where nothing is masked.
  at::Tensor labels;
  static constexpr std::int64_t no_label = -100;
  /// Names of the classes: the model's, or else the data's own; empty where they have none.
  std::vector<std::string> label_names;
  /// Texts that were longer than what was asked for, of which only the beginning is there.
  std::int64_t shortened = 0;
  /// Of a classifier of text: the texts of a row, 1 or 2; else 0.
  std::int64_t texts_per_row = 0;
  /// How alike texts 2i and 2i + 1 are, fp32 [n / 2].
  at::Tensor scores;
  /// The running text that the windows lie in, int32 [T].
  at::Tensor stream;
  /// How many of a window's tokens, its last, are judged, int64 [n]; undefined: all.
  at::Tensor judged;
  /// Where in `inputs` each row of the data set lies, int64 [n]; undefined: all, in order. So a
  /// part of a data set needs no copy of it.
  at::Tensor chosen;
  /// The file, or the folder of class folders, that was read.
  std::filesystem::path origin;
  /// What was passed over, and what else should be known of it.
  base::Remarks remarks;
  std::int64_t size() const;
  /// Places in `inputs` of rows `indices`, int64 [b].
  at::Tensor places_of(const at::Tensor& indices) const;
  /// Rows `indices`, or begin … begin + count − 1, of the inputs.
  at::Tensor rows(const at::Tensor& indices) const;
  at::Tensor rows(std::int64_t begin, std::int64_t count) const;
  /// The class of each row, by which it is drawn; all 0 where rows have none. Of texts in pairs one
  /// for each pair.
  std::vector<std::int64_t> classes() const;
};

/// A class whose name is none of the model's.
class UnknownClass : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// `limit` of 0 … count − 1, evenly spread, or all of them where it is 0 or not below.
std::vector<std::int64_t> spread_over(std::int64_t count, std::int64_t limit);

/// What features() takes, of rows of `Dataset::inputs`: pixels normalised; ids without columns that
/// no row uses; of windows all but the last token, which is only asked for.
at::Tensor inputs_of(const ModelConfig& config, const at::Tensor& rows);

/// What the test split may be called, by precedence; the training split is "train" alone.
const std::vector<std::string>& names_of_split(const std::string& split);

/// Where a data set lies and which part of it is meant.
struct DatasetSource {
  /// Images: "idx" (MNIST's layout, .gz or plain, train-… and t10k-… pairs), "cifar10", "cifar100"
  /// (binary layout), "folder" (train/ and test/, each with one directory a class; see
  /// names_of_split()). Texts, of the files train, and dev or test, in the folder: "tsv" (text and
  /// label, or two texts and their label or score, or the columns that a header names as GLUE's
  /// do), "jsonl" (objects with "text" and "label", or "text_a", "text_b" and "label" or "score"),
  /// "stsb" (the STS benchmark's own columns), "text" (running text: .txt files, or one whose last
  /// tenth is the test split). "auto": by what lies in the folder.
  std::string format = "auto";
  std::filesystem::path path;
  /// "train" or "test". A data set that is not split is refused: what learns from it would be
  /// judged by the same images.
  std::string split = "test";
  /// At most this many; 0: all. Rows with labels by a stratified draw, see model/draw.hpp; windows
  /// of a running text evenly spread.
  std::int64_t limit = 0;
  /// Of texts.
  const Tokenizer* tokenizer = nullptr;
  /// Most tokens of a text, or those of a window; 0: the model's context.
  std::int64_t length = 0;
  /// Of windows: how many tokens each begins behind the one before, so that a token is judged with
  /// what stood before it (the sliding window of perplexity). 0: windows do not overlap.
  std::int64_t stride = 0;
  /// What is no valid UTF-8 is replaced instead of refused.
  bool lossy = false;
  /// Of image files: they are turned upright as their EXIF says; see ReadImageOptions.
  bool exif_rotation = false;
  /// The model will learn from it: where it has no names for its classes, the data's are taken.
  bool names_classes = false;
};

/// Reads and checks (magic, UTF-8, counts, sizes, labels in range). Throws std::runtime_error with
/// file, seen and needed, UnknownClass where the model has names for its classes and the data other
/// ones. Images are resized to the config's input and converted to its channels.
Dataset read_dataset(const DatasetSource& source, const ModelConfig& config);

/// Every image file below `folder` (or `folder` itself, when it is a file), sorted; hidden ones are
/// none. What else lies there is said in `remarks`.
std::vector<std::filesystem::path> list_images(const std::filesystem::path& folder,
                                               base::Remarks& remarks);

}  // namespace cleave::model
