#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace cleave::fuzz {

/// A folder that goes when the process ends.
struct Folder {
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cleave-fuzz-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path path;
};

}  // namespace cleave::fuzz
