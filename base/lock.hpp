#pragma once

#include <filesystem>
#include <vector>

namespace cleave::base {

/// Says that this process works in a folder, for as long as it lives; a second one is refused.
///
/// Two runs that write the same checkpoints mix their weights without an error. The lock (flock) is
/// on `folder`/.work/lock, a file of its own because folders are replaced under a run; the system
/// lets go of it however the process ends, so that none is ever stale.
class WorkLock {
 public:
  /// Takes the lock, making folders that are missing. Throws std::runtime_error at once:
  /// "[folder] is in use: saw process 1234 at work in it, needs it to end first" where another has
  /// it, or why there can be none (a read-only file system, one without locks).
  explicit WorkLock(const std::filesystem::path& folder);
  /// Removes the file, and of the folders that it made those that are empty.
  ~WorkLock();
  WorkLock(const WorkLock&) = delete;
  WorkLock& operator=(const WorkLock&) = delete;

  /// Whether anything but a lock lies in `folder`/.work.
  static bool has_work(const std::filesystem::path& folder);

 private:
  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // outermost first
  int fd_ = -1;
};

}  // namespace cleave::base
