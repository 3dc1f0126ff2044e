#pragma once

#include <cstddef>
#include <cstdint>

#include "model/image.hpp"

namespace cleave::model {

/// The orientation (1 to 8) of the picture that these EXIF data say: a TIFF header and its first
/// directory, with or without the "Exif\0\0" that leads them in a JPEG. 1, upright, where they do
/// not say or make no sense.
int orientation_of(const std::uint8_t* exif, std::size_t size);

/// The picture turned upright from `orientation`, as Pillow's ImageOps.exif_transpose.
Image upright(Image image, int orientation);

}  // namespace cleave::model
