// A picture: whatever the bytes, it is read as large as it says or refused with one
// std::runtime_error. A PNG is also read with its checksums mended, which hide the rest from a
// fuzzer.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include <zlib.h>

#include "model/image.hpp"

namespace {

using cleave::model::Image;

constexpr std::int64_t most_pixels = 1 << 16;

void read(const std::vector<std::uint8_t>& bytes, std::int64_t channels) {
  try {
    const Image image = cleave::model::decode_image(bytes.data(), bytes.size(), channels, "fuzz",
                                                    {true, most_pixels});
    const bool whole =
        image.channels == channels && image.height >= 1 && image.width >= 1 &&
        image.height * image.width <= most_pixels &&
        static_cast<std::int64_t>(image.pixels.size()) == image.height * image.width * channels;
    if (!whole) std::abort();
  } catch (const std::runtime_error&) {
  }
}

/// Chunks are length, kind, data and their checksum, all numbers big-endian.
void mend_checksums(std::vector<std::uint8_t>& png) {
  for (std::size_t at = 8; at + 12 <= png.size();) {
    const std::size_t length = std::size_t{png[at]} << 24 | std::size_t{png[at + 1]} << 16 |
                               std::size_t{png[at + 2]} << 8 | png[at + 3];
    if (length > png.size() - at - 12) return;
    const std::size_t end = at + 8 + length;
    const auto sum = crc32(0, png.data() + at + 4, static_cast<unsigned>(length + 4));
    for (std::size_t i = 0; i < 4; ++i)
      png[end + i] = static_cast<std::uint8_t>(sum >> (24 - 8 * i));
    at = end + 4;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> bytes(data, data + size);
  read(bytes, 3);
  if (size > 1 && data[1] == 'P') {
    mend_checksums(bytes);
    read(bytes, 1);
  }
  return 0;
}
