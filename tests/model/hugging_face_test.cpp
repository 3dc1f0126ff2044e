#include "model/config/hugging_face.hpp"

#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "tests/model/fixtures.hpp"

namespace cleave::model {
namespace {

using base::Reader;
using nlohmann::json;
using testing::cut_config;
using testing::error_of;
using testing::expect_contains;
using testing::golden;
using testing::Scratch;
using testing::tiny_config;

Reader reader(const json& value) { return Reader::json_text(value.dump(), "config.json"); }

json vit_json() {
  return {{"model_type", "vit"},      {"hidden_size", 32},       {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"intermediate_size", 64}, {"image_size", 32},
          {"patch_size", 8},          {"num_channels", 3}};
}

/// vit_json with one field changed; null removes it.
std::string error_with(const std::string& key, const json& value) {
  json config = vit_json();
  config[key] = value;
  if (value.is_null()) config.erase(key);
  return error_of([&] { config_from_json(reader(config)); });
}

/// Writes a model folder's two config files and reads them.
ModelConfig read_with(const json& config, const json& preprocessor) {
  const Scratch folder;
  base::write_whole(folder / "config.json", config.dump());
  base::write_whole(folder / "preprocessor_config.json", preprocessor.dump());
  return read_config(folder.path());
}

TEST(ReadConfig, ReadsWhatTransformersWrote) {
  const ModelConfig config = read_config(golden("models/vit"));
  EXPECT_EQ(config.family, Family::vit);
  EXPECT_EQ(config.width, 24);
  EXPECT_EQ(config.head_width, 8);
  EXPECT_EQ(config.layers, (std::vector<LayerShape>(3, {3, 40})));
  EXPECT_EQ(config.num_tokens(), 17);
  EXPECT_EQ(config.labels, (std::vector<std::string>{"cat", "dog", "owl", "fox", "eel"}));
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.random_weights);
}

TEST(ReadConfig, ReadsWhatIsUnusual) {
  const ModelConfig config = read_config(golden("models/vit_oblong"));
  EXPECT_EQ(config.image_height, 16);
  EXPECT_EQ(config.image_width, 8);
  EXPECT_EQ(config.num_patches(), 8);
  EXPECT_EQ(config.channels, 1);
  EXPECT_EQ(config.activation, Activation::gelu_tanh);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_DOUBLE_EQ(config.norm_eps, 1e-6);
  EXPECT_EQ(config.processing.mean, std::vector<double>{0.25});
  EXPECT_EQ(config.classes, 3);
  EXPECT_TRUE(config.labels.empty());
  // Transformers leaves the labels out where there are two without names.
  EXPECT_EQ(read_config(golden("models/vit_sharded_bf16")).classes, 2);
}

TEST(ReadConfig, TellsPlainAndDistilledDeiTApart) {
  const ModelConfig plain = read_config(golden("models/deit"));
  EXPECT_EQ(plain.summary_tokens, 1);
  EXPECT_EQ(plain.num_tokens(), 18);
  EXPECT_EQ(plain.processing.crop_from, 20);
  EXPECT_EQ(plain.processing.height, 16);
  EXPECT_EQ(plain.processing.resample, 3);
  EXPECT_EQ(read_config(golden("models/deit_distilled_f16")).summary_tokens, 2);
}

TEST(ReadConfig, FindsNamesAndShapesOfPublishedCheckpoints) {
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(golden("published"))) {
    SCOPED_TRACE(file.path().filename().string());
    const Reader published = Reader::json_file(file.path());
    std::map<std::string, std::vector<std::int64_t>> theirs, ours;
    for (const json& tensor : published.at("tensors").json())
      theirs[tensor[0].get<std::string>()] = tensor[1].get<std::vector<std::int64_t>>();
    for (const StoredTensor& stored : stored_tensors(config_from_json(published.at("config")))) {
      EXPECT_TRUE(ours.emplace(stored.key, stored.dims()).second) << stored.key;
    }
    EXPECT_EQ(ours, theirs);
    EXPECT_GT(ours.size(), 190U);
    ++files;
  }
  EXPECT_EQ(files, 8);
}

