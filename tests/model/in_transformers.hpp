#pragma once

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <sys/wait.h>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/checkpoint.hpp"
#include "model/transformer.hpp"

namespace cleave::model::testing {

struct Outcome {
  int code = -1;
  std::string output;
};

inline Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> piece{};
  while (std::fgets(piece.data(), piece.size(), pipe) != nullptr) outcome.output += piece.data();
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

inline void write_tensors(const std::filesystem::path& path,
                          const std::map<std::string, at::Tensor>& tensors) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors)
    entries.push_back({name, base::Element::f32, tensor.sizes().vec(), 0, 0});
  SafetensorsWriter writer(path, entries);
  for (const auto& [name, tensor] : tensors)
    writer.write(tensor.contiguous().data_ptr<float>(), tensor.nbytes());
  writer.commit();
}

/// A model folder with what Cleave answers to some pixels.
inline void write_model(const Transformer& model, const std::filesystem::path& folder,
                        std::uint64_t most) {
  const ModelConfig& config = model.config;
  save(model, folder, most);
  at::manual_seed(6);
  const at::Tensor input =
      config.is_text() ? at::randint(config.vocabulary, {2, 9},
                                     at::kFloat)  // the file holds numbers of one kind
                       : at::randn({2, config.channels, config.image_height, config.image_width});
  std::map<std::string, at::Tensor> answers = {{config.is_text() ? "ids" : "pixels", input},
                                               {"features", features(model, input)}};
  if (config.classes > 0) answers["logits"] = forward(model, input);
  write_tensors(folder / "answers.safetensors", answers);
}

/// Whether Hugging Face Transformers loads these folders of write_model() and computes the same.
/// CLEAVE_PYTHON names a Python that has it; python3 else. Code 77 or 127: there is none.
inline Outcome load_in_transformers(const std::vector<std::filesystem::path>& folders) {
  const char* python = std::getenv("CLEAVE_PYTHON");
  std::string command = std::string(python != nullptr ? python : "python3") + " '" +
                        CLEAVE_SOURCE_DIR + "/tests/model/load_in_transformers.py'";
  for (const auto& folder : folders) command += " '" + folder.string() + "'";
  return run(command);
}

inline void expect_transformers_agrees(const std::vector<std::filesystem::path>& folders) {
  const Outcome outcome = load_in_transformers(folders);
  if (outcome.code == 77 || outcome.code == 127)
    GTEST_SKIP() << "no Transformers here: " << outcome.output;
  EXPECT_EQ(outcome.code, 0) << outcome.output;
}

}  // namespace cleave::model::testing
