#include "model/image.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

namespace cleave::model {
namespace {

constexpr std::int64_t most_pixels = 100'000'000;

std::size_t size_of(std::int64_t a, std::int64_t b = 1, std::int64_t c = 1) {
  return static_cast<std::size_t>(a * b * c);
}

/// Pillow's filters: their reach to each side and their height at a distance.
struct Filter {
  double reach;
  double (*height)(double);
};

double box(double x) { return x > -0.5 && x <= 0.5 ? 1 : 0; }

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

constexpr double pi = 3.14159265358979323846;

/// Its constants are Pillow's, which are single precision.
double hamming(double x) {
  const double d = std::abs(x) * pi;
  if (d == 0) return 1;
  if (d >= pi) return 0;
  return std::sin(d) / d * (static_cast<double>(0.54F) + static_cast<double>(0.46F) * std::cos(d));
}

/// Keys' cubic convolution with a = -1/2.
double cubic(double x) {
  constexpr double a = -0.5;
  const double d = std::abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * a;
  return 0;
}

double sinc(double x) { return x == 0 ? 1 : std::sin(x * pi) / (x * pi); }

double lanczos(double x) { return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

/// Weights are whole numbers in units of 2^-22, so that 8 bits of pixel and a sum fit 32 bits.
constexpr int precision_bits = 32 - 8 - 2;

/// The input pixels that make one output pixel.
struct Taps {
  std::int64_t first = 0;
  std::vector<std::int32_t> weights;
};

Taps taps_of(double centre, double stretch, std::int64_t inputs, const Filter& filter) {
  const double reach = filter.reach * stretch;
  const auto first = std::max<std::int64_t>(0, std::lround(centre - reach));
  const auto end = std::min<std::int64_t>(inputs, std::lround(centre + reach));
  std::vector<double> heights;
  double sum = 0;
  for (std::int64_t input = first; input < end; ++input) {
    const double offset = static_cast<double>(input) - centre + 0.5;
    heights.push_back(filter.height(offset / stretch));
    sum += heights.back();
  }
  Taps taps{first, {}};
  for (const double height : heights) {
    const double scaled = (sum != 0 ? height / sum : height) * (1 << precision_bits);
    taps.weights.push_back(static_cast<std::int32_t>(std::lround(scaled)));
  }
  return taps;
}

std::vector<Taps> taps_along(std::int64_t inputs, std::int64_t outputs, const Filter& filter) {
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs);
  const double stretch = std::max(1.0, scale);
  std::vector<Taps> taps;
  for (std::int64_t output = 0; output < outputs; ++output) {
    taps.push_back(taps_of((static_cast<double>(output) + 0.5) * scale, stretch, inputs, filter));
  }
  return taps;
}

std::uint8_t weighted(const Taps& taps, const std::uint8_t* pixels, std::int64_t stride) {
  std::int32_t sum = 1 << (precision_bits - 1);
  for (const std::int32_t weight : taps.weights) {
    sum += weight * *pixels;
    pixels += stride;
  }
  // A shift of a negative number rounds down everywhere we build; the clamp makes it 0 anyway.
  return static_cast<std::uint8_t>(std::clamp(sum >> precision_bits, 0, 255));
}

Image resized_rows(const Image& image, std::int64_t width, const Filter& filter) {
  Image out{image.height, width, image.channels, {}};
  out.pixels.reserve(size_of(out.height, out.width, out.channels));
  const auto taps = taps_along(image.width, width, filter);
  for (std::int64_t y = 0; y < image.height; ++y) {
    const std::uint8_t* row = image.pixels.data() + y * image.width * image.channels;
    for (const Taps& tap : taps) {
      for (std::int64_t c = 0; c < image.channels; ++c) {
        out.pixels.push_back(weighted(tap, row + tap.first * image.channels + c, image.channels));
      }
    }
  }
  return out;
}

Image resized_columns(const Image& image, std::int64_t height, const Filter& filter) {
  Image out{height, image.width, image.channels, {}};
  out.pixels.reserve(size_of(out.height, out.width, out.channels));
  const std::int64_t stride = image.width * image.channels;
  for (const Taps& tap : taps_along(image.height, height, filter)) {
    const std::uint8_t* row = image.pixels.data() + tap.first * stride;
    for (std::int64_t x = 0; x < stride; ++x) out.pixels.push_back(weighted(tap, row + x, stride));
  }
  return out;
}

Image filtered(Image image, std::int64_t height, std::int64_t width, const Filter& filter) {
  if (width != image.width) image = resized_rows(image, width, filter);
  if (height != image.height) image = resized_columns(image, height, filter);
  return image;
}

/// Where each output pixel is taken from. Pillow adds up steps, and the sum's rounding shows where
/// a step ends between two pixels.
std::vector<std::int64_t> nearest_along(std::int64_t inputs, std::int64_t outputs) {
  const double step = static_cast<double>(inputs) / static_cast<double>(outputs);
  std::vector<std::int64_t> sources;
  double at = step * 0.5;
  for (std::int64_t output = 0; output < outputs; ++output, at += step) {
    sources.push_back(std::min(inputs - 1, static_cast<std::int64_t>(at)));
  }
  return sources;
}

Image nearest(const Image& image, std::int64_t height, std::int64_t width) {
  Image out{height, width, image.channels, {}};
  out.pixels.reserve(size_of(height, width, image.channels));
  const auto columns = nearest_along(image.width, width);
  for (const std::int64_t y : nearest_along(image.height, height)) {
    for (const std::int64_t x : columns) {
      const auto* pixel = image.pixels.data() + (y * image.width + x) * image.channels;
      out.pixels.insert(out.pixels.end(), pixel, pixel + image.channels);
    }
  }
  return out;
}

std::string size_text(std::int64_t height, std::int64_t width) {
  return std::to_string(height) + " x " + std::to_string(width);
}

/// Where the middle of one side lies: first and count of the pixels that are kept, and what is
/// before them where there are too few.
struct Middle {
  std::int64_t first = 0, count = 0, before = 0;
};

Middle middle_of(std::int64_t side, std::int64_t wanted) {
  if (side >= wanted) return {(side - wanted) / 2, wanted, 0};
  return {0, side, (wanted - side + 1) / 2};
}

/// The middle of the image; the odd pixel is left over below and to the right. What is missing is
/// black, as in Transformers.
Image centre(const Image& image, std::int64_t height, std::int64_t width) {
  const Middle rows = middle_of(image.height, height), columns = middle_of(image.width, width);
  Image out{height, width, image.channels, {}};
  out.pixels.resize(size_of(height, width, image.channels));
  for (std::int64_t y = 0; y < rows.count; ++y) {
    const auto* row =
        image.pixels.data() + ((rows.first + y) * image.width + columns.first) * image.channels;
    std::copy_n(row, columns.count * image.channels,
                out.pixels.begin() + ((rows.before + y) * width + columns.before) * image.channels);
  }
  return out;
}

/// The shorter side becomes `shorter`, the other keeps the aspect, rounded down.
Image with_shorter_side(const Image& image, std::int64_t shorter, int resample) {
  const auto longer = [&](std::int64_t side, std::int64_t other) {
    return static_cast<std::int64_t>(static_cast<double>(shorter * side) /
                                     static_cast<double>(other));
  };
  const bool upright = image.width <= image.height;
  return resize(image, upright ? longer(image.height, image.width) : shorter,
                upright ? shorter : longer(image.width, image.height), resample);
}

std::vector<std::uint8_t> planes(const Image& image) {
  const std::int64_t count = image.height * image.width;
  std::vector<std::uint8_t> planes(image.pixels.size());
  for (std::int64_t c = 0; c < image.channels; ++c) {
    for (std::int64_t i = 0; i < count; ++i) {
      planes[size_of(c * count + i)] = image.pixels[size_of(i * image.channels + c)];
    }
  }
  return planes;
}

}  // namespace

void expect_whole(const Image& image, const std::string& where) {
  const bool whole = image.height > 0 && image.width > 0 && image.channels > 0 &&
                     image.pixels.size() == size_of(image.height, image.width, image.channels);
  if (whole) return;
  throw std::invalid_argument(
      "[" + where + "] image: saw " + std::to_string(image.pixels.size()) +
      " bytes, needs height x width x channels = " + size_text(image.height, image.width) + " x " +
      std::to_string(image.channels) + ", each above 0");
}

Image resize(const Image& image, std::int64_t height, std::int64_t width, int resample) {
  expect_whole(image, "resize");
  if (height <= 0 || width <= 0 || height > most_pixels / width) {
    throw std::invalid_argument("[resize] size: saw " + size_text(height, width) +
                                ", needs 1 to 100 million pixels");
  }
  switch (resample) {
    case 0:
      return nearest(image, height, width);
    case 1:
      return filtered(image, height, width, {3, lanczos});
    case 2:
      return filtered(image, height, width, {1, triangle});
    case 3:
      return filtered(image, height, width, {2, cubic});
    case 4:
      return filtered(image, height, width, {0.5, box});
    case 5:
      return filtered(image, height, width, {1, hamming});
    default:
      throw std::invalid_argument("[resize] resample: saw " + std::to_string(resample) +
                                  ", needs 0..5 (nearest, Lanczos, bilinear, bicubic, box, "
                                  "Hamming)");
  }
}

std::vector<std::uint8_t> prepare(const Image& image, const ImageProcessing& processing,
                                  std::int64_t channels) {
  expect_whole(image, "prepare");
  if (image.channels != channels) {
    throw std::invalid_argument("[prepare] channels: saw " + std::to_string(image.channels) +
                                ", needs " + std::to_string(channels));
  }
  const std::int64_t height = processing.height, width = processing.width;
  const bool crop = processing.crop_from > 0;
  Image out = image;
  if (processing.resize && processing.keep_aspect) {
    out = with_shorter_side(out, crop ? processing.crop_from : height, processing.resample);
  } else if (processing.resize) {
    out = resize(out, crop ? processing.crop_from : height, crop ? processing.crop_from : width,
                 processing.resample);
  }
  if (crop) out = centre(out, height, width);
  if (out.height != height || out.width != width) {
    throw std::invalid_argument("[prepare] image: saw " + size_text(out.height, out.width) +
                                ", needs " + size_text(height, width) +
                                (processing.resize
                                     ? " (the model's processing keeps the aspect and "
                                       "cuts nothing off)"
                                     : " (the model's processing does not resize)"));
  }
  return planes(out);
}

}  // namespace cleave::model
