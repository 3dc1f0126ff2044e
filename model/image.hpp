#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::model {

/// An image in memory: uint8, rows of interleaved channels.
struct Image {
  std::int64_t height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels;  // [height, width, channels]
};

/// By its extension, whatever its case: .png, .jpg or .jpeg.
bool is_image(const std::filesystem::path& path);

/// PNG or JPEG, turned into `channels` 1 (grey as Pillow weighs it) or 3; transparency is dropped.
/// Throws std::runtime_error with path and reason; refuses more than 100 million pixels.
Image read_image(const std::filesystem::path& path, std::int64_t channels);
/// The same from memory; `name` stands for the file in messages.
Image decode_image(const std::uint8_t* bytes, std::size_t size, std::int64_t channels,
                   const std::string& name);
/// Whole or not at all. 1 or 3 channels.
void write_png(const Image& image, const std::filesystem::path& path);

/// Pillow's resize: 0 nearest, 2 bilinear, 3 bicubic; the latter two widen their filter when they
/// shrink (antialiasing), rows first, and round in fixed point as Pillow 12 and older do: the same
/// to the bit. Pillow 13 takes columns first where the height shrinks far more than the width.
Image resize(const Image& image, std::int64_t height, std::int64_t width, int resample);

/// What travels and what the model sees: resized (and centre-cropped) as the config says, uint8
/// planes [channels, height, width]. Throws std::invalid_argument where the image does not fit.
std::vector<std::uint8_t> prepare(const Image& image, const ImageProcessing& processing,
                                  std::int64_t channels);

}  // namespace cleave::model
