#pragma once

#include <cstdint>
#include <vector>

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

/// `eos_token_id`: one number, or several (Llama 3). Numbers beyond the vocabulary never come up:
/// published files have them. `otherwise` where none is left.
std::vector<std::int64_t> end_tokens_of(const base::Reader& file, std::int64_t vocabulary,
                                        std::vector<std::int64_t> otherwise = {});
/// The inverse of end_tokens_of, of at least one.
nlohmann::json end_tokens_to_json(const std::vector<std::int64_t>& tokens);

}  // namespace cleave::model
