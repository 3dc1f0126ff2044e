#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "calibrate/run.hpp"
#include "model/checkpoint.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::testing {

/// Writes the checkpoint again, its state changed and its digest right.
inline void forge_state(const std::filesystem::path& checkpoint,
                        const std::function<void(nlohmann::json&)>& change) {
  auto state = calibrate::read_checkpoint_state(checkpoint);
  std::map<std::string, at::Tensor> tensors;
  const model::TensorFiles files(checkpoint);
  for (const auto& [name, entry] : files.entries())
    tensors[name] = model::read_tensor(files, entry);
  change(state);
  calibrate::write_checkpoint(checkpoint, tensors, state);
}

/// What no run leaves in the middle, whatever its stages; each with the field that is named.
inline std::map<std::string, std::function<void(nlohmann::json&)>> impossible_states() {
  return {
      {"epoch: saw 1000000000", [](auto& s) { s["epoch"] = 1000000000; }},
      {"epoch: saw -1", [](auto& s) { s["epoch"] = -1; }},
      {"stage: saw 99", [](auto& s) { s["stage"] = 99; }},
      {"step: saw 100000", [](auto& s) { s["step"] = 100000; }},
      {"steps: saw 123456", [](auto& s) { s["steps"] = 123456; }},
      {"closed: saw true", [](auto& s) { s["closed"] = true; }},
      {"loss_sum: saw", [](auto& s) { s["loss_sum"] = "much"; }},
      {"seconds: saw -1", [](auto& s) { s["seconds"] = -1; }},
      {"records: saw", [](auto& s) { s["records"].push_back(s["records"][0]); }},
      {"records: saw none", [](auto& s) { s["records"].erase(0); }},
      {"records: saw none of", [](auto& s) { s["records"][0]["epoch"] = 7; }},
      {"notes", [](auto& s) { s["notes"] = 3; }},
      {"notes.alone", [](auto& s) { s["notes"]["alone"] = 3; }},
  };
}

}  // namespace cleave::testing
