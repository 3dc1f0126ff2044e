#include "model/image.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <zlib.h>

#include "base/file.hpp"
#include "model/exif.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using cleave::testing::message_of;
using cleave::testing::Scratch;

constexpr int nearest = 0, lanczos = 1, bilinear = 2, bicubic = 3, box = 4, hamming = 5;

fs::path golden(const std::string& name) {
  return fs::path(CLEAVE_SOURCE_DIR) / "tests/goldens/images" / name;
}

Image picture(const std::string& name) { return read_image(golden(name + ".png"), 3); }

/// The largest difference of any channel of any pixel; 256 where the shapes differ.
int largest_difference(const Image& a, const Image& b) {
  if (a.height != b.height || a.width != b.width || a.pixels.size() != b.pixels.size()) return 256;
  int largest = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i) {
    largest = std::max(largest, std::abs(int{a.pixels[i]} - int{b.pixels[i]}));
  }
  return largest;
}

/// A picture whose every pixel says where it is.
Image chart(std::int64_t height, std::int64_t width, std::int64_t channels) {
  Image image{height, width, channels, {}};
  for (std::int64_t i = 0; i < height * width * channels; ++i) {
    image.pixels.push_back(static_cast<std::uint8_t>(i % 251));
  }
  return image;
}

std::string png_of(const Image& image) {
  const Scratch scratch;
  write_png(image, scratch / "x.png");
  return base::read_text(scratch / "x.png");
}

Image decode(const std::string& bytes, std::int64_t channels = 3,
             const ReadImageOptions& options = {}) {
  // A copy without spare room at the end, so that a sanitizer sees every byte read too many.
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  return decode_image(exact.data(), exact.size(), channels, "upload", options);
}

struct Resizing {
  std::string source, kind;
  int resample;
  std::int64_t height, width;
};

class ResizeAsPillow : public ::testing::TestWithParam<Resizing> {};

TEST_P(ResizeAsPillow, ToTheBit) {
  const auto& [source, kind, resample, height, width] = GetParam();
  const std::string name =
      source + "_" + kind + "_" + std::to_string(height) + "x" + std::to_string(width);
  const Image resized = resize(picture(source), height, width, resample);
  // 1 in 255 is allowed; 0 is what the same fixed-point arithmetic gives.
  EXPECT_EQ(largest_difference(resized, picture(name)), 0) << name;
}