TEST(ReadConfig, NamesFileAndField) {
  expect_contains(error_with("hidden_size", nullptr), "[config.json] hidden_size");
  expect_contains(error_with("hidden_size", -3), "[config.json] hidden_size: saw -3");
  expect_contains(error_with("hidden_size", "wide"), "[config.json] hidden_size");
  expect_contains(error_with("hidden_size", 33),
                  "num_attention_heads: saw 4, needs a divisor of hidden_size = 33");
  expect_contains(error_with("num_hidden_layers", 0), "[config.json] num_hidden_layers: saw 0");
  expect_contains(error_with("num_attention_heads", 0), "[config.json] num_attention_heads: saw 0");
  expect_contains(error_with("image_size", json({8, 8, 8})),
                  "[config.json] image_size: saw 3 sides");
  expect_contains(error_with("patch_size", json({8, 4})),
                  "[config.json] patch_size: saw an oblong patch");
  expect_contains(error_with("patch_size", 7), "needs a multiple of patch = 7");
  expect_contains(error_with("hidden_act", "quick_gelu"), "[config.json] hidden_act");
  expect_contains(error_with("layer_norm_eps", "small"), "[config.json] layer_norm_eps");
  expect_contains(error_with("id2label", {{"0", "cat"}, {"2", "dog"}}), "[config.json] id2label");
  expect_contains(error_with("id2label", json::object()),
                  "[config.json] id2label: saw no class, needs at least 1");
  expect_contains(
      error_with("architectures", {"ViTForMaskedImageModeling"}),
      "saw 'ViTForMaskedImageModeling', needs one of ViTForImageClassification, ViTModel");
}

TEST(ReadConfig, ListsTheKnownFamilies) {
  const std::string error = error_with("model_type", "swin");
  expect_contains(error, "[config.json] model_type");
  expect_contains(error, "swin");
  expect_contains(error, "vit");
  expect_contains(error, "deit");
}

TEST(ReadConfig, RefusesASectionItDoesNotUnderstand) {
  const auto with = [](json section) { return error_with("cleave", section); };
  expect_contains(with({{"format", 2}}), "format");
  expect_contains(with({{"head_width", 4}}), "format");
  expect_contains(with({{"format", 1}, {"head_widht", 4}}), "head_width");
  const json layer = {{"heads", 1}, {"mlp_width", 3}};
  expect_contains(with({{"format", 1}, {"layers", {layer}}}),
                  "saw 1 layers, needs num_hidden_layers = 2");
  expect_contains(with({{"format", 1}, {"layers", {layer, {{"heads", 1}}}}}), "cleave.layers[1]");
  expect_contains(with({{"format", 1}, {"layers", {layer, {{"heads", -1}, {"mlp_width", 3}}}}}),
                  "cleave.layers[1].heads: saw -1");
  expect_contains(with({{"format", 1}, {"summary_tokens", 2}}), "summary_tokens");
}

