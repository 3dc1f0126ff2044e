#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config/config.hpp"

namespace cleave::model {

/// Labelled images in memory, resized to the model's input: uint8 [n, c, h, w] and int64 [n].
struct Dataset {
  at::Tensor images;
  at::Tensor labels;
  std::vector<std::string> label_names;
  std::int64_t size() const { return images.defined() ? images.size(0) : 0; }
};

/// Where a data set lies and which part of it is meant.
struct DatasetSource {
  /// "idx" (MNIST's layout, .gz or plain, train-… and t10k-… pairs), "cifar10", "cifar100" (binary
  /// layout), "folder" (train/ and test/, each with one directory a class), or "auto" (by what lies
  /// in the folder).
  std::string format = "auto";
  std::filesystem::path path;
  /// "train" or "test". A data set that is not split is refused: what learns from it would be
  /// judged by the same images.
  std::string split = "test";
  /// At most this many, the first; 0: all.
  std::int64_t limit = 0;
};

/// Reads and checks (magic, counts, sizes, labels in range). Throws std::runtime_error with file,
/// seen and needed. Images are resized to the config's input and converted to its channels.
Dataset read_dataset(const DatasetSource& source, const ModelConfig& config);

/// Every image file below `folder` (or `folder` itself, when it is one), sorted.
std::vector<std::filesystem::path> list_images(const std::filesystem::path& folder);

}  // namespace cleave::model