std::vector<Resizing> every_golden() {
  std::vector<Resizing> all;
  const std::vector<std::pair<std::string, int>> kinds = {
      {"nearest", nearest}, {"lanczos", lanczos}, {"bilinear", bilinear},
      {"bicubic", bicubic}, {"box", box},         {"hamming", hamming}};
  const std::vector<std::pair<int, int>> sizes = {{32, 32}, {90, 122}, {7, 61}, {45, 100}};
  for (const auto& [kind, resample] : kinds) {
    for (const auto& [height, width] : sizes) {
      all.push_back({"colour", kind, resample, height, width});
    }
    all.push_back({"grey", kind, resample, 32, 40});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Goldens, ResizeAsPillow, ::testing::ValuesIn(every_golden()),
                         [](const auto& golden) {
                           const Resizing& to = golden.param;
                           return to.source + "_" + to.kind + "_" + std::to_string(to.height) +
                                  "x" + std::to_string(to.width);
                         });

TEST(Resize, KeepsAnImageOfTheSameSize) {
  const Image image = chart(9, 7, 3);
  for (int resample = nearest; resample <= hamming; ++resample) {
    EXPECT_EQ(resize(image, 9, 7, resample).pixels, image.pixels);
  }
}

TEST(Resize, KeepsAPlainColour) {
  Image plain{10, 10, 1, std::vector<std::uint8_t>(100, 200)};
  for (int resample = nearest; resample <= hamming; ++resample) {
    const Image resized = resize(plain, 3, 37, resample);
    EXPECT_EQ(resized.pixels, std::vector<std::uint8_t>(3 * 37, 200));
  }
}

TEST(Resize, RefusesWhatItDoesNotKnow) {
  const Image image = chart(4, 4, 1);
  EXPECT_EQ(message_of([&] { resize(image, 2, 2, 6); }),
            "[resize] resample: saw 6, needs 0..5 (nearest, Lanczos, bilinear, bicubic, box, "
            "Hamming)");
  EXPECT_EQ(message_of([&] { resize(image, 0, 2, bilinear); }),
            "[resize] size: saw 0 x 2, needs 1 to 100 million pixels");
  EXPECT_THROW(resize(image, std::int64_t{1} << 62, 4, bilinear), std::invalid_argument);
  EXPECT_EQ(
      message_of([] {
        resize(Image{2, 2, 3, {1, 2}}, 2, 2, bilinear);
      }),
      "[resize] image: saw 2 bytes, needs height x width x channels = 2 x 2 x 3, each above 0");
}

TEST(Prepare, ResizesIntoPlanes) {
  ImageProcessing processing;
  processing.height = processing.width = 32;
  processing.resample = bicubic;
  const auto planes = prepare(picture("colour"), processing, 3);
  const Image expected = picture("colour_bicubic_32x32");
  ASSERT_EQ(planes.size(), 3u * 32 * 32);
  for (std::size_t i = 0; i < 32 * 32; ++i) {
    for (std::size_t c = 0; c < 3; ++c) {
      ASSERT_EQ(planes[c * 32 * 32 + i], expected.pixels[3 * i + c]) << i << " " << c;
    }
  }
}

TEST(Prepare, CutsOutTheCentreAsDeitDoes) {
  ImageProcessing processing;
  processing.height = 33;
  processing.width = 32;
  processing.crop_from = 40;
  processing.resample = bicubic;
  const auto planes = prepare(picture("colour"), processing, 3);
  const Image expected = picture("colour_crop_33x32_of_40");
  ASSERT_EQ(planes.size(), expected.pixels.size());
  for (std::size_t i = 0; i < 33 * 32; ++i) ASSERT_EQ(planes[i], expected.pixels[3 * i]) << i;
}

TEST(Prepare, RefusesWhatDoesNotFit) {
  ImageProcessing processing;
  processing.height = processing.width = 32;
  EXPECT_EQ(message_of([&] { prepare(chart(32, 32, 1), processing, 3); }),
            "[prepare] channels: saw 1, needs 3");
  processing.resize = false;
  EXPECT_NO_THROW(prepare(chart(32, 32, 3), processing, 3));
  EXPECT_EQ(message_of([&] { prepare(chart(28, 32, 3), processing, 3); }),
            "[prepare] image: saw 28 x 32, needs 32 x 32 (the model's processing does not resize)");
  processing.resize = processing.keep_aspect = true;
  EXPECT_EQ(message_of([&] { prepare(chart(28, 35, 3), processing, 3); }),
            "[prepare] image: saw 32 x 40, needs 32 x 32 (the model's processing keeps the aspect "
            "and cuts nothing off)");
}

/// What Transformers' image processor gives to a model of `height` x `width`.
void expect_prepared(const std::string& source, const std::string& result, std::int64_t crop_from,
                     bool keep_aspect, int resample, bool resize = true) {
  const Image expected = picture(result);
  ImageProcessing processing;
  processing.height = expected.height;
  processing.width = expected.width;
  processing.crop_from = crop_from;
  processing.keep_aspect = keep_aspect;
  processing.resample = resample;
  processing.resize = resize;
  const auto planes = prepare(picture(source), processing, 3);
  ASSERT_EQ(planes.size(), expected.pixels.size()) << result;
  const std::size_t area = planes.size() / 3;
  for (std::size_t i = 0; i < planes.size(); ++i)
    ASSERT_EQ(planes[i % 3 * area + i / 3], expected.pixels[i]) << result << " " << i;
}

TEST(Prepare, DoesAsTransformersImageProcessorsDo) {
  expect_prepared("colour", "colour_clip", 40, true, bicubic);
  expect_prepared("tall", "tall_clip", 37, true, bicubic);
  expect_prepared("colour", "colour_bit_border", 25, true, bicubic);
  expect_prepared("colour", "colour_bit_untouched", 224, true, bicubic, false);
  expect_prepared("tall", "tall_convnext", 36, true, bilinear);
  expect_prepared("colour", "colour_convnext_share", 35, true, bicubic);
  expect_prepared("colour", "colour_convnext_large", 0, false, nearest);
  expect_prepared("colour", "colour_deit", 36, false, bicubic);
  expect_prepared("colour", "colour_vit_uncropped", 0, false, bilinear);
}

TEST(IsImage, GoesByTheExtension) {
  for (const char* name : {"a.png", "b.JPG", "c.jpeg", "d.jpe", "e.JFIF", "f.webp", "g.Bmp"})
    EXPECT_TRUE(is_image(name)) << name;
  for (const char* name : {"a.gif", "b.tiff", "png", ".png", "c.png.txt", ""})
    EXPECT_FALSE(is_image(name)) << name;
}

class ReadAsPillow : public ::testing::TestWithParam<std::string> {};

TEST_P(ReadAsPillow, EachPixel) {
  const fs::path file = golden("kinds") / GetParam();
  const auto expected = [&](const char* as, std::int64_t channels) {
    return read_image(file.string() + as + ".png", channels);
  };
  EXPECT_LE(largest_difference(read_image(file, 3), expected("_as_colour", 3)), 1);
  const bool has_grey = fs::exists(file.string() + "_as_grey.png");
  const char* as = has_grey ? "_as_grey" : "_as_colour";
  EXPECT_LE(largest_difference(read_image(file, 1), expected(as, 1)), has_grey ? 1 : 2);
}

std::vector<std::string> every_kind() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(golden("kinds"))) {
    const std::string name = entry.path().filename().string();
    if (name.find("_as_colour.png") == std::string::npos &&
        name.find("_as_grey.png") == std::string::npos)
      names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Kinds, ReadAsPillow, ::testing::ValuesIn(every_kind()),
                         [](const auto& kind) {
                           std::string name = kind.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(ReadImage, ReadsThePixelsOfAPlainPng) {
  const std::string expected = base::read_text(golden("colour.rgb"));  // the other goldens are PNGs
  const Image image = picture("colour");
  ASSERT_EQ(image.height, 45);
  ASSERT_EQ(image.width, 61);
  EXPECT_EQ(std::string(image.pixels.begin(), image.pixels.end()), expected);
  EXPECT_EQ(image.note, "");
}

TEST(ReadImage, TurnsColourIntoGreyAsPillowDoes) {
  const Image grey = read_image(golden("colour.png"), 1);
  const Image expected = read_image(golden("colour_as_grey.png"), 1);
  EXPECT_EQ(grey.channels, 1);
  EXPECT_EQ(largest_difference(grey, expected), 0);
}

TEST(ReadImage, TurnsGreyIntoColour) {
  const Image grey = read_image(golden("grey.png"), 1);
  const Image colour = read_image(golden("grey.png"), 3);
  ASSERT_EQ(colour.pixels.size(), 3 * grey.pixels.size());
  for (std::size_t i = 0; i < colour.pixels.size(); ++i) {
    ASSERT_EQ(colour.pixels[i], grey.pixels[i / 3]);
  }
}

TEST(ReadImage, DropsTransparencyAndUnpacksPalettes) {
  EXPECT_EQ(largest_difference(picture("colour_with_alpha"), picture("colour")), 0);
  EXPECT_EQ(largest_difference(picture("palette"), picture("palette_as_colour")), 0);
}

TEST(ReadImage, ReadsJpegAsPillowDoes) {
  EXPECT_LE(largest_difference(read_image(golden("photo.jpg"), 3), picture("photo_as_colour")), 1);
}

TEST(ReadImage, SaysThatHalfOfA16BitGreyIsDropped) {
  EXPECT_EQ(read_image(golden("kinds/grey_16.png"), 1).note,
            "16-bit grey, of which the high byte is used");
  EXPECT_EQ(read_image(golden("kinds/grey_16.png"), 3).note,
            "16-bit grey, of which the high byte is used");
  EXPECT_EQ(read_image(golden("kinds/grey_8.png"), 3).note, "");
}

// ---- EXIF

std::string bytes_of(std::uint64_t value, int count, bool big_endian) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    const int place = big_endian ? count - 1 - i : i;
    bytes += static_cast<char>(value >> (8 * place) & 0xff);
  }
  return bytes;
}

