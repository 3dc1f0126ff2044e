#pragma once

#include <filesystem>
#include <vector>

#include "model/config/config.hpp"

namespace cleave::decompose {

/// What a part keeps of the teacher. Every list is ascending.
struct KeepList {
  std::vector<std::int64_t> layers;                 // teacher layers
  std::vector<std::int64_t> channels;               // residual channels
  std::vector<std::vector<std::int64_t>> heads;     // by kept layer
  std::vector<std::vector<std::int64_t>> mlp;       // by kept layer
};

KeepList keep_all(const model::ModelConfig& teacher);
/// The config of what is kept. Throws std::invalid_argument "[keep] heads[3]: keeps head 12, the model has heads 0..11".
model::ModelConfig kept_config(const model::ModelConfig& teacher, const KeepList& keep);

/// Writes the part of the model in folder `teacher` that `keep` names to the folder `out`, tensor by tensor (peak memory: the
/// largest tensor, twice), rows in the order of the keep-list. Keeping everything changes nothing, bit for bit. `out` exists
/// afterwards either whole or not at all.
void slice(const std::filesystem::path& teacher, const KeepList& keep, const std::filesystem::path& out);

}  // namespace cleave::decompose
