#pragma once

#include <filesystem>

#include <nlohmann/json_fwd.hpp>

#include "base/reader.hpp"
#include "model/config/config.hpp"

// What the files beside config.json say of a model of text.
namespace cleave::model {

/// How tokens are drawn, as a generation_config.json says it, or an older config.json.
SamplingDefaults read_sampling(const base::Reader& file);

/// End tokens and sampling of a language model's folder: generation_config.json where there is one,
/// and else config.json, which is `file`, as Transformers takes them. Throws std::runtime_error.
void read_generation(const std::filesystem::path& folder, const base::Reader& file,
                     ModelConfig& config);
/// The generation_config.json that read_generation reads as `config` has it.
nlohmann::json generation_fields(const ModelConfig& config);

/// What Sentence Transformers' files say: that the model is asked for embeddings, what those are
/// made of, whether they are scaled, and the tokens that a text is cut to. Throws
/// std::runtime_error for modules and poolings that are not built. Without such files nothing
/// changes.
void read_sentence_files(const std::filesystem::path& folder, ModelConfig& config);

}  // namespace cleave::model