/// A directory of two entries, the second of which is the orientation.
std::string exif_of(int orientation, bool big_endian) {
  const auto number = [&](std::uint64_t value, int count) {
    return bytes_of(value, count, big_endian);
  };
  return (big_endian ? "MM" : "II") + number(42, 2) + number(8, 4) + number(2, 2) +
         number(0x100, 2) + number(4, 2) + number(1, 4) + number(6, 4) +  // its width
         number(0x112, 2) + number(3, 2) + number(1, 4) +
         number(static_cast<std::uint64_t>(orientation), 2) + number(0, 2) + number(0, 4);
}

std::string with_exif_in_jpeg(const std::string& jpeg, const std::string& exif) {
  const std::string payload = "Exif\0\0"s + exif;
  return jpeg.substr(0, 2) + "\xFF\xE1" + bytes_of(payload.size() + 2, 2, true) + payload +
         jpeg.substr(2);
}

/// A chunk before the first of pixels.
std::string with_exif_in_png(const std::string& png, const std::string& exif) {
  const std::size_t at = png.find("IDAT") - 4;
  const std::string chunk = "eXIf" + exif;
  const auto crc =
      crc32(0, reinterpret_cast<const Bytef*>(chunk.data()), static_cast<unsigned>(chunk.size()));
  return png.substr(0, at) + bytes_of(exif.size(), 4, true) + chunk + bytes_of(crc, 4, true) +
         png.substr(at);
}

