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
  /// What the file says and the pixels do not show, for a person: "16-bit grey, of which …".
  /// Mostly empty.
  std::string note = {};
};

/// Throws std::invalid_argument "[where] image: …" where the pixels are not as many as the sides
/// say, or none.
void expect_whole(const Image& image, const std::string& where);

/// By its extension, whatever its case: .png, .jpg, .jpeg, .jpe, .jfif, .webp or .bmp.
bool is_image(const std::filesystem::path& path);

struct ReadImageOptions {
  /// Turns the picture upright as its EXIF says. Off, as Pillow opens files and as models were
  /// trained; a picture that is not turned has a note.
  bool exif_rotation = false;
  /// What a header claims is compared with this before anything is allocated.
  std::int64_t most_pixels = 100'000'000;
};

/// PNG, JPEG, WebP (of an animation the first frame) or BMP, told by its first bytes and turned
/// into `channels` 1 (grey as Pillow weighs it) or 3: within 1 of Pillow's convert("RGB") or
/// convert("L"), so transparency and colour profiles are dropped; of 16 bits the high byte is
/// taken. Throws std::runtime_error with path and reason: too large, damaged or cut off.
Image read_image(const std::filesystem::path& path, std::int64_t channels,
                 const ReadImageOptions& options = {});
/// The same from memory; `name` stands for the file in messages.
Image decode_image(const std::uint8_t* bytes, std::size_t size, std::int64_t channels,
                   const std::string& name, const ReadImageOptions& options = {});
/// Whole or not at all. 1 or 3 channels.
void write_png(const Image& image, const std::filesystem::path& path);

/// Pillow's resize: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming; all but the
/// first widen their filter when they shrink (antialiasing), rows first, and round in fixed point
/// as Pillow 12 and older do: the same to the bit. Pillow 13 takes columns first where the height
/// shrinks far more than the width.
Image resize(const Image& image, std::int64_t height, std::int64_t width, int resample);

/// What travels and what the model sees: resized and centre-cropped as the config says (what is
/// too small for that gets a black border), uint8 planes [channels, height, width]. Throws
/// std::invalid_argument where the image does not fit.
std::vector<std::uint8_t> prepare(const Image& image, const ImageProcessing& processing,
                                  std::int64_t channels);

}  // namespace cleave::model
