#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cleave::base {

/// The whole of a small file. Throws std::runtime_error "[path] cannot read: …" (missing, a folder,
/// larger than `limit`).
std::string read_text(const std::filesystem::path& path, std::uint64_t limit = 256u << 20);

/// Writes a file whole or not at all: into `path.tmp-…`, fsync, rename. On failure (disk full, no
/// right) removes what it wrote and throws std::runtime_error that names the path, the bytes wanted
/// and the system's reason. What is no regular file (/dev/stdout, a pipe) is written directly.
void write_whole(const std::filesystem::path& path, std::string_view bytes);

/// A file mapped read-only, for as long as a copy of it lives.
class MappedFile {
 public:
  /// Throws std::runtime_error "[path] cannot map: …".
  explicit MappedFile(const std::filesystem::path& path);
  const std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }
  /// Keeps the mapping alive; for tensors that point into it.
  std::shared_ptr<const void> owner() const { return owner_; }

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
};

/// A file written piece by piece that appears under its name only at commit(); removed otherwise.
///
/// Several processes may stage the same file; the last to commit wins. What a killed process left
/// behind is removed by the next that stages the same file; a lock (flock) tells the dead from the
/// living.
class StagedFile {
 public:
  /// Throws std::runtime_error "[path] cannot write: …" (no such folder, no right).
  explicit StagedFile(const std::filesystem::path& path);
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;
  /// Appends. Throws std::runtime_error (disk full …) with path and bytes.
  void write(const void* data, std::size_t size);
  /// fsync and rename.
  void commit();

 private:
  std::filesystem::path path_, staged_;  // staged_ is empty where path_ is written directly
  int fd_ = -1;
  std::uint64_t written_ = 0;
};

/// Holds a folder's lock (flock) while it lives: waits for another process that has it. A file
/// system without locks gives it to everybody.
class FolderLock {
 public:
  /// Throws std::runtime_error where the folder cannot be opened.
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

/// A folder filled under `target/.staging-…/` (or beside `target` where it does not exist yet) and
/// moved into place at commit(), the file named `last` at the very end. Removed otherwise.
///
/// A target that does not exist appears whole, in one rename. One that exists is replaced in one
/// step too: what it alone holds (other files, also in folders that both have) gets a second name
/// in the staging, then the two change places. Where that cannot be (a mount point, a file system
/// without hard links or exchange, the working folder of this process, another process that stages
/// there), folders are merged and files of the same name replaced, one by one: a reader that checks
/// digests against `last` sees the old state, the new one, or an error. What a killed process left
/// behind is removed by the next, as with StagedFile.
class StagedFolder {
 public:
  /// Makes missing parents. Throws std::runtime_error "[target] cannot write: …".
  explicit StagedFolder(const std::filesystem::path& target, std::string last = "manifest.json");
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;
  /// Write here.
  const std::filesystem::path& path() const { return staging_; }
  /// fsync of everything, then the renames. Throws std::runtime_error.
  void commit();

 private:
  std::filesystem::path target_, staging_;
  std::string last_;
  std::vector<std::filesystem::path>
      made_parents_;  // outermost first; removed again without commit
  int lock_ = -1;
  bool committed_ = false;
};

}  // namespace cleave::base