/// The extended layout: a header that says what there is, the picture, the EXIF.
std::string with_exif_in_webp(const std::string& webp, const std::string& exif,
                              const Image& image) {
  const std::string head = "VP8X" + bytes_of(10, 4, false) + bytes_of(8, 4, false) +
                           bytes_of(static_cast<std::uint64_t>(image.width - 1), 3, false) +
                           bytes_of(static_cast<std::uint64_t>(image.height - 1), 3, false);
  const std::string body = "WEBP" + head + webp.substr(12) + "EXIF" +
                           bytes_of(exif.size(), 4, false) + exif +
                           std::string(exif.size() % 2, '\0');
  return "RIFF" + bytes_of(body.size(), 4, false) + body;
}

TEST(Exif, TurnsUprightAsPillowDoes) {
  const Image stored = picture("upright_from_1");
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const Image expected = picture("upright_from_" + std::to_string(orientation));
    EXPECT_EQ(largest_difference(upright(stored, orientation), expected), 0) << orientation;
    for (const bool big_endian : {false, true}) {
      const std::string exif = exif_of(orientation, big_endian);
      EXPECT_EQ(orientation_of(reinterpret_cast<const std::uint8_t*>(exif.data()), exif.size()),
                orientation);
    }
  }
}

TEST(Exif, IsFollowedInEachFormatWhenAsked) {
  const std::string exif = exif_of(6, true);
  const auto read = [](const std::string& name) { return base::read_text(golden(name)); };
  const std::string jpeg = read("kinds/colour_420.jpg"), png = read("colour.png"),
                    webp = read("kinds/lossless.webp");
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {jpeg, with_exif_in_jpeg(jpeg, exif)},
      {png, with_exif_in_png(png, exif)},
      {webp, with_exif_in_webp(webp, exif, decode(webp))}};
  ReadImageOptions options;
  for (const auto& [plain, turned] : pairs) {
    const Image stored = decode(turned);
    EXPECT_EQ(largest_difference(stored, decode(plain)), 0);  // as Pillow opens it
    EXPECT_EQ(stored.note,
              "its EXIF says which way is up, which is not followed (--exif-rotation follows it)");
    options.exif_rotation = true;
    const Image upright_one = decode(turned, 3, options);
    EXPECT_EQ(largest_difference(upright_one, upright(stored, 6)), 0);
    EXPECT_EQ(upright_one.note, "");
    EXPECT_EQ(decode(plain, 3, options).note, "");
  }
}

TEST(Exif, IsIgnoredWhereItMakesNoSense) {
  const auto orientation = [](const std::string& exif) {
    const std::vector<std::uint8_t> exact(exif.begin(), exif.end());
    return orientation_of(exact.data(), exact.size());
  };
  const std::string good = exif_of(3, false);
  for (std::size_t size = 0; size < good.size() - 8; ++size)
    EXPECT_EQ(orientation(good.substr(0, size)), 1) << size;
  EXPECT_EQ(orientation(exif_of(0, false)), 1);
  EXPECT_EQ(orientation(exif_of(9, true)), 1);
  std::string far = good;
  far.replace(4, 4, "\xff\xff\xff\xff");  // the directory lies beyond the end
  EXPECT_EQ(orientation(far), 1);
  std::string many = good;
  many.replace(8, 2, "\xff\xff");  // entries beyond the end
  EXPECT_EQ(orientation(many), 3);
}

TEST(WritePng, IsReadBackAsItWas) {
  for (const std::int64_t channels : {1, 3}) {
    const Image image = chart(13, 21, channels);
    EXPECT_EQ(decode(png_of(image), channels).pixels, image.pixels);
  }
}

TEST(ReadImage, NamesTheFile) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { read_image(scratch / "none.png", 3); }),
            "[" + (scratch / "none.png").string() + "] cannot read: No such file or directory");
  base::write_whole(scratch / "text.png", "this is no picture");
  EXPECT_EQ(message_of([&] { read_image(scratch / "text.png", 3); })
                .find("[" + (scratch / "text.png").string() +
                      "] cannot read the image: it is no PNG, JPEG, WebP or BMP"),
            0u);
  EXPECT_EQ(message_of([] { decode("", 2); }), "[upload] channels: saw 2, needs 1 or 3");
}

