#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "model/config/safetensors.hpp"

namespace cleave::calibrate {

/// Named tensors (fp32 or fp16) and metadata in a safetensors file that carries the SHA-256 of its
/// contents, written whole or not at all: what a run reads back after a kill is what it wrote, or
/// it is refused. A flipped bit would else be other weights without a word.
void write_sealed(const std::filesystem::path& path,
                  const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata);

/// Opens what write_sealed() wrote and reads all of it once. Throws std::runtime_error in one line,
/// "[path] <what>: …, needs to be deleted to <remedy>", where it is damaged, cut off, or has no
/// digest as those of older versions.
model::TensorFiles open_sealed(const std::filesystem::path& path, const std::string& what,
                               const std::string& remedy);

}  // namespace cleave::calibrate
