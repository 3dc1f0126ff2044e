#include "model/exif.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace cleave::model {
namespace {

/// Numbers of TIFF's byte order; what lies beyond the end reads as 0.
class Tiff {
 public:
  Tiff(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), size_(size) {
    big_endian_ = size > 0 && bytes[0] == 'M';
  }

  bool is_tiff() const {
    return size_ >= 8 && bytes_[0] == bytes_[1] && (bytes_[0] == 'I' || bytes_[0] == 'M') &&
           number(2, 2) == 42;
  }

  std::uint32_t number(std::uint64_t at, int count) const {
    std::uint32_t value = 0;
    if (at > size_ || size_ - at < static_cast<std::size_t>(count)) return 0;
    for (int i = 0; i < count; ++i)
      value = value << 8 | bytes_[at + static_cast<std::size_t>(big_endian_ ? i : count - 1 - i)];
    return value;
  }

 private:
  const std::uint8_t* bytes_;
  std::size_t size_;
  bool big_endian_ = false;
};

}  // namespace

int orientation_of(const std::uint8_t* exif, std::size_t size) {
  constexpr char lead[] = {'E', 'x', 'i', 'f', 0, 0};
  if (size >= sizeof lead && std::memcmp(exif, lead, sizeof lead) == 0) {
    exif += sizeof lead;
    size -= sizeof lead;
  }
  const Tiff tiff(exif, size);
  if (!tiff.is_tiff()) return 1;
  constexpr std::uint32_t orientation = 0x112, type_short = 3;
  const std::uint64_t directory = tiff.number(4, 4);
  const std::uint32_t count = tiff.number(directory, 2);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t entry = directory + 2 + 12 * std::uint64_t{i};  // tag, type, count, value
    if (tiff.number(entry, 2) != orientation) continue;
    const std::uint32_t value = tiff.number(entry + 8, 2);
    const bool known = tiff.number(entry + 2, 2) == type_short && value >= 1 && value <= 8;
    return known ? static_cast<int>(value) : 1;
  }
  return 1;
}

Image upright(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  // Whether rows and columns have changed places, and from which edges of the upright picture they
  // are counted.
  const bool swapped = orientation >= 5;
  const bool from_right =
      orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const bool from_bottom =
      orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  Image out = std::move(image);
  const std::vector<std::uint8_t> stored = std::move(out.pixels);
  const std::int64_t width = out.width, channels = out.channels;
  if (swapped) std::swap(out.height, out.width);
  out.pixels.clear();
  out.pixels.reserve(stored.size());
  for (std::int64_t y = 0; y < out.height; ++y) {
    for (std::int64_t x = 0; x < out.width; ++x) {
      const std::int64_t row = from_bottom ? out.height - 1 - y : y;
      const std::int64_t column = from_right ? out.width - 1 - x : x;
      const auto* pixel =
          stored.data() + (swapped ? column * width + row : row * width + column) * channels;
      out.pixels.insert(out.pixels.end(), pixel, pixel + channels);
    }
  }
  return out;
}

}  // namespace cleave::model
