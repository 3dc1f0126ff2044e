#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.hpp"
#include "model/config/config.hpp"

namespace cleave::decompose {

/// What a part's residual stream is made of.
enum class Stream {
  channels,    // some of the teacher's channels, as they are
  components,  // the leading principal components of the teacher's stream, as many as channels
};

/// What a part keeps of the teacher. Every list is ascending; a layer whose list of heads (of MLP
/// units) is empty is kept without its attention (its MLP).
struct KeepList {
  std::vector<std::int64_t> layers;    // teacher layers
  std::vector<std::int64_t> channels;  // residual channels
  /// By kept layer; with grouped keys and values the groups, each with all its queries.
  std::vector<std::vector<std::int64_t>> heads;
  std::vector<std::vector<std::int64_t>> mlp;  // by kept layer
  bool classifier = true;                      // false: features only, no head
  /// Of components, `channels` are what was kept before the stream was rotated.
  Stream stream = Stream::channels;
  bool operator==(const KeepList& other) const;
};

KeepList keep_all(const model::ModelConfig& teacher);
/// The config of what is kept. Throws std::invalid_argument "[keep] heads[3]: keeps head 12, the
/// model has heads 0..11".
model::ModelConfig kept_config(const model::ModelConfig& teacher, const KeepList& keep);

/// Writes the part of the model in folder `teacher` that `keep` names to the folder `out`, tensor
/// by tensor (peak memory: the largest tensor, twice), rows in the order of the keep-list, each
/// tensor in the teacher's own element type. Keeping everything changes nothing, bit for bit. `out`
/// exists afterwards either whole or not at all; it may be there before when it is empty or a model
/// folder. `progress` counts tensors. Throws std::invalid_argument where the lists do not fit, and
/// std::runtime_error where a file does not.
void slice(const std::filesystem::path& teacher, const KeepList& keep,
           const std::filesystem::path& out, const base::ProgressCallback& progress = {});

/// keep.json, format 1: the lists, for people and for calibration. Throws std::runtime_error with
/// file and field.
void write_keep(const KeepList& keep, const std::filesystem::path& path);
KeepList read_keep(const std::filesystem::path& path);
KeepList keep_from_json(const std::string& text, const std::string& name);

}  // namespace cleave::decompose