/// A message of decode() about the file itself, or nothing where it was read.
std::string refusal_of(const std::string& bytes, const ReadImageOptions& options = {}) {
  const std::string lead = "[upload] cannot read the image: ";
  const std::string message = message_of([&] { decode(bytes, 3, options); });
  if (message.empty()) return "";
  EXPECT_EQ(message.find(lead), 0u) << message;
  return message.size() < lead.size() ? message : message.substr(lead.size());
}

std::string kind(const std::string& name) { return base::read_text(golden("kinds") / name); }

TEST(ReadImage, RefusesEveryKindCutOffAnywhere) {
  for (const std::string& name : every_kind()) {
    const std::string whole = kind(name);
    for (std::size_t size = 0; size < whole.size(); size += 5)
      ASSERT_NE(refusal_of(whole.substr(0, size)), "") << name << " " << size;
    ASSERT_NE(refusal_of(whole.substr(0, whole.size() - 1)), "") << name;
  }
}

TEST(ReadImage, SaysWhatIsCutOff) {
  const auto cut = [](const std::string& name) {
    const std::string whole = kind(name);
    return refusal_of(whole.substr(0, whole.size() - 40));
  };
  EXPECT_EQ(cut("colour_420.jpg"), "the JPEG is cut off");
  EXPECT_EQ(cut("colour_420_progressive.jpg"), "the JPEG is cut off");
  EXPECT_EQ(cut("colour_16.png"), "the PNG is damaged or cut off: end of stream");
  EXPECT_EQ(cut("lossy.webp"), "the WebP is damaged or cut off");
  EXPECT_EQ(cut("colour_24.bmp"), "the BMP is cut off");
}

TEST(ReadImage, RefusesAJpegThatEndsEarlyAndSaysThatItEnds) {
  for (const char* name : {"colour_420.jpg", "colour_420_progressive.jpg", "colour_restarts.jpg"}) {
    const std::string whole = kind(name);
    // From the first pixels, past tables and headers, up to close before the end.
    for (std::size_t size = whole.find("\xFF\xDA") + 12; size + 12 < whole.size(); size += 3) {
      if (whole[size - 1] == '\xFF') continue;
      const std::string message = refusal_of(whole.substr(0, size) + "\xFF\xD9");
      // A progressive one may end between two scans: a coarser picture, as it was meant.
      if (std::string(name) == "colour_420_progressive.jpg") continue;
      ASSERT_EQ(message.find("the JPEG is damaged or cut off: "), 0u) << name << " " << size;
    }
  }
}

TEST(ReadImage, ReadsWhatFollowsThePicture) {
  for (const char* name : {"colour_420.jpg", "colour_16.png", "lossy.webp", "colour_24.bmp"})
    EXPECT_EQ(decode(kind(name) + "what a camera leaves behind").pixels, decode(kind(name)).pixels)
        << name;
}

TEST(ReadImage, ReadsAJpegWithStrayBytesBetweenItsSegments) {
  const std::string jpeg = kind("colour_420.jpg");
  EXPECT_EQ(decode(jpeg.substr(0, 2) + "\xFF\xFF" + jpeg.substr(2)).pixels, decode(jpeg).pixels);
  const std::size_t tables = jpeg.find("\xFF\xDB");
  EXPECT_EQ(decode(jpeg.substr(0, tables) + "stray" + jpeg.substr(tables)).pixels,
            decode(jpeg).pixels);
}

TEST(ReadImage, RefusesABrokenChecksum) {
  const std::string png = kind("palette_8.png");
  const std::vector<std::string> chunks = {"IHDR", "PLTE", "tRNS", "IDAT", "IEND"};
  for (const std::string& chunk : chunks) {
    std::string bad = png;
    const std::size_t at = bad.find(chunk);
    std::size_t length = 0;
    for (std::size_t i = at - 4; i < at; ++i)
      length = length << 8 | static_cast<unsigned char>(bad[i]);
    bad[at + 4 + length] = static_cast<char>(bad[at + 4 + length] ^ 1);
    EXPECT_EQ(refusal_of(bad), "the PNG is damaged or cut off: invalid chunk checksum") << chunk;
  }
}

