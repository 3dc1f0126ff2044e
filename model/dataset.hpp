#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config/config.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// A data set in memory, as the model takes it. What is undefined is not there.
struct Dataset {
  /// Images resized to the model's input, uint8 [n, c, h, w]; texts, int32 [n, N], −1 fills up (of
  /// a masked language model, windows of a running text with tokens masked);
  /// windows of a running text, int32 [n, N + 1], each beginning with the last token of the one
  /// before.
  at::Tensor inputs;
  /// Classes, int64 [n]; of texts with masked tokens what stands there, int64 [n, N], no_label
  /// where nothing is masked.
  at::Tensor labels;
  static constexpr std::int64_t no_label = -100;
  std::vector<std::string> label_names;
  /// Texts that were longer than what was asked for, of which only the beginning is there.
  std::int64_t shortened = 0;
  /// How alike texts 2i and 2i + 1 are, fp32 [n / 2].
  at::Tensor scores;
  /// The running text that the windows lie in, int32 [T].
  at::Tensor stream;
  /// How many of a window's tokens, its last, are judged, int64 [n]; undefined: all.
  at::Tensor judged;
  std::int64_t size() const { return inputs.defined() ? inputs.size(0) : 0; }
};

/// `limit` of 0 … count − 1, evenly spread, or all of them where it is 0 or not below.
std::vector<std::int64_t> spread_over(std::int64_t count, std::int64_t limit);

/// What features() takes, of rows of `Dataset::inputs`: pixels normalised; ids without columns that
/// no row uses; of windows all but the last token, which is only asked for.
at::Tensor inputs_of(const ModelConfig& config, const at::Tensor& rows);

/// Where a data set lies and which part of it is meant.
struct DatasetSource {
  /// Images: "idx" (MNIST's layout, .gz or plain, train-… and t10k-… pairs), "cifar10", "cifar100"
  /// (binary layout), "folder" (train/ and test/, each with one directory a class). Texts, of the
  /// files train, and dev or test, in the folder: "tsv" (text and label, or two texts and their
  /// score), "jsonl" (objects with "text" and "label", or "text_a", "text_b" and "score"), "stsb"
  /// (the STS benchmark's own columns), "text" (running text: .txt files, or one whose last tenth
  /// is the test split). "auto": by what lies in the folder.
  std::string format = "auto";
  std::filesystem::path path;
  /// "train" or "test". A data set that is not split is refused: what learns from it would be
  /// judged by the same images.
  std::string split = "test";
  /// At most this many, evenly spread, so that data sorted by class shows all of them; 0: all.
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
};

/// Reads and checks (magic, UTF-8, counts, sizes, labels in range). Throws std::runtime_error with
/// file, seen and needed. Images are resized to the config's input and converted to its channels.
Dataset read_dataset(const DatasetSource& source, const ModelConfig& config);

/// Every image file below `folder` (or `folder` itself, when it is one), sorted.
std::vector<std::filesystem::path> list_images(const std::filesystem::path& folder);

}  // namespace cleave::model
