#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace cleave::tools {

/// A control group with a memory limit (v1 or v2), removed when the value goes: the backstop of a
/// device's memory limit. It does not see file pages that other processes brought in, as those of
/// libtorch, so that limits are judged by VmHWM.
class MemoryCgroup {
 public:
  /// Null where there can be none: needs root and a writable memory controller. What a killed
  /// testbed left behind is swept.
  static std::unique_ptr<MemoryCgroup> make(const std::string& device, double limit_bytes);
  ~MemoryCgroup();
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;

  /// A process that writes "0" here is in it, with all it starts.
  std::filesystem::path members() const { return path_ / "cgroup.procs"; }

 private:
  explicit MemoryCgroup(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace cleave::tools
