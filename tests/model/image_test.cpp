#include "model/image.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::model {
namespace {

namespace fs = std::filesystem;
using cleave::testing::message_of;
using cleave::testing::Scratch;

constexpr int nearest = 0, bilinear = 2, bicubic = 3;

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

double mean_difference(const Image& a, const Image& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i) {
    sum += std::abs(int{a.pixels[i]} - int{b.pixels[i]});
  }
  return sum / static_cast<double>(a.pixels.size());
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

Image decode(const std::string& bytes, std::int64_t channels = 3) {
  return decode_image(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), channels,
                      "upload");
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
      {"nearest", nearest}, {"bilinear", bilinear}, {"bicubic", bicubic}};
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
  for (const int resample : {nearest, bilinear, bicubic}) {
    EXPECT_EQ(resize(image, 9, 7, resample).pixels, image.pixels);
  }
}

TEST(Resize, KeepsAPlainColour) {
  Image plain{10, 10, 1, std::vector<std::uint8_t>(100, 200)};
  for (const int resample : {nearest, bilinear, bicubic}) {
    const Image resized = resize(plain, 3, 37, resample);
    EXPECT_EQ(resized.pixels, std::vector<std::uint8_t>(3 * 37, 200));
  }
}

TEST(Resize, RefusesWhatItDoesNotKnow) {
  const Image image = chart(4, 4, 1);
  EXPECT_EQ(message_of([&] { resize(image, 2, 2, 1); }),
            "[resize] resample: saw 1, needs 0 (nearest), 2 (bilinear) or 3 (bicubic)");
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
  processing.crop_from = 40;
  EXPECT_EQ(message_of([&] { prepare(chart(28, 40, 3), processing, 3); }),
            "[prepare] image: saw 28 x 40, needs at least 32 x 32 to cut out its centre");
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

TEST(ReadImage, ReadsJpegNearlyAsPillowDoes) {
  const Image photo = read_image(golden("photo.jpg"), 3);
  const Image expected = picture("photo_as_colour");
  // stb interpolates colours a little differently; the model does not see it.
  EXPECT_LT(largest_difference(photo, expected), 24);
  EXPECT_LT(mean_difference(photo, expected), 1.0);
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
                      "] cannot read the image: it is no PNG or JPEG"),
            0u);
  EXPECT_EQ(message_of([] { decode("", 2); }), "[upload] channels: saw 2, needs 1 or 3");
}

TEST(ReadImage, RefusesACutOffPng) {
  const std::string png = png_of(chart(40, 40, 3));
  for (std::size_t size = 0; size + 12 < png.size(); size += 7) {  // the last 12 bytes say "end"
    const std::string message = message_of([&] { decode(png.substr(0, size)); });
    ASSERT_EQ(message.find("[upload] cannot read the image: "), 0u) << size << " " << message;
  }
}

TEST(ReadImage, RefusesACutOffJpeg) {
  const std::string jpeg = base::read_text(golden("photo.jpg"));
  for (std::size_t size = 0; size < jpeg.size(); size += 11) {
    const std::string message = message_of([&] { decode(jpeg.substr(0, size)); });
    ASSERT_EQ(message.find("[upload] cannot read the image: "), 0u) << size << " " << message;
  }
  EXPECT_EQ(message_of([&] { decode(jpeg.substr(0, jpeg.size() - 2)); }),
            "[upload] cannot read the image: the JPEG is cut off");
  EXPECT_NO_THROW(decode(jpeg + "what a camera leaves behind"));
}

/// The size of a PNG stands at byte 16, big-endian.
std::string with_size(std::string png, std::uint32_t width, std::uint32_t height) {
  for (std::size_t i = 0; i < 4; ++i) {
    png[16 + i] = static_cast<char>(width >> (24 - 8 * i));
    png[20 + i] = static_cast<char>(height >> (24 - 8 * i));
  }
  return png;
}

TEST(ReadImage, RefusesAnAbsurdSize) {
  const std::string png = png_of(chart(8, 8, 3));
  EXPECT_EQ(message_of([&] { decode(with_size(png, 100'000, 50'000)); }),
            "[upload] cannot read the image: saw 100000 x 50000 pixels, needs at most 100 million");
  EXPECT_EQ(message_of([&] { decode(with_size(png, 0xFFFFFFFF, 0xFFFFFFFF)); }),
            "[upload] cannot read the image: saw 4294967295 x 4294967295 pixels, needs at most 100 "
            "million");
  EXPECT_THROW(decode(with_size(png, 0, 8)), std::runtime_error);
  EXPECT_THROW(decode(with_size(png, 9'000, 9'000)), std::runtime_error);  // bytes for 8 x 8 only
}

TEST(ReadImage, RefusesAPngThatUnpacksToMoreThanItsSize) {
  // 32 MB of zeros pack to some 32 kB; the size then claims 8 x 8.
  const std::string bomb =
      with_size(png_of({4000, 4000, 3, std::vector<std::uint8_t>(48'000'000)}), 8, 8);
  ASSERT_LT(bomb.size(), 2'000'000u);
  EXPECT_EQ(message_of([&] { decode(bomb); }).find("[upload] cannot read the image: "), 0u);
}

TEST(ReadImage, SurvivesFlippedBytes) {
  for (const std::string& good : {png_of(chart(20, 20, 3)), base::read_text(golden("photo.jpg"))}) {
    for (std::size_t i = 0; i < good.size(); i += 13) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 0x5A);
      const std::string message = message_of([&] { decode(bad); });  // or a picture: no crash
      EXPECT_TRUE(message.empty() || message.find("[upload] cannot read the image: ") == 0u)
          << message;
    }
  }
}

}  // namespace
}  // namespace cleave::model
