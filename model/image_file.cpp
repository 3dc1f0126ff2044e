#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <spng.h>
#include <stdexcept>
#include <string_view>
#include <turbojpeg.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include "base/file.hpp"
#include "model/exif.hpp"
#include "model/image.hpp"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_FAILURE_USERMSG
#include <stb/stb_image.h>

namespace cleave::model {
namespace {

/// A file in memory, and what its messages are about.
struct File {
  const std::uint8_t* bytes;
  std::size_t size;
  const std::string& name;
  const ReadImageOptions& options;

  [[noreturn]] void refuse(const std::string& reason) const {
    throw std::runtime_error("[" + name + "] cannot read the image: " + reason);
  }

  bool has(std::size_t at, std::string_view text) const {
    return size >= at && size - at >= text.size() &&
           std::memcmp(bytes + at, text.data(), text.size()) == 0;
  }

  bool contains(std::string_view text) const {
    return std::string_view(reinterpret_cast<const char*>(bytes), size).rfind(text) !=
           std::string_view::npos;
  }

  std::uint32_t little_endian(std::size_t at, int count) const {
    std::uint32_t value = 0;
    for (int i = count; i-- > 0;) value = value << 8 | bytes[at + static_cast<std::size_t>(i)];
    return value;
  }

  void check_size(std::int64_t width, std::int64_t height) const {
    const std::int64_t most = options.most_pixels;
    if (width >= 1 && height >= 1 && width <= most && height <= most / width) return;
    const std::string saw =
        "saw " + std::to_string(width) + " x " + std::to_string(height) + " pixels, needs ";
    if (width < 1 || height < 1) refuse(saw + "at least one");
    refuse(saw + "at most " +
           (most % 1'000'000 == 0 ? std::to_string(most / 1'000'000) + " million"
                                  : std::to_string(most)));
  }
};

/// As a codec gives it: 1 channel (grey), 3 (RGB) or 4 (RGB and what is dropped).
struct Decoded {
  Image image;
  int orientation = 1;
};

Image blank(std::int64_t height, std::int64_t width, std::int64_t channels) {
  Image image{height, width, channels, {}};
  image.pixels.resize(static_cast<std::size_t>(height * width * channels));
  return image;
}

// ---- JPEG

/// What TurboJPEG does not tell of a file.
struct JpegOutline {
  bool arithmetic = false;
  bool has_end = false;
  int orientation = 1;
};

/// The segments before the first scan, and whether an end-of-image marker stands somewhere behind
/// its header; before it, thumbnails have markers too.
JpegOutline outline_of(const File& file) {
  constexpr int start_of_scan = 0xDA, end_of_image = 0xD9, exif = 0xE1;
  JpegOutline outline;
  std::size_t at = 2;
  while (at + 4 <= file.size && file.bytes[at + 1] != start_of_scan) {
    const int marker = file.bytes[at + 1];
    // Any number of 0xFF may lead a marker, and libjpeg looks for one behind stray bytes.
    if (file.bytes[at] != 0xFF || marker == 0xFF || marker == 0) {
      ++at;
      continue;
    }
    const std::size_t length = std::size_t{file.bytes[at + 2]} << 8 | file.bytes[at + 3];
    if (marker == 0xC9 || marker == 0xCA) outline.arithmetic = true;
    if (marker == exif && file.has(at + 4, {"Exif\0\0", 6}) && length <= file.size - at - 2)
      outline.orientation =
          orientation_of(file.bytes + at + 4, std::max<std::size_t>(length, 2) - 2);
    at += 2 + length;
  }
  for (; at + 2 <= file.size && !outline.has_end; ++at)
    outline.has_end = file.bytes[at] == 0xFF && file.bytes[at + 1] == end_of_image;
  return outline;
}

/// Warnings of libjpeg that leave the pixels right.
bool is_harmless(std::string_view warning) {
  for (const char* harmless :
       {"extraneous bytes", "Unknown Adobe color", "unknown JFIF revision", "bad ICC marker"})
    if (warning.find(harmless) != std::string_view::npos) return true;
  return false;
}

/// Pillow's MULDIV255: a · b / 255, rounded.
int product_of(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/// Pillow's way from CMYK to RGB. It takes every JPEG's inks for inverted, as Adobe's programs
/// write them.
Image rgb_of_inks(const Image& inks) {
  Image image = blank(inks.height, inks.width, 3);
  std::uint8_t* target = image.pixels.data();
  for (std::size_t i = 0; i < inks.pixels.size(); i += 4) {
    const int light = inks.pixels[i + 3];
    for (std::size_t c = 0; c < 3; ++c) {
      const int ink = 255 - inks.pixels[i + c];
      *target++ = static_cast<std::uint8_t>(std::max(0, light - product_of(ink, light)));
    }
  }
  return image;
}

Decoded decode_jpeg(const File& file) {
  const std::unique_ptr<void, int (*)(tjhandle)> jpeg(tjInitDecompress(), tjDestroy);
  if (!jpeg) file.refuse("not enough memory");
  const auto size = static_cast<unsigned long>(file.size);
  int width = 0, height = 0, subsampling = 0, colours = -1;
  // It fails for an unusual subsampling too, which decoding does not mind, but says the rest first.
  const bool failed = tjDecompressHeader3(jpeg.get(), file.bytes, size, &width, &height,
                                          &subsampling, &colours) != 0;
  if (failed && (width < 1 || height < 1 || colours < 0)) file.refuse(tjGetErrorStr2(jpeg.get()));
  file.check_size(width, height);
  const JpegOutline outline = outline_of(file);
  // Each block of 8 x 8 pixels takes a bit at least.
  const auto least = static_cast<std::size_t>(std::int64_t{width} * height / (64 * 8));
  const bool too_short = !outline.arithmetic && file.size < least;
  if (!outline.has_end || too_short) file.refuse("the JPEG is cut off");

  const bool inks = colours == TJCS_CMYK || colours == TJCS_YCCK;
  const int format = inks ? TJPF_CMYK : colours == TJCS_GRAY ? TJPF_GRAY : TJPF_RGB;
  Image image = blank(height, width, tjPixelSize[format]);
  const int flags = TJFLAG_ACCURATEDCT | TJFLAG_LIMITSCANS;
  if (tjDecompress2(jpeg.get(), file.bytes, size, image.pixels.data(), width, 0, height, format,
                    flags) != 0) {
    const std::string reason = tjGetErrorStr2(jpeg.get());
    const bool warning = tjGetErrorCode(jpeg.get()) == TJERR_WARNING;
    if (!warning || !is_harmless(reason)) file.refuse("the JPEG is damaged or cut off: " + reason);
  }
  return {inks ? rgb_of_inks(image) : std::move(image), outline.orientation};
}

// ---- PNG

constexpr std::string_view png_signature = "\x89PNG\r\n\x1A\n";
constexpr std::string_view png_end = "IEND\xAE\x42\x60\x82";  // an empty chunk and its checksum

void expect_png(const File& file, int code) {
  if (code != SPNG_OK)
    file.refuse(std::string("the PNG is damaged or cut off: ") + spng_strerror(code));
}

Decoded decode_png(const File& file) {
  constexpr std::size_t most_chunk = 64 << 20;  // unpacked, of what is no pixel: texts, profiles
  const std::unique_ptr<spng_ctx, void (*)(spng_ctx*)> png(spng_ctx_new(0), spng_ctx_free);
  if (!png) file.refuse("not enough memory");
  spng_set_chunk_limits(png.get(), most_chunk, most_chunk);
  spng_set_crc_action(png.get(), SPNG_CRC_ERROR, SPNG_CRC_ERROR);
  expect_png(file, spng_set_png_buffer(png.get(), file.bytes, file.size));
  spng_ihdr header{};
  expect_png(file, spng_get_ihdr(png.get(), &header));
  file.check_size(header.width, header.height);
  // A row takes a bit for each pixel at least, and deflate packs no tighter than 1032 to 1.
  const std::uint64_t row_bytes = (std::uint64_t{header.width} * header.bit_depth + 7) / 8;
  if (row_bytes * header.height / 1032 > file.size) file.refuse("the PNG is cut off");

  Decoded decoded{blank(header.height, header.width, 3)};
  auto& pixels = decoded.image.pixels;
  expect_png(file, spng_decode_image(png.get(), pixels.data(), pixels.size(), SPNG_FMT_RGB8, 0));
  expect_png(file, spng_decode_chunks(png.get()));
  // spng does not miss the end's last bytes.
  if (!file.contains(png_end)) file.refuse("the PNG is cut off");
  if (header.bit_depth == 16 && header.color_type == SPNG_COLOR_TYPE_GRAYSCALE)
    decoded.image.note = "16-bit grey, of which the high byte is used";
  spng_exif exif{};
  if (spng_get_exif(png.get(), &exif) == SPNG_OK)
    decoded.orientation =
        orientation_of(reinterpret_cast<const std::uint8_t*>(exif.data), exif.length);
  return decoded;
}

// ---- WebP

int webp_orientation(const WebPDemuxer* parts) {
  WebPChunkIterator chunk{};
  int orientation = 1;
  if (WebPDemuxGetChunk(parts, "EXIF", 1, &chunk) != 0)
    orientation = orientation_of(chunk.chunk.bytes, chunk.chunk.size);
  WebPDemuxReleaseChunkIterator(&chunk);
  return orientation;
}

/// The decoder of animations, as Pillow: a still picture is one of a single frame.
Decoded decode_webp(const File& file) {
  const std::string damaged = "the WebP is damaged or cut off";
  WebPBitstreamFeatures features{};
  if (WebPGetFeatures(file.bytes, file.size, &features) != VP8_STATUS_OK) file.refuse(damaged);
  file.check_size(features.width, features.height);
  WebPAnimDecoderOptions options{};
  WebPAnimDecoderOptionsInit(&options);
  options.color_mode = MODE_RGBA;
  const WebPData data{file.bytes, file.size};
  const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> webp(
      WebPAnimDecoderNew(&data, &options), WebPAnimDecoderDelete);
  WebPAnimInfo info{};
  std::uint8_t* pixels = nullptr;
  int end_ms = 0;
  if (!webp || WebPAnimDecoderGetInfo(webp.get(), &info) == 0) file.refuse(damaged);
  file.check_size(info.canvas_width, info.canvas_height);
  if (WebPAnimDecoderGetNext(webp.get(), &pixels, &end_ms) == 0) file.refuse(damaged);
  Decoded decoded{blank(info.canvas_height, info.canvas_width, 4)};
  std::copy_n(pixels, decoded.image.pixels.size(), decoded.image.pixels.begin());
  decoded.orientation = webp_orientation(WebPAnimDecoderGetDemuxer(webp.get()));
  return decoded;
}

// ---- BMP

/// What stb does not see to: it reads zeros beyond the end.
void check_bmp(const File& file) {
  const std::string cut_off = "the BMP is cut off";
  if (file.size < 30) file.refuse(cut_off);
  const std::uint32_t pixels_at = file.little_endian(10, 4), header = file.little_endian(14, 4);
  const bool old = header == 12;  // OS/2's: its sides have 16 bits
  const auto side = [&](std::size_t at) {
    const std::int64_t value = static_cast<std::int32_t>(file.little_endian(at, 4));
    return value < 0 ? -value : value;  // a height below 0 says that the upper row comes first
  };
  const std::int64_t width = old ? file.little_endian(18, 2) : side(18);
  const std::int64_t height = old ? file.little_endian(20, 2) : side(22);
  file.check_size(width, height);
  const std::int64_t bits = file.little_endian(old ? 24 : 28, 2);
  const std::int64_t row_bytes = (width * bits + 31) / 32 * 4;
  if (pixels_at < 14 + std::uint64_t{header} ||
      file.size < pixels_at + static_cast<std::size_t>(row_bytes * height))
    file.refuse(cut_off);
  if (file.size > std::size_t{std::numeric_limits<int>::max()})
    file.refuse("saw " + std::to_string(file.size) + " bytes, needs less than 2 GiB");
}

Decoded decode_bmp(const File& file) {
  check_bmp(file);
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(file.bytes, static_cast<int>(file.size), &width, &height, &channels, 3),
      stbi_image_free);
  if (!pixels) file.refuse(std::string("the BMP is damaged or unusual: ") + stbi_failure_reason());
  Decoded decoded{blank(height, width, 3)};
  std::copy_n(pixels.get(), decoded.image.pixels.size(), decoded.image.pixels.begin());
  return decoded;
}

// ---- all of them

Decoded decode(const File& file) {
  if (file.has(0, png_signature)) return decode_png(file);
  if (file.has(0, "\xFF\xD8")) return decode_jpeg(file);
  if (file.has(0, "RIFF") && file.has(8, "WEBP")) return decode_webp(file);
  if (file.has(0, "BM")) return decode_bmp(file);
  file.refuse("it is no PNG, JPEG, WebP or BMP");
}

/// Pillow's weights of red, green and blue in 1/65536; they sum to 1.
std::uint8_t grey_of(const std::uint8_t* rgb) {
  return static_cast<std::uint8_t>((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >>
                                   16);
}

/// From grey, RGB or RGB and transparency to 1 or 3 channels.
Image with_channels(Image image, std::int64_t channels) {
  if (image.channels == channels) return image;
  Image out = blank(image.height, image.width, channels);
  out.note = std::move(image.note);
  const std::uint8_t* source = image.pixels.data();
  for (auto target = out.pixels.begin(); target != out.pixels.end(); target += channels) {
    if (channels == 1)
      *target = grey_of(source);
    else if (image.channels == 1)
      std::fill_n(target, 3, *source);
    else
      std::copy_n(source, 3, target);
    source += image.channels;
  }
  return out;
}

}  // namespace

bool is_image(const std::filesystem::path& path) {
  constexpr std::string_view known[] = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp"};
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(std::begin(known), std::end(known), extension) != std::end(known);
}

Image decode_image(const std::uint8_t* bytes, std::size_t size, std::int64_t channels,
                   const std::string& name, const ReadImageOptions& options) {
  if (channels != 1 && channels != 3) {
    throw std::invalid_argument("[" + name + "] channels: saw " + std::to_string(channels) +
                                ", needs 1 or 3");
  }
  auto [image, orientation] = decode({bytes, size, name, options});
  image = with_channels(std::move(image), channels);
  if (orientation == 1) return image;
  if (options.exif_rotation) return upright(std::move(image), orientation);
  image.note = "its EXIF says which way is up, which is not followed (--exif-rotation follows it)";
  return image;
}

Image read_image(const std::filesystem::path& path, std::int64_t channels,
                 const ReadImageOptions& options) {
  const std::string bytes = base::read_text(path);
  return decode_image(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), channels,
                      path.string(), options);
}

void write_png(const Image& image, const std::filesystem::path& path) {
  expect_whole(image, "write_png");
  if (image.channels != 1 && image.channels != 3)
    throw std::invalid_argument("[write_png] channels: saw " + std::to_string(image.channels) +
                                ", needs 1 or 3");
  const auto expect = [&](int code) {
    if (code != SPNG_OK)
      throw std::runtime_error("[" + path.string() +
                               "] cannot write the image: " + spng_strerror(code));
  };
  const std::unique_ptr<spng_ctx, void (*)(spng_ctx*)> png(spng_ctx_new(SPNG_CTX_ENCODER),
                                                           spng_ctx_free);
  if (!png) expect(SPNG_EMEM);
  spng_ihdr header{};
  header.width = static_cast<std::uint32_t>(image.width);
  header.height = static_cast<std::uint32_t>(image.height);
  header.bit_depth = 8;
  header.color_type = static_cast<std::uint8_t>(image.channels == 1 ? SPNG_COLOR_TYPE_GRAYSCALE
                                                                    : SPNG_COLOR_TYPE_TRUECOLOR);
  expect(spng_set_option(png.get(), SPNG_ENCODE_TO_BUFFER, 1));
  expect(spng_set_ihdr(png.get(), &header));
  expect(spng_encode_image(png.get(), image.pixels.data(), image.pixels.size(), SPNG_FMT_PNG,
                           SPNG_ENCODE_FINALIZE));
  std::size_t size = 0;
  int failed = SPNG_OK;
  const std::unique_ptr<void, void (*)(void*)> bytes(spng_get_png_buffer(png.get(), &size, &failed),
                                                     std::free);
  expect(failed);
  base::write_whole(path, {static_cast<const char*>(bytes.get()), size});
}

}  // namespace cleave::model
