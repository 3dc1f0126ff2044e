#pragma once

#include <nlohmann/json_fwd.hpp>

#include "base/reader.hpp"
#include "model/config/config.hpp"

// What Hugging Face's config.json and preprocessor_config.json say of images.
namespace cleave::model {

/// Image, patch and channels of a config.json.
void read_image(const base::Reader& file, ModelConfig& config);
/// The inverse of read_image.
nlohmann::json image_fields(const ModelConfig& config);

/// What Transformers' image processor of the family does when a folder says nothing, at the model's
/// own size.
ImageProcessing default_processing(const ModelConfig& config);
/// A preprocessor_config.json as Transformers 4 means it: which fields count depends on the image
/// processor that it names (ViT, DeiT, CLIP, Bit, ConvNext). Throws std::runtime_error.
ImageProcessing read_processing(const base::Reader& file, const ModelConfig& config);
nlohmann::json processing_to_json(const ImageProcessing& processing);

}  // namespace cleave::model
