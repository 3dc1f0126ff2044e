#include "model/config/hugging_face.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "base/file.hpp"

namespace cleave::model {
namespace {

using base::Reader;
using nlohmann::json;

constexpr std::int64_t format = 1;  // of the `cleave` section
// Bounds of ModelConfig::check are tighter; these only keep arithmetic before it safe.
constexpr std::int64_t any_size = 1 << 24;

/// What a published checkpoint calls itself in `architectures`.
struct Architecture {
  std::string_view name;
  Family family;
  std::int64_t summary_tokens;
  bool classifies;
};

constexpr Architecture architectures[] = {
    {"ViTForImageClassification", Family::vit, 1, true},
    {"ViTModel", Family::vit, 1, false},
    {"DeiTForImageClassification", Family::deit, 1, true},
    {"DeiTForImageClassificationWithTeacher", Family::deit, 2, true},
    {"DeiTModel", Family::deit, 1, false},
};

std::string names_of(Family family) {
  std::string names;
  for (const Architecture& known : architectures)
    if (known.family == family) names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

/// The first of `architectures`; where the file does not say, the family's plain classifier.
const Architecture& read_architecture(const Reader& config, Family family) {
  std::string name =
      family == Family::vit ? "ViTForImageClassification" : "DeiTForImageClassification";
  if (const auto list = config.find("architectures"); list && !list->json().is_null()) {
    const auto items = list->items();
    if (!items.empty()) name = items.front().text();
    for (const Architecture& known : architectures)
      if (known.family == family && known.name == name) return known;
    throw list->error("saw '" + name + "', needs one of " + names_of(family));
  }
  return *std::find_if(std::begin(architectures), std::end(architectures),
                       [&](const Architecture& known) { return known.name == name; });
}

/// Transformers leaves the last state of both tokens to whoever reads a headless DeiT;
/// `cleave.summary_tokens` decides.
const Architecture& architecture_of(const ModelConfig& config) {
  return *std::find_if(
      std::begin(architectures), std::end(architectures), [&](const Architecture& known) {
        return known.family == config.family && known.classifies == (config.classes > 0) &&
               (known.summary_tokens == config.summary_tokens || !known.classifies);
      });
}

Family read_family(const Reader& config) {
  const std::string type = config.at("model_type").one_of({"vit", "deit"});
  return type == "deit" ? Family::deit : Family::vit;
}

Activation read_activation(const Reader& config) {
  const auto field = config.find("hidden_act");
  if (!field) return Activation::gelu;
  const std::string name =
      field->one_of({"gelu", "gelu_python", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu"});
  if (name == "relu") return Activation::relu;
  return name == "gelu" || name == "gelu_python" ? Activation::gelu : Activation::gelu_tanh;
}

std::string_view name_of(Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_new";
    case Activation::relu:
      return "relu";
  }
  return "?";
}

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

void read_image(const Reader& file, ModelConfig& config) {
  std::tie(config.image_height, config.image_width) = read_sides(file, "image_size", 224);
  const auto [patch_height, patch_width] = read_sides(file, "patch_size", 16);
  if (patch_height != patch_width)
    throw file.at("patch_size").error("saw an oblong patch, needs a square one");
  config.patch = patch_height;
  config.channels = file.integer("num_channels", 1, any_size, 3);
}

/// Every layer as the fields that Transformers knows say.
void read_layers(const Reader& file, ModelConfig& config) {
  const auto count = file.at("num_hidden_layers").integer(1, 4096);
  const LayerShape layer{file.at("num_attention_heads").integer(1, any_size),
                         file.at("intermediate_size").integer(1, any_size)};
  config.layers.assign(static_cast<std::size_t>(count), layer);
  config.head_width = config.width / layer.heads;
  if (!file.has("cleave") && config.width % layer.heads != 0)
    throw file.at("num_attention_heads")
        .error("saw " + std::to_string(layer.heads) +
               ", needs a divisor of hidden_size = " + std::to_string(config.width));
}

std::vector<LayerShape> read_layer_list(const Reader& list, std::int64_t count) {
  std::vector<LayerShape> layers;
  for (const Reader& layer : list.items()) {
    layer.allow({"heads", "mlp_width"});
    layers.push_back(
        {layer.at("heads").integer(0, any_size), layer.at("mlp_width").integer(0, any_size)});
  }
  if (static_cast<std::int64_t>(layers.size()) != count)
    throw list.error("saw " + std::to_string(layers.size()) +
                     " layers, needs num_hidden_layers = " + std::to_string(count));
  return layers;
}

/// "0" … "C-1" -> names. Transformers invents LABEL_0 … where nobody gave names; those are no
/// names.
std::vector<std::string> read_labels(const Reader& id2label) {
  const auto count = id2label.keys().size();
  std::vector<std::string> labels;
  bool named = false;
  for (std::size_t i = 0; i < count; ++i) {
    labels.push_back(id2label.at(std::to_string(i)).text());
    named = named || labels.back() != "LABEL_" + std::to_string(i);
  }
  return named ? labels : std::vector<std::string>();
}

void read_classes(const Reader& file, ModelConfig& config) {
  const auto id2label = file.find("id2label");
  if (id2label && !id2label->json().is_null()) {
    config.classes = static_cast<std::int64_t>(id2label->keys().size());
    config.labels = read_labels(*id2label);
  } else {
    config.classes = file.integer("num_labels", 1, any_size, 2);  // Transformers' default
  }
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

/// What only Cleave reads; see `section`.
void read_section(const Reader& section, ModelConfig& config) {
  section.expect_format(format);
  section.allow(
      {"format", "head_width", "layers", "summary_tokens", "random_weights", "processing"});
  config.head_width = section.integer("head_width", 1, any_size, config.head_width);
  if (const auto layers = section.find("layers"))
    config.layers = read_layer_list(*layers, config.num_layers());
  config.summary_tokens = section.integer("summary_tokens", 1, 2, config.summary_tokens);
  config.random_weights = section.boolean("random_weights", false);
  if (const auto processing = section.find("processing"))
    config.processing = read_processing(*processing, config);
}

/// ModelConfig::check, with the file in the message.
void check(const ModelConfig& config, const std::string& file) {
  try {
    config.check();
  } catch (const std::invalid_argument& error) {
    constexpr std::string_view where = "[config] ";
    throw std::runtime_error("[" + file + "] " + std::string(error.what()).substr(where.size()));
  }
}

/// A config that is not checked yet, with the processing that its family defaults to.
ModelConfig read_unchecked(const Reader& file) {
  ModelConfig config;
  config.family = read_family(file);
  const Architecture& architecture = read_architecture(file, config.family);
  config.summary_tokens = architecture.summary_tokens;
  config.width = file.at("hidden_size").integer(1, any_size);
  config.activation = read_activation(file);
  config.norm_eps = file.number("layer_norm_eps", 0, 1, 1e-12);
  config.qkv_bias = file.boolean("qkv_bias", true);
  read_layers(file, config);
  read_image(file, config);
  if (architecture.classifies) read_classes(file, config);
  config.processing = default_processing(config);
  if (const auto section = file.find("cleave")) read_section(*section, config);
  return config;
}

std::int64_t largest(const ModelConfig& config, std::int64_t LayerShape::*field) {
  std::int64_t largest = 1;
  for (const LayerShape& layer : config.layers) largest = std::max(largest, layer.*field);
  return largest;
}

json label_map(const ModelConfig& config) {
  json labels = json::object();
  for (std::int64_t i = 0; i < config.classes; ++i)
    labels[std::to_string(i)] = config.labels.empty() ? "LABEL_" + std::to_string(i)
                                                      : config.labels[static_cast<std::size_t>(i)];
  return labels;
}

/// The inverse of label_map. Where two classes share a name, the first keeps it.
json id_map(const ModelConfig& config) {
  json ids = json::object();
  const json labels = label_map(config);
  for (std::int64_t i = 0; i < config.classes; ++i) {
    const auto label = labels.at(std::to_string(i)).get<std::string>();
    if (!ids.contains(label)) ids[label] = i;
  }
  return ids;
}

json sides(std::int64_t height, std::int64_t width) {
  return height == width ? json(height) : json({height, width});
}

/// The fields that Transformers reads.
json public_fields(const ModelConfig& config) {
  return {{"architectures", {architecture_of(config).name}},
          {"model_type", name_of(config.family)},
          {"hidden_size", config.width},
          {"num_hidden_layers", config.num_layers()},
          {"num_attention_heads", largest(config, &LayerShape::heads)},
          {"intermediate_size", largest(config, &LayerShape::mlp_width)},
          {"hidden_act", name_of(config.activation)},
          {"hidden_dropout_prob", 0.0},
          {"attention_probs_dropout_prob", 0.0},
          {"layer_norm_eps", config.norm_eps},
          {"qkv_bias", config.qkv_bias},
          {"image_size", sides(config.image_height, config.image_width)},
          {"patch_size", config.patch},
          {"num_channels", config.channels},
          {"id2label", label_map(config)},
          {"label2id", id_map(config)}};
}

/// The `cleave` section: what the public fields cannot say, and nothing else.
json section(const ModelConfig& config) {
  json section = json::object();
  if (!config.is_uniform()) {
    section["head_width"] = config.head_width;
    section["layers"] = json::array();
    for (const LayerShape& layer : config.layers)
      section["layers"].push_back({{"heads", layer.heads}, {"mlp_width", layer.mlp_width}});
  }
  if (architecture_of(config).summary_tokens != config.summary_tokens)
    section["summary_tokens"] = config.summary_tokens;
  if (config.random_weights) section["random_weights"] = true;
  return section;
}

json with_section(const ModelConfig& config, json section) {
  json fields = public_fields(config);
  if (section.empty()) return fields;
  section["format"] = format;
  fields["cleave"] = std::move(section);
  return fields;
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  ModelConfig config = read_unchecked(Reader::json_file(path));
  const auto preprocessor = folder / "preprocessor_config.json";
  // The model alone first, so that a wrong field is blamed on the right file.
  config.processing = default_processing(config);
  check(config, path.string());
  if (!std::filesystem::exists(preprocessor)) return config;
  config.processing = read_processing(Reader::json_file(preprocessor), config);
  check(config, preprocessor.string());
  return config;
}

ModelConfig config_from_json(const Reader& file) {
  ModelConfig config = read_unchecked(file);
  check(config, file.path().empty() ? file.file() : file.file() + ": " + file.path());
  return config;
}

void write_config(const ModelConfig& config, const std::filesystem::path& folder) {
  base::write_whole(folder / "config.json", with_section(config, section(config)).dump(2) + "\n");
  base::write_whole(folder / "preprocessor_config.json",
                    processing_to_json(config.processing).dump(2) + "\n");
}

json config_to_json(const ModelConfig& config) {
  json all = section(config);
  all["processing"] = processing_to_json(config.processing);
  return with_section(config, std::move(all));
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

namespace {

/// "encoder.layer.7.output.weight" as any layer's: "encoder.layer.#.output.weight".
std::string without_numbers(const std::string& key) {
  std::string general;
  for (const char c : key) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit)
      general += c;
    else if (general.empty() || general.back() != '#')
      general += '#';
  }
  return general;
}

}  // namespace

void check_tensors(const ModelConfig& config, const TensorFiles& files) {
  std::set<std::string> keys, general;
  for (const Parameter& parameter : parameters(config)) {
    const TensorEntry& entry = files.at(parameter.key);
    keys.insert(parameter.key);
    general.insert(without_numbers(parameter.key));
    const auto text = [](const std::vector<std::int64_t>& dims) { return json(dims).dump(); };
    if (entry.dims != parameter.dims())
      throw std::runtime_error("[" + files.path().string() + "] " + parameter.key + ": saw " +
                               text(entry.dims) + ", needs " + text(parameter.dims()) +
                               " (config.json and weights disagree)");
  }
  // What a model of this family does not use (a pooler) may be there; a layer too many may not.
  for (const auto& [name, entry] : files.entries())
    if (keys.count(name) == 0 && general.count(without_numbers(name)) != 0)
      throw std::runtime_error("[" + files.path().string() + "] " + name +
                               ": saw it, needs none beyond the " +
                               std::to_string(config.num_layers()) +
                               " layers of config.json (config.json and weights disagree)");
}

}  // namespace cleave::model
