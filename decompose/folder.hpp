#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/file.hpp"
#include "base/progress.hpp"
#include "model/config/config.hpp"

namespace cleave::decompose {

/// Throws std::invalid_argument "[out] exists and is no model folder: …" where `out` is there,
/// holds something and has no file `mark` in it: what is replaced must be of the kind that is
/// written.
void expect_replaceable(const std::filesystem::path& out, const std::string& mark,
                        const std::string& kind);

/// A model folder being written: weights first, then the config; appears under its name whole or
/// not at all.
class ModelFolder {
 public:
  explicit ModelFolder(const std::filesystem::path& out);
  /// Where the weights go.
  const std::filesystem::path& path() const { return staged_.path(); }
  /// Once the weights are complete.
  void commit(const model::ModelConfig& config);

 private:
  std::filesystem::path out_;
  base::StagedFolder staged_;
};

/// Tells `progress` about steps taken, at most ten times a second.
class Steps {
 public:
  Steps(std::string what, std::int64_t total, const base::ProgressCallback& progress);
  /// One more step begins. Throws std::runtime_error "[what] stopped on request" where the callback
  /// asks for it.
  void next();

 private:
  base::Progress now_;
  const base::ProgressCallback& progress_;
  std::chrono::steady_clock::time_point told_{};
};

}  // namespace cleave::decompose
