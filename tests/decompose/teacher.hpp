#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "decompose/decompose.hpp"
#include "decompose/slice.hpp"
#include "model/config/config.hpp"
#include "model/config/safetensors.hpp"

namespace cleave::testing {

/// A folder of the running test's own, emptied before and removed after.
class Scratch {
 public:
  Scratch() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            (std::string("cleave_") + test->test_suite_name() + "_" + test->name());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Three unlike layers over width 12, heads of 4, images of 8 x 8: small enough to check by hand.
inline model::ModelConfig tiny_config() {
  model::ModelConfig config;
  config.width = 12;
  config.head_width = 4;
  config.layers = {{3, 20}, {2, 16}, {3, 10}};
  config.image_height = config.image_width = 8;
  config.patch = 4;
  config.channels = 1;
  config.classes = 5;
  config.processing.height = config.processing.width = 8;
  config.processing.mean = config.processing.std = {0.5};
  return config;
}

/// Two layers kept of three, units from the middle, none of them in a single run.
inline decompose::KeepList tiny_keep() {
  decompose::KeepList keep;
  keep.layers = {0, 2};
  keep.channels = {0, 1, 2, 5, 7, 8, 11};
  keep.heads = {{1, 2}, {0, 2}};
  keep.mlp = {{0, 3, 4, 5, 19}, {2, 9}};
  return keep;
}

inline std::filesystem::path tiny_teacher(const Scratch& scratch,
                                          const model::ModelConfig& config = tiny_config()) {
  const auto folder = scratch / "teacher";
  decompose::init(config, 7, folder);
  return folder;
}

inline std::string bytes_of(const model::TensorFiles& files, const model::TensorEntry& entry) {
  return {reinterpret_cast<const char*>(files.data(entry)), entry.bytes};
}

inline std::string text_of(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

/// What the call's exception says; empty where it throws none.
template <typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

}  // namespace cleave::testing
