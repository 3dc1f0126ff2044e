#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/reader.hpp"
#include "model/config/config.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::model {

/// config.json of a Hugging Face folder and what the files beside
/// it say of the model: preprocessor_config.json, generation_config.json, Sentence Transformers'
/// files; folder_fields.hpp lists them. What config.json cannot say (heads and MLP width by layer,
/// head width, the task of a model without a head) stands in its `cleave` section. Throws
/// std::runtime_error with file and field; an unknown model_type lists the known ones.
ModelConfig read_config(const std::filesystem::path& folder);
/// The same from parsed JSON, for the fuzzer and for plans.
ModelConfig config_from_json(const base::Reader& config);

/// Writes config.json, for images preprocessor_config.json, for language models
/// generation_config.json, so that Hugging Face Transformers
/// reads them back, where `config.is_uniform()`; else with the `cleave` section that only Cleave
/// reads.
void write_config(const ModelConfig& config, const std::filesystem::path& folder);
nlohmann::json config_to_json(const ModelConfig& config);

/// The tensor of a StoredTensor's key, under whichever of its published names `files` has it (with
/// the family's prefix or without, BERT's gamma and beta, a tied embedding under its own name or
/// else the head's). Throws std::runtime_error with the key.
const TensorEntry& find_stored(const ModelConfig& config, const TensorFiles& files,
                               const std::string& key);
/// The same; null where there is none.
const TensorEntry* look_for_stored(const ModelConfig& config, const TensorFiles& files,
                                   const std::string& key);
/// Throws std::runtime_error where a tensor of `config` is missing in `files`, has another shape
/// ("[folder] key: saw [192, 192], needs [96, 192]") or is not made of real numbers. What the model
/// does not use may be anything.
void check_tensors(const ModelConfig& config, const TensorFiles& files);
/// Throws std::runtime_error where the tensor is not made of real numbers.
void expect_real(const TensorFiles& files, const TensorEntry& entry);

/// What is odd about tensors that fit: a line each, for people.
std::vector<std::string> tensor_notes(const ModelConfig& config, const TensorFiles& files);

}  // namespace cleave::model
