#pragma once

#include <filesystem>

#include <nlohmann/json_fwd.hpp>

#include "base/reader.hpp"
#include "model/config/config.hpp"

// What Hugging Face's config.json says of text.
namespace cleave::model {

/// Vocabulary, context, positions and what else a config.json of a text family says beside widths
/// and layers; `config.family` is known. Throws std::runtime_error with file and field for what the
/// one forward pass does not do (YaRN's rotary positions, relative positions …).
void read_text(const base::Reader& file, ModelConfig& config);
/// The inverse of read_text.
nlohmann::json text_fields(const ModelConfig& config);

/// Takes the end tokens of the folder's generation_config.json, where it names any: chat models end
/// with more tokens than their config.json says. Throws std::runtime_error.
void read_end_tokens(const std::filesystem::path& folder, ModelConfig& config);

/// Throws std::runtime_error where the folder says, as sentence-transformers does, that its
/// sentence embedding is anything but the mean over the tokens.
void check_pooling(const std::filesystem::path& folder);

}  // namespace cleave::model
