#include "model/config/image_config.hpp"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
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

/// One for each channel, or one for all.
std::vector<double> read_values(const Reader& list, double low, double high,
                                std::int64_t channels) {
  if (!list.json().is_array())
    return std::vector<double>(static_cast<std::size_t>(channels), list.number(low, high));
  std::vector<double> values;
  for (const Reader& value : list.items()) values.push_back(value.number(low, high));
  return values;
}

/// What an image processor of Transformers does with the fields of its file, and where they say
/// nothing. A DeiT's sizes are those of the model, as if it were one of 224.
struct Processor {
  std::string_view name;  // "ViTImageProcessor"
  enum class Crop { never, asked, by_percent } crop = Crop::never;
  /// A `size` that is one number is the shorter side's.
  bool shorter_side = false;
  int resample = 2;
  /// CLIP's mean and deviation, not 0.5.
  bool of_clip = false;
};

constexpr Processor processors[] = {
    {"ViTImageProcessor"},
    {"DeiTImageProcessor", Processor::Crop::asked, false, 3},
    {"CLIPImageProcessor", Processor::Crop::asked, true, 3, true},
    {"BitImageProcessor", Processor::Crop::asked, true, 3, true},
    {"ConvNextImageProcessor", Processor::Crop::by_percent, true},
};

/// "ViTFeatureExtractor", "ViTImageProcessorFast" -> "ViTImageProcessor".
std::string today(std::string name) {
  const auto ends = [&](std::string_view end) {
    return name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
  };
  if (ends("Fast")) name.resize(name.size() - 4);
  constexpr std::string_view old = "FeatureExtractor";
  if (ends(old)) name.replace(name.size() - old.size(), old.size(), "ImageProcessor");
  return name;
}

/// By the file's name for it, old or new, or else the family's own.
const Processor& read_processor(const Reader& file, const ModelConfig& config) {
  const auto is_text = [](const std::optional<Reader>& field) {
    return field && !field->json().is_null();
  };
  auto field = file.find("image_processor_type");
  if (!is_text(field)) field = file.find("feature_extractor_type");
  if (!is_text(field)) return processors[config.family == Family::deit ? 1 : 0];
  const std::string name = field->text();
  std::string known;
  for (const Processor& processor : processors) {
    if (processor.name == today(name)) return processor;
    known += (known.empty() ? "" : ", ") + std::string(processor.name);
  }
  throw field->error("saw '" + name + "', needs one of " + known);
}

/// A side once for a square, as [height, width] or {"height": 224, "width": 224}, or of an image's
/// shorter side as {"shortest_edge": 224}.
struct Size {
  std::int64_t height = 0, width = 0;
  bool shorter_side = false;
};

Size read_size(const Reader& size, bool shorter_side) {
  if (size.json().is_array()) {
    const auto items = size.items();
    if (items.size() != 2)
      throw size.error("saw " + std::to_string(items.size()) + " sides, needs [height, width]");
    return {items[0].integer(1, any_size), items[1].integer(1, any_size)};
  }
  if (!size.json().is_object()) {
    const std::int64_t side = size.integer(1, any_size);
    return {side, side, shorter_side};
  }
  if (!size.has("shortest_edge"))
    return {size.at("height").integer(1, any_size), size.at("width").integer(1, any_size)};
  if (size.has("longest_edge"))
    throw size.at("longest_edge").error("saw a limit on the longer side, needs none");
  const std::int64_t side = size.at("shortest_edge").integer(1, any_size);
  return {side, side, true};
}

int read_resample(const Reader& file, int usual) {
  constexpr std::string_view names[] = {"nearest", "lanczos", "bilinear",
                                        "bicubic", "box",     "hamming"};
  const auto field = file.find("resample");
  if (!field || field->json().is_null()) return usual;
  if (!field->json().is_string()) return static_cast<int>(field->integer(0, 5));
  std::string name = field->text();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names))
    throw field->error("saw '" + name +
                       "', needs nearest, lanczos, bilinear, bicubic, box or hamming");
  return static_cast<int>(found - std::begin(names));
}

/// Side that a whole picture has where a model sees `side` of its centre, 224 of 256 in published
/// ones.
std::int64_t side_to_crop_from(std::int64_t side) { return side * 256 / 224; }

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
    if (processing.height == processing.width)
      processing.crop_from = side_to_crop_from(processing.height);
  }
  return processing;
}

