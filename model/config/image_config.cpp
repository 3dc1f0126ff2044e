#include "model/config/image_config.hpp"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include <nlohmann/json.hpp>

namespace cleave::model {
namespace {

using base::Reader;
using nlohmann::json;

constexpr std::int64_t any_size = 1 << 24;  // ModelConfig::check is tighter

/// A side given once for a square, or as [height, width].
std::pair<std::int64_t, std::int64_t> read_sides(const Reader& config, const std::string& key,
                                                 std::int64_t fallback) {
  const auto field = config.find(key);
  if (!field) return {fallback, fallback};
  if (!field->json().is_array()) {
    const std::int64_t side = field->integer(1, any_size);
    return {side, side};
  }
  const auto sides = field->items();
  if (sides.size() != 2)
    throw field->error("saw " + std::to_string(sides.size()) + " sides, needs [height, width]");
  return {sides[0].integer(1, any_size), sides[1].integer(1, any_size)};
}

std::vector<double> read_values(const Reader& list, double low, double high) {
  std::vector<double> values;
  for (const Reader& value : list.items()) values.push_back(value.number(low, high));
  return values;
}

/// A side in any of the forms that preprocessor files use: 224, {"height": 224, "width": 224}.
std::pair<std::int64_t, std::int64_t> read_size(const Reader& size) {
  if (!size.json().is_object()) {
    const std::int64_t side = size.integer(1, any_size);
    return {side, side};
  }
  return {size.at("height").integer(1, any_size), size.at("width").integer(1, any_size)};
}

json sides(std::int64_t height, std::int64_t width) {
  return height == width ? json(height) : json({height, width});
}

}  // namespace

void read_image(const Reader& file, ModelConfig& config) {
  std::tie(config.image_height, config.image_width) = read_sides(file, "image_size", 224);
  const auto [patch_height, patch_width] = read_sides(file, "patch_size", 16);
  if (patch_height != patch_width)
    throw file.at("patch_size").error("saw an oblong patch, needs a square one");
  config.patch = patch_height;
  config.channels = file.integer("num_channels", 1, any_size, 3);
}

/// What Transformers' image processor of the family does when a folder says nothing, at the model's
/// own size.
ImageProcessing default_processing(const ModelConfig& config) {
  ImageProcessing processing;
  processing.height = config.image_height;
  processing.width = config.image_width;
  const auto channels = static_cast<std::size_t>(config.channels);
  processing.mean.assign(channels, 0.5);
  processing.std.assign(channels, 0.5);
  if (config.family == Family::deit) {
    processing.resample = 3;
    if (processing.height == processing.width) processing.crop_from = processing.height * 256 / 224;
  }
  return processing;
}

void read_crop(const Reader& file, ImageProcessing& processing) {
  processing.crop_from = 0;
  if (!file.boolean("do_center_crop", false)) return;
  const auto crop = file.find("crop_size");
  if (processing.height != processing.width)
    throw file.at("size").error("saw an oblong, needs a square to crop from");
  processing.crop_from = processing.height;
  std::tie(processing.height, processing.width) =
      crop ? read_size(*crop) : std::pair<std::int64_t, std::int64_t>(224, 224);
}

void read_normalisation(const Reader& file, ImageProcessing& processing) {
  if (!file.boolean("do_normalize", true)) {
    std::fill(processing.mean.begin(), processing.mean.end(), 0.0);
    std::fill(processing.std.begin(), processing.std.end(), 1.0);
    return;
  }
  if (const auto mean = file.find("image_mean")) processing.mean = read_values(*mean, -1e6, 1e6);
  if (const auto std = file.find("image_std")) processing.std = read_values(*std, 1e-6, 1e6);
}

/// Fields that every version of Transformers writes; others are ignored.
ImageProcessing read_processing(const Reader& file, const ModelConfig& config) {
  ImageProcessing processing = default_processing(config);
  processing.resize = file.boolean("do_resize", true);
  processing.resample = static_cast<int>(file.integer("resample", 0, 5, processing.resample));
  if (const auto size = file.find("size"))
    std::tie(processing.height, processing.width) = read_size(*size);
  read_crop(file, processing);
  processing.rescale =
      file.boolean("do_rescale", true) ? file.number("rescale_factor", 1e-9, 1e9, 1.0 / 255) : 1.0;
  read_normalisation(file, processing);
  return processing;
}

nlohmann::json image_fields(const ModelConfig& config) {
  return {{"qkv_bias", config.qkv_bias},
          {"image_size", sides(config.image_height, config.image_width)},
          {"patch_size", config.patch},
          {"num_channels", config.channels}};
}

json processing_to_json(const ImageProcessing& processing) {
  const auto size = [](std::int64_t height, std::int64_t width) {
    return json{{"height", height}, {"width", width}};
  };
  const bool crop = processing.crop_from > 0;
  json fields = {{"image_processor_type", crop ? "DeiTImageProcessor" : "ViTImageProcessor"},
                 {"do_resize", processing.resize},
                 {"size", crop ? size(processing.crop_from, processing.crop_from)
                               : size(processing.height, processing.width)},
                 {"resample", processing.resample},
                 {"do_rescale", true},
                 {"rescale_factor", processing.rescale},
                 {"do_normalize", true},
                 {"image_mean", processing.mean},
                 {"image_std", processing.std}};
  if (crop) {
    fields["do_center_crop"] = true;
    fields["crop_size"] = size(processing.height, processing.width);
  }
  return fields;
}

}  // namespace cleave::model