TEST(ReadConfig, ReadsEveryFormOfPreprocessor) {
  const json config = vit_json();
  const json old = {{"feature_extractor_type", "ViTFeatureExtractor"},
                    {"do_resize", true},
                    {"size", 32},
                    {"resample", 2},
                    {"do_normalize", true},
                    {"image_mean", {0.1, 0.2, 0.3}},
                    {"image_std", {0.4, 0.5, 0.6}}};
  const ImageProcessing processing = read_with(config, old).processing;
  EXPECT_EQ(processing.height, 32);
  EXPECT_EQ(processing.crop_from, 0);
  EXPECT_EQ(processing.mean, (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_DOUBLE_EQ(processing.rescale, 1.0 / 255);

  json recent = old;
  recent["size"] = {{"height", 32}, {"width", 32}};
  recent["do_rescale"] = true;
  recent["rescale_factor"] = 0.5;
  EXPECT_DOUBLE_EQ(read_with(config, recent).processing.rescale, 0.5);

  json cropped = old;
  cropped["size"] = 36;
  cropped["crop_size"] = 32;
  cropped["do_center_crop"] = true;
  EXPECT_EQ(read_with(config, cropped).processing.crop_from, 36);
  EXPECT_EQ(read_with(config, cropped).processing.height, 32);

  json plain = old;
  plain["do_normalize"] = false;
  plain["do_rescale"] = false;
  EXPECT_EQ(read_with(config, plain).processing.mean, (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(read_with(config, plain).processing.std, (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(read_with(config, plain).processing.rescale, 1);
}

TEST(ReadConfig, RefusesAPreprocessorThatDoesNotFitTheModel) {
  expect_contains(
      error_of([] {
        read_with(vit_json(), {{"size", 64}});
      }),
      "preprocessor_config.json] processing: saw 64 x 64, needs the model's image of 32 x 32");
  expect_contains(error_of([] {
                    read_with(vit_json(), {{"size", 32}, {"image_mean", {0.5}}});
                  }),
                  "needs one for each of 3 channels");
  expect_contains(error_of([] {
                    read_with(vit_json(), {{"size", 32}, {"image_std", {0, 1, 1}}});
                  }),
                  "image_std[0]");
}

/// What a folder with a model of 32 x 32 and this preprocessor_config.json does to an image.
ImageProcessing processing_of(json preprocessor, const std::string& type,
                              json config = vit_json()) {
  if (!type.empty()) preprocessor["image_processor_type"] = type;
  return read_with(config, preprocessor).processing;
}

TEST(ReadConfig, MeansAPreprocessorAsItsImageProcessorDoes) {
  const auto expect = [](const ImageProcessing& seen, std::int64_t crop_from, bool keep_aspect,
                         int resample) {
    EXPECT_EQ(seen.height, 32);
    EXPECT_EQ(seen.width, 32);
    EXPECT_EQ(seen.crop_from, crop_from);
    EXPECT_EQ(seen.keep_aspect, keep_aspect);
    EXPECT_EQ(seen.resample, resample);
  };
  const json shorter = {{"size", {{"shortest_edge", 40}}},
                        {"crop_size", {{"height", 32}, {"width", 32}}}};
  for (const char* type : {"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor",
                           "BitImageProcessor"}) {
    expect(processing_of(shorter, type), 40, true, 3);
    expect(processing_of({{"size", 40}, {"crop_size", 32}}, type), 40, true, 3);
    expect(processing_of({{"size", 32}, {"do_center_crop", false}}, type), 0, true, 3);
    expect(processing_of({{"size", {{"height", 40}, {"width", 40}}}, {"crop_size", 32}}, type), 40,
           false, 3);
    expect(processing_of({}, type), 32, true, 3);
    EXPECT_EQ(processing_of(shorter, type).mean[0], 0.48145466);
    EXPECT_EQ(processing_of(shorter, type).std[2], 0.27577711);
  }
  // A crop is asked for unless it is declined, even where only its size stands there.
  for (const char* type : {"DeiTImageProcessor", "DeiTFeatureExtractor"}) {
    expect(processing_of({{"size", 36}, {"crop_size", 32}}, type), 36, false, 3);
    expect(processing_of({}, type), 36, false, 3);
    expect(processing_of({{"size", 32}, {"do_center_crop", false}}, type), 0, false, 3);
    EXPECT_EQ(processing_of({}, type).mean[0], 0.5);
  }
  json deit = vit_json();
  deit["model_type"] = "deit";
  expect(processing_of({{"crop_size", 32}, {"size", 40}}, "", deit), 40, false, 3);
  // A ViT's crops only in later versions of Transformers: where its size alone would not do.
  expect(processing_of({{"size", 32}, {"crop_size", 24}, {"do_center_crop", true}},
                       "ViTImageProcessor"),
         0, false, 2);
  expect(processing_of({{"size", 36}, {"crop_size", 32}, {"do_center_crop", true}}, ""), 36, false,
         2);
  expect(processing_of({{"size", 32}, {"crop_size", 24}}, ""), 0, false, 2);
  json asked = shorter;
  asked["do_center_crop"] = true;
  expect(processing_of(asked, "ViTImageProcessor"), 40, true, 2);
  expect(processing_of({{"size", {{"shortest_edge", 32}}}}, "ViTImageProcessor"), 0, true, 2);
  expect(processing_of({{"size", {{"shortest_edge", 32}}}}, "ConvNextImageProcessor"), 36, true, 2);
  expect(processing_of({{"size", 32}, {"crop_pct", 0.9}}, "ConvNextFeatureExtractor"), 35, true, 2);
  expect(processing_of({{"size", 32}, {"crop_pct", nullptr}}, "ConvNextImageProcessor"), 36, true,
         2);
  json large = vit_json();
  large["image_size"] = 384;
  const auto whole =
      processing_of({{"size", {{"shortest_edge", 384}}}}, "ConvNextImageProcessor", large);
  EXPECT_EQ(whole.crop_from, 0);
  EXPECT_FALSE(whole.keep_aspect);
}

TEST(ReadConfig, ReadsResamplingByNumberAndName) {
  int number = 0;
  for (const char* name : {"nearest", "LANCZOS", "bilinear", "bicubic", "box", "hamming"}) {
    EXPECT_EQ(processing_of({{"resample", name}}, "").resample, number);
    EXPECT_EQ(processing_of({{"resample", number}}, "").resample, number);
    ++number;
  }
  EXPECT_EQ(processing_of({{"resample", nullptr}}, "").resample, 2);
  expect_contains(error_of([] {
                    processing_of({{"resample", "area"}}, "");
                  }),
                  "preprocessor_config.json] resample: saw 'area', needs nearest, lanczos");
  expect_contains(error_of([] { processing_of({{"resample", 6}}, ""); }), "resample: saw 6");
}

TEST(ReadConfig, ReadsOneMeanForAllChannels) {
  EXPECT_EQ(processing_of({{"image_mean", 0.25}}, "").mean,
            (std::vector<double>{0.25, 0.25, 0.25}));
  EXPECT_EQ(processing_of({{"image_std", 2}}, "").std, (std::vector<double>{2, 2, 2}));
  EXPECT_EQ(processing_of({{"image_mean", nullptr}}, "").mean[0], 0.5);
}

TEST(ReadConfig, RefusesAPreprocessorThatIsNotBuilt) {
  const auto error = [](const json& preprocessor, const std::string& type) {
    return error_of([&] { processing_of(preprocessor, type); });
  };
  expect_contains(error({}, "SegformerImageProcessor"),
                  "preprocessor_config.json] image_processor_type: saw 'SegformerImageProcessor', "
                  "needs one of ViTImageProcessor, DeiTImageProcessor, CLIPImageProcessor, "
                  "BitImageProcessor, ConvNextImageProcessor");
  expect_contains(error({{"feature_extractor_type", "BeitFeatureExtractor"}}, ""),
                  "feature_extractor_type: saw 'BeitFeatureExtractor'");
  expect_contains(
      error({{"size", {{"shortest_edge", 32}, {"longest_edge", 99}}}}, "CLIPImageProcessor"),
      "size.longest_edge: saw a limit");
  expect_contains(error({{"size", {{"height", 32}, {"width", 32}}}}, "ConvNextImageProcessor"),
                  "size: saw height and width, needs shortest_edge");
  expect_contains(error({{"size", {{"height", 32}, {"width", 40}}}}, "DeiTImageProcessor"),
                  "size: saw an oblong");
  expect_contains(error({{"size", {{"width", 40}}}}, ""), "size.height");
  expect_contains(error({{"size", {1, 2, 3}}}, ""), "saw 3 sides");
  expect_contains(error({{"crop_size", {{"shortest_edge", 32}}}}, "CLIPImageProcessor"),
                  "crop_size: saw shortest_edge");
  expect_contains(error({{"do_flip_channel_order", true}}, ""),
                  "do_flip_channel_order: saw true, needs false");
  EXPECT_NO_THROW(processing_of({{"do_convert_rgb", true}, {"do_pad", false}}, ""));
}

TEST(ReadConfig, WorksWithoutAPreprocessor) {
  const Scratch folder;
  base::write_whole(folder / "config.json", vit_json().dump());
  EXPECT_EQ(read_config(folder.path()).processing.height, 32);
  expect_contains(error_of([&] { read_config(folder / "nowhere"); }), "nowhere/config.json]");
}

std::vector<ModelConfig> assorted_configs() {
  std::vector<ModelConfig> configs = {tiny_config(), tiny_config(Family::deit), cut_config(),
                                      cut_config(Family::deit)};
  configs.push_back(tiny_config(Family::deit));
  configs.back().summary_tokens = 2;
  configs.push_back(
      cut_config(Family::deit));  // a part without a classifier that answers with both tokens
  configs.back().summary_tokens = 2;
  configs.back().classes = 0;
  configs.push_back(tiny_config());
  configs.back().labels = {"a", "b", "b", "\xc3\xa9"};
  configs.back().random_weights = true;
  configs.push_back(tiny_config());
  configs.back().held_out = {60000, 5000, "0123456789abcdef"};
  for (const std::int64_t texts : {1, 2}) {
    configs.push_back(testing::tiny_text_config(Family::bert));
    configs.back().texts_per_row = texts;
  }
  configs.push_back(tiny_config());
  configs.back().processing.keep_aspect = true;
  configs.push_back(configs.back());
  configs.back().processing.crop_from = 10;
  configs.push_back(tiny_config());
  configs.back().processing.crop_from = 9;
  configs.back().processing.resample = 3;
  configs.back().processing.rescale = 1.0 / 127;
  configs.push_back(cut_config());
  configs.back().image_width = configs.back().processing.width = 16;
  configs.back().activation = Activation::relu;
  configs.back().qkv_bias = false;
  configs.back().norm_eps = 1e-5;
  return configs;
}

TEST(WriteConfig, IsReadBackAsItWas) {
  for (const ModelConfig& config : assorted_configs()) {
    const Scratch folder;
    write_config(config, folder.path());
    EXPECT_TRUE(read_config(folder.path()) == config) << config_to_json(config).dump(1);
    EXPECT_TRUE(config_from_json(reader(config_to_json(config))) == config)
        << config_to_json(config).dump(1);
  }
}

TEST(WriteConfig, HasASectionOfOursOnlyWhereItIsNeeded) {
  const auto written = [](const ModelConfig& config) {
    const Scratch folder;
    write_config(config, folder.path());
    return json::parse(base::read_text(folder / "config.json"));
  };
  EXPECT_FALSE(written(tiny_config()).contains("cleave"));
  EXPECT_TRUE(written(cut_config()).contains("cleave"));
  EXPECT_EQ(written(tiny_config()).at("num_attention_heads"), 3);
  EXPECT_EQ(written(tiny_config()).at("architectures"), json({"ViTForImageClassification"}));
}

TEST(CheckTensors, ComparesEveryShape) {
  const auto folder = golden("models/vit");
  const TensorFiles files(folder);
  ModelConfig config = read_config(folder);
  EXPECT_NO_THROW(check_tensors(config, files));
  config.layers[1].mlp_width = 41;
  expect_contains(
      error_of([&] { check_tensors(config, files); }),
      "models/vit] vit.encoder.layer.1.intermediate.dense.weight: saw [40,24], needs [41,24]");
  config = read_config(folder);
  config.layers.resize(4, {3, 40});
  expect_contains(error_of([&] { check_tensors(config, files); }),
                  "vit.encoder.layer.3.layernorm_before.weight: saw no such tensor");
}

}  // namespace
}  // namespace cleave::model
