#pragma once

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

/// PNG or JPEG with `channels` 1 or 3 (stb). Throws std::runtime_error with path and reason; refuses more than 2^28 pixels.
Image read_image(const std::filesystem::path& path, std::int64_t channels);
Image decode_image(const std::uint8_t* bytes, std::size_t size, std::int64_t channels, const std::string& name);
void write_png(const Image& image, const std::filesystem::path& path);

/// Pillow's resize (antialiased, fixed-point as Pillow does): bilinear or bicubic, within 1/255 of Pillow's result.
Image resize(const Image& image, std::int64_t height, std::int64_t width, int resample);

/// What travels and what the model sees: resized (and centre-cropped) as the config says, uint8 planes [c, h, w].
std::vector<std::uint8_t> prepare(const Image& image, const ImageProcessing& processing, std::int64_t channels);

}  // namespace cleave::model