/// What the file says of size, resampling and the crop, as its processor does it.
void read_geometry(const Reader& file, const Processor& processor, ImageProcessing& processing) {
  const auto given = [&](const char* key) {
    const auto field = file.find(key);
    return field && !field->json().is_null() ? field : std::optional<Reader>();
  };
  const std::int64_t side = processing.height;  // the model's
  const auto size = given("size");
  processing.resize = file.boolean("do_resize", true);
  processing.resample = read_resample(file, processor.resample);
  processing.crop_from = 0;
  if (processor.crop == Processor::Crop::by_percent) {  // Transformers' ConvNext
    const Size cut = size ? read_size(*size, true) : Size{side, side, true};
    if (!cut.shorter_side) throw size->error("saw height and width, needs shortest_edge");
    processing.height = processing.width = cut.height;
    constexpr std::int64_t never_cropped = 384;
    const double share = given("crop_pct") ? file.number("crop_pct", 1e-3, 1, 1) : 224.0 / 256;
    processing.keep_aspect = cut.height < never_cropped && processing.resize;
    if (processing.keep_aspect)
      processing.crop_from = static_cast<std::int64_t>(static_cast<double>(cut.height) / share);
    return;
  }
  const bool usually = processor.crop == Processor::Crop::asked;
  bool crop = file.boolean("do_center_crop", usually);
  Size whole{processing.height, processing.width, processor.shorter_side};
  if (crop && usually && !processor.shorter_side)
    whole.height = whole.width = side_to_crop_from(side);
  if (size) whole = read_size(*size, processor.shorter_side);
  // Transformers 4's ViTImageProcessor does not crop, and its later ones do: where the whole has
  // the model's size already, the former is meant.
  const bool fits = whole.height == side && whole.width == processing.width && !whole.shorter_side;
  crop = crop && (usually || !fits);
  processing.keep_aspect = whole.shorter_side;
  if (!crop) {
    processing.height = whole.height;
    processing.width = whole.width;
    return;
  }
  if (whole.height != whole.width)
    throw file.at("size").error("saw an oblong, needs a square to crop from");
  processing.crop_from = whole.height;
  const auto cut = given("crop_size");
  const Size centre = cut ? read_size(*cut, false) : Size{processing.height, processing.width};
  if (centre.shorter_side) throw cut->error("saw shortest_edge, needs height and width");
  processing.height = centre.height;
  processing.width = centre.width;
}

void read_normalisation(const Reader& file, const Processor& processor, std::int64_t channels,
                        ImageProcessing& processing) {
  if (!file.boolean("do_normalize", true)) {
    std::fill(processing.mean.begin(), processing.mean.end(), 0.0);
    std::fill(processing.std.begin(), processing.std.end(), 1.0);
    return;
  }
  if (processor.of_clip && channels == 3) {
    processing.mean = {0.48145466, 0.4578275, 0.40821073};
    processing.std = {0.26862954, 0.26130258, 0.27577711};
  }
  const auto read = [&](const char* key, double low, std::vector<double>& values) {
    const auto field = file.find(key);
    if (field && !field->json().is_null()) values = read_values(*field, low, 1e6, channels);
  };
  read("image_mean", -1e6, processing.mean);
  read("image_std", 1e-6, processing.std);
}

ImageProcessing read_processing(const Reader& file, const ModelConfig& config) {
  const Processor& processor = read_processor(file, config);
  ImageProcessing processing = default_processing(config);
  read_geometry(file, processor, processing);
  processing.rescale =
      file.boolean("do_rescale", true) ? file.number("rescale_factor", 1e-9, 1e9, 1.0 / 255) : 1.0;
  read_normalisation(file, processor, config.channels, processing);
  return processing;
}

nlohmann::json image_fields(const ModelConfig& config) {
  return {{"qkv_bias", config.qkv_bias},
          {"image_size", sides(config.image_height, config.image_width)},
          {"patch_size", config.patch},
          {"num_channels", config.channels}};
}

json processing_to_json(const ImageProcessing& processing) {
  const auto sides = [](std::int64_t height, std::int64_t width) {
    return json{{"height", height}, {"width", width}};
  };
  const bool crop = processing.crop_from > 0, keep = processing.keep_aspect;
  const std::int64_t whole = crop ? processing.crop_from : processing.height;
  json fields = {{"image_processor_type", keep   ? "CLIPImageProcessor"
                                          : crop ? "DeiTImageProcessor"
                                                 : "ViTImageProcessor"},
                 {"do_resize", processing.resize},
                 {"size", keep ? json{{"shortest_edge", whole}}
                               : sides(whole, crop ? whole : processing.width)},
                 {"resample", processing.resample},
                 {"do_rescale", true},
                 {"rescale_factor", processing.rescale},
                 {"do_normalize", true},
                 {"image_mean", processing.mean},
                 {"image_std", processing.std}};
  if (crop || keep) fields["do_center_crop"] = crop;
  if (crop) fields["crop_size"] = sides(processing.height, processing.width);
  return fields;
}

}  // namespace cleave::model