TEST(ReadImage, RefusesAnAbsurdSizeBeforeItAllocates) {
  const std::string needs = " pixels, needs at most 100 million";
  const auto with = [](std::string bytes, std::size_t at, const std::string& sides) {
    return bytes.replace(at, sides.size(), sides);
  };
  const auto big = [](std::uint64_t value, int count) { return bytes_of(value, count, true); };
  const auto little = [](std::uint64_t value, int count) { return bytes_of(value, count, false); };
  const std::string png = kind("colour_16.png");
  const auto with_size = [&](std::uint64_t width, std::uint64_t height) {
    std::string bad = with(png, 16, big(width, 4) + big(height, 4));
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(bad.data()) + 12, 17);
    return with(bad, 29, big(crc, 4));
  };
  EXPECT_EQ(refusal_of(with_size(100'000, 50'000)), "saw 100000 x 50000" + needs);
  EXPECT_NE(refusal_of(with_size(0xFFFFFFFF, 0xFFFFFFFF)), "");
  EXPECT_NE(refusal_of(with_size(0, 8)), "");
  EXPECT_EQ(refusal_of(with_size(9'000, 9'000)), "the PNG is cut off");

  const std::string jpeg = kind("colour_420.jpg");
  const std::size_t sof = jpeg.find("\xFF\xC0");
  EXPECT_EQ(refusal_of(with(jpeg, sof + 5, big(65'500, 2) + big(65'400, 2))),
            "saw 65400 x 65500" + needs);
  EXPECT_EQ(refusal_of(with(jpeg, sof + 5, big(9'000, 2) + big(9'000, 2))), "the JPEG is cut off");
  EXPECT_NE(refusal_of(with(jpeg, sof + 5, big(0, 2))), "");

  const std::string webp = kind("lossless.webp");
  const std::uint64_t sides = 16'383 | 16'383 << 14;  // each less one, in 14 bits
  EXPECT_EQ(refusal_of(with(webp, webp.find("VP8L") + 9, little(sides, 4))),
            "saw 16384 x 16384" + needs);

  const std::string bmp = kind("colour_24.bmp");
  EXPECT_EQ(refusal_of(with(bmp, 18, little(20'000, 4) + little(30'000, 4))),
            "saw 20000 x 30000" + needs);
  EXPECT_EQ(refusal_of(with(bmp, 18, little(2'000, 4))), "the BMP is cut off");
  EXPECT_EQ(refusal_of(with(bmp, 18, little(0, 4))), "saw 0 x 13 pixels, needs at least one");

  ReadImageOptions small;
  small.most_pixels = 100;
  EXPECT_EQ(message_of([&] { decode(png, 3, small); }),
            "[upload] cannot read the image: saw 19 x 13 pixels, needs at most 100");
}

TEST(ReadImage, RefusesAPngThatUnpacksToMoreThanItsSize) {
  // 7 MB of zeros pack to some 10 kB; the size then claims 8 x 8.
  std::string bomb = png_of({1500, 1500, 3, std::vector<std::uint8_t>(6'750'000)});
  ASSERT_LT(bomb.size(), 100'000u);
  bomb.replace(16, 8, bytes_of(8, 4, true) + bytes_of(8, 4, true));
  const auto crc = crc32(0, reinterpret_cast<const Bytef*>(bomb.data()) + 12, 17);
  bomb.replace(29, 4, bytes_of(crc, 4, true));
  refusal_of(bomb);  // refused or read as 8 x 8: no crash, no memory
}

TEST(ReadImage, ReadsABmpFromTheUpperRow) {
  const std::string bmp = kind("colour_24.bmp");
  std::string from_above = bmp;
  from_above.replace(22, 4, bytes_of(0xFFFFFFF3, 4, false));  // -13
  const Image down = decode(from_above), up = decode(bmp);
  for (std::int64_t y = 0; y < up.height; ++y) {
    const auto row = [&](const Image& image, std::int64_t at) {
      const auto begin = image.pixels.begin() + at * image.width * 3;
      return std::vector<std::uint8_t>(begin, begin + image.width * 3);
    };
    EXPECT_EQ(row(down, y), row(up, up.height - 1 - y));
  }
}

TEST(ReadImage, SurvivesFlippedBytes) {
  ReadImageOptions small;  // a forged size is not worth the time
  small.most_pixels = 100'000;
  for (const std::string& name : every_kind()) {
    const std::string good = kind(name);
    for (std::size_t i = 0; i < good.size(); i += 13) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 0x5A);
      refusal_of(bad, small);  // or a picture: no crash, and no other message
    }
  }
}

}  // namespace
}  // namespace cleave::model
