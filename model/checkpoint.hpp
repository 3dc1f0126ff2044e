#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "model/config/safetensors.hpp"
#include "model/transformer.hpp"

namespace cleave::model {

/// Loads a Hugging Face folder (or one of ours: a sub-model is such a folder too) as fp32, tensor
/// by tensor: memory is the model's own size plus one tensor. Checks names and shapes first
/// (check_tensors). Throws std::runtime_error.
Transformer load(const std::filesystem::path& folder);

/// Writes config.json, for images preprocessor_config.json, and model.safetensors (above `most`
/// bytes shards with their index) under the checkpoint's own names; `folder` exists afterwards
/// whole or not at all.
void save(const Transformer& model, const std::filesystem::path& folder,
          std::uint64_t most = shard_bytes);

/// Loads what a device holds of a model (model/config/holding.hpp). Throws std::runtime_error where
/// the file has not what holding.json says.
Transformer load_holding(const std::filesystem::path& folder);

/// Random weights as Hugging Face initialises them (normal 0.02, zeros, ones). Same seed: same
/// weights.
Transformer random_model(const ModelConfig& config, std::uint64_t seed);
/// One tensor of random_model, for streaming: equal to that of random_model with the same seed.
Tensor random_tensor(const Parameter& parameter, std::uint64_t seed);

/// What a checkpoint stores under one key, as the model's parameters in the order of
/// `stored.parts`, fp32. Throws std::runtime_error.
std::vector<Tensor> read_stored(const ModelConfig& config, const TensorFiles& files,
                                const StoredTensor& stored);
/// The inverse of read_stored: contiguous, on the CPU.
Tensor to_stored(const Transformer& model, const StoredTensor& stored);

/// One tensor of a file as fp32. Throws std::runtime_error where a number is not finite.
Tensor read_tensor(const TensorFiles& files, const TensorEntry& entry);

}  // namespace cleave::model
