#include "base/file.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

#include "base/descriptor.hpp"
#include "base/units.hpp"

namespace cleave::base {
namespace fs = std::filesystem;

Descriptor::~Descriptor() {
  if (is_open()) ::close(fd_);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = other.release();
  }
  return *this;
}

int Descriptor::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

int Descriptor::close() {
  if (!is_open()) return 0;
  return ::close(release()) == 0 ? 0 : errno;
}

std::runtime_error system_failure(const fs::path& path, const std::string& verb, int error) {
  return std::runtime_error("[" + path.string() + "] cannot " + verb + ": " +
                            std::generic_category().message(error));
}

Descriptor open_to_read(const fs::path& path, const std::string& verb, struct stat& status) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open() || ::fstat(file.get(), &status) != 0) throw system_failure(path, verb, errno);
  if (S_ISDIR(status.st_mode)) throw system_failure(path, verb, EISDIR);
  return file;
}

std::size_t read_some(const Descriptor& file, const fs::path& path, void* data, std::size_t size) {
  while (true) {
    const ssize_t count = ::read(file.get(), data, size);
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINTR) throw system_failure(path, "read", errno);
  }
}

bool is_same_file(int fd, const fs::path& path) {
  struct stat held {
  }, named{};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
         held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

namespace {

/// A name beside or in what is written, that no other living stager uses: <stem><pid>-<count>.
fs::path fresh_name(const fs::path& folder, const std::string& stem) {
  static std::atomic<unsigned> count{0};
  return folder / (stem + std::to_string(::getpid()) + "-" + std::to_string(count++));
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// Takes the lock that marks a staging as alive. False where a sweeper was faster and removed it. A
/// file system without locks counts as locked: no sweeper gets one there either.
bool mark_alive(int fd, const fs::path& path) {
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
  return is_same_file(fd, path);
}

/// Removes stagings in `folder` that begin with `stem` and that no living process has locked. What
/// cannot be removed stays: it harms nobody.
void sweep(const fs::path& folder, const std::string& stem) {
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; entry != end; entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    if (name.compare(0, stem.size(), stem) != 0) continue;
    // Our own forms only: digits, a dash, digits.
    const std::string rest = name.substr(stem.size());
    if (rest.empty() || rest.find_first_not_of("0123456789-") != std::string::npos) continue;
    const Descriptor held(
        ::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!held.is_open() || ::flock(held.get(), LOCK_EX | LOCK_NB) != 0) continue;
    if (is_same_file(held.get(), entry->path())) fs::remove_all(entry->path(), ignored);
  }
}

/// fsync, of files and folders. Some file systems refuse to sync folders; that is no failure of
/// ours.
int sync(int fd) {
  while (::fsync(fd) != 0) {
    if (errno == EINTR) continue;
    return errno == EINVAL || errno == EROFS || errno == ENOTSUP ? 0 : errno;
  }
  return 0;
}

void sync_path(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) throw system_failure(path, "write", errno);
  if (const int error = sync(file.get())) throw system_failure(path, "write", error);
}

enum class Kind { missing, regular, folder, other };

/// What is there, through links. What cannot be looked at counts as missing: creating it then says
/// why.
Kind kind_of(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return Kind::missing;
  if (S_ISREG(status.st_mode)) return Kind::regular;
  return S_ISDIR(status.st_mode) ? Kind::folder : Kind::other;
}

/// Renaming onto a link would replace the link, not what it leads to.
fs::path without_links(const fs::path& path) {
  std::error_code error;
  if (!fs::is_symlink(path, error)) return path;
  const fs::path target = fs::canonical(path, error);
  return error ? path : target;
}

/// A replaced file keeps its rights, so that a private file does not become public.
void keep_rights(int fd, const fs::path& replaced) {
  struct stat status {};
  if (::stat(replaced.c_str(), &status) == 0) (void)::fchmod(fd, status.st_mode & 07777);
}

/// Creates the file of a staging, locked.
Descriptor create_staged(const fs::path& path, fs::path& staged) {
  const std::string stem = path.filename().string() + ".tmp-";
  sweep(folder_of(path), stem);
  while (true) {
    staged = fresh_name(folder_of(path), stem);
    Descriptor file(::open(staged.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file.is_open() && errno != EEXIST) throw system_failure(path, "write", errno);
    if (file.is_open() && mark_alive(file.get(), staged)) return file;
  }
}

}  // namespace

std::string read_text(const fs::path& path, std::uint64_t limit) {
  struct stat status {};
  const Descriptor file = open_to_read(path, "read", status);
  const auto refuse = [&](std::uint64_t bytes) {
    throw std::runtime_error("[" + path.string() + "] cannot read: saw " + std::to_string(bytes) +
                             " bytes or more, needs at most " + std::to_string(limit));
  };
  const auto stated = static_cast<std::uint64_t>(std::max<off_t>(status.st_size, 0));
  if (stated > limit) refuse(stated);
  // Pipes and /proc state no size, so the end is where reading ends.
  std::string text;
  text.resize(static_cast<std::size_t>(stated) + 1);
  std::size_t used = 0;
  while (const std::size_t count = read_some(file, path, text.data() + used, text.size() - used)) {
    used += count;
    if (used > limit) refuse(used);
    if (used == text.size()) text.resize(std::max<std::size_t>(4096, 2 * text.size()));
  }
  text.resize(used);
  return text;
}

void write_whole(const fs::path& path, std::string_view bytes) {
  StagedFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

MappedFile::MappedFile(const fs::path& path) {
  struct stat status {};
  const Descriptor file = open_to_read(path, "map", status);
  if (!S_ISREG(status.st_mode)) throw system_failure(path, "map", ENODEV);
  size_ = static_cast<std::uint64_t>(status.st_size);
  if (size_ == 0) return;  // nothing to map; the system refuses an empty mapping
  const auto size = static_cast<std::size_t>(size_);
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED) throw system_failure(path, "map", errno);
  owner_ = std::shared_ptr<const void>(
      mapped, [size](const void* start) { ::munmap(const_cast<void*>(start), size); });
  data_ = static_cast<const std::byte*>(mapped);
}

StagedFile::StagedFile(const fs::path& path) : path_(without_links(path)) {
  const Kind there = kind_of(path_);
  if (there == Kind::folder || !path_.has_filename()) throw system_failure(path, "write", EISDIR);
  if (there != Kind::other) {
    Descriptor file = create_staged(path_, staged_);
    keep_rights(file.get(), path_);
    fd_ = file.release();
  } else {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) throw system_failure(path, "write", errno);
  }
}

StagedFile::~StagedFile() {
  // Removed before the lock goes with the descriptor, so that no sweeper meets it.
  if (!staged_.empty()) ::unlink(staged_.c_str());
  if (fd_ >= 0) ::close(fd_);
}

void StagedFile::write(const void* data, std::size_t size) {
  const char* next = static_cast<const char*>(data);
  std::size_t left = size;
  while (left > 0) {
    const ssize_t count = ::write(fd_, next, left);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const std::string after = written_ > 0 ? " after " + std::to_string(written_) : "";
      throw system_failure(path_, "write " + std::to_string(size) + " bytes" + after, errno);
    }
    next += count;
    left -= static_cast<std::size_t>(count);
  }
  written_ += size;
}

void StagedFile::commit() {
  const std::string verb = "write " + std::to_string(written_) + " bytes";
  if (const int error = sync(fd_)) throw system_failure(path_, verb, error);
  if (!staged_.empty() && ::rename(staged_.c_str(), path_.c_str()) != 0) {
    throw system_failure(path_, verb, errno);
  }
  const bool renamed = !staged_.empty();
  staged_.clear();
  Descriptor file(fd_);
  fd_ = -1;
  if (const int error = file.close()) throw system_failure(path_, verb, error);
  if (renamed) sync_path(folder_of(path_));
}

namespace {

constexpr const char* stem_inside = ".staging-";

/// Creates the parents of `target` that do not exist yet and notes them in `made`, outermost first.
void make_parents(const fs::path& target, std::vector<fs::path>& made) {
  std::vector<fs::path> missing;
  for (fs::path at = folder_of(target); kind_of(at) == Kind::missing; at = folder_of(at)) {
    if (at == folder_of(at)) break;
    missing.insert(missing.begin(), at);
  }
  for (const fs::path& folder : missing) {
    if (::mkdir(folder.c_str(), 0777) == 0) {
      made.push_back(folder);
    } else if (errno != EEXIST) {
      throw system_failure(target, "write", errno);
    }
  }
}

/// Those that are still empty: nobody else has used them.
void remove_parents(const std::vector<fs::path>& made) {
  for (auto folder = made.rbegin(); folder != made.rend(); ++folder) ::rmdir(folder->c_str());
}

Descriptor create_staging(const fs::path& target, const fs::path& folder, const std::string& stem,
                          fs::path& staging) {
  sweep(folder, stem);
  while (true) {
    staging = fresh_name(folder, stem);
    if (::mkdir(staging.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      throw system_failure(target, "write", errno);
    }
    Descriptor held(::open(staging.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (held.is_open() && mark_alive(held.get(), staging)) return held;
    if (!held.is_open() && errno != ENOENT) throw system_failure(target, "write", errno);
  }
}

void sync_tree(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_symlink()) sync_path(entry.path());
  }
  sync_path(folder);
}

void move_file(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw system_failure(to, "write", errno);
}

/// Moves what is in `from` into `to`: folders merge, files replace. Leaves `skip` where it is.
void merge(const fs::path& from, const fs::path& to, const std::string& skip) {
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(from)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  for (const fs::path& entry : entries) {
    if (entry.filename() == skip) continue;
    const fs::path place = to / entry.filename();
    const bool folders = kind_of(entry) == Kind::folder && kind_of(place) == Kind::folder;
    folders ? merge(entry, place, "") : move_file(entry, place);
  }
  sync_path(to);
}

std::string stem_beside(const fs::path& target) {
  return "." + target.filename().string() + ".staging-";
}

/// Gives what `from` holds and `to` does not a second name in `to`. False where that cannot be;
/// `to` can be merged all the same.
bool link_rest(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const fs::path place = to / entry.path().filename();
    const bool is_folder = entry.is_directory() && !entry.is_symlink();
    const Kind there = kind_of(place);
    if (is_folder) {
      if (there == Kind::missing && ::mkdir(place.c_str(), 0777) != 0) return false;
      if (there != Kind::missing && there != Kind::folder) return false;
      if (!link_rest(entry.path(), place)) return false;
    } else if (there == Kind::missing) {
      if (::link(entry.path().c_str(), place.c_str()) != 0) return false;
    } else if (there == Kind::folder) {
      return false;
    }
  }
  sync_path(to);
  struct stat status {};
  if (::stat(from.c_str(), &status) != 0) return false;
  const bool owned =
      status.st_uid == ::geteuid() || ::chown(to.c_str(), status.st_uid, status.st_gid) == 0;
  return owned && ::chmod(to.c_str(), status.st_mode & 07777) == 0;
}

bool is_below(const fs::path& path, const fs::path& folder) {
  const fs::path relative = path.lexically_relative(folder);
  return !relative.empty() && *relative.begin() != "..";
}

bool holds_a_staging(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename().string().rfind(stem_inside, 0) == 0) return true;
  return false;
}

/// The staging and the target change places, in one step; what the target alone holds comes along.
/// False where that cannot be; the staging, wherever it is then, can still be merged.
bool exchange(fs::path& staging, const fs::path& target) {
  try {
    const fs::path place = fs::canonical(target);
    // Whoever stands in the old folder would stand nowhere.
    if (is_below(fs::current_path(), place)) return false;
    const fs::path beside = fresh_name(folder_of(place), stem_beside(place));
    if (::renameat2(AT_FDCWD, staging.c_str(), AT_FDCWD, beside.c_str(), RENAME_NOREPLACE) != 0)
      return false;
    staging = beside;
    if (holds_a_staging(place) || !link_rest(place, staging)) return false;
    if (::renameat2(AT_FDCWD, staging.c_str(), AT_FDCWD, place.c_str(), RENAME_EXCHANGE) != 0)
      return false;
    sync_path(folder_of(place));
    return true;
  } catch (const fs::filesystem_error&) {
    return false;
  }
}

}  // namespace

StagedFolder::StagedFolder(const fs::path& target, std::string last)
    : target_(target.has_filename() ? target : target.parent_path()), last_(std::move(last)) {
  const Kind there = kind_of(target_);
  if (there == Kind::regular || there == Kind::other) {
    throw system_failure(target, "write", ENOTDIR);
  }
  try {
    if (there == Kind::folder) {
      const fs::path place = without_links(target_);
      sweep(folder_of(place), stem_beside(place));
      lock_ = create_staging(target_, target_, stem_inside, staging_).release();
    } else {
      make_parents(target_, made_parents_);
      lock_ = create_staging(target_, folder_of(target_), stem_beside(target_), staging_).release();
    }
  } catch (...) {
    remove_parents(made_parents_);
    throw;
  }
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
  if (lock_ >= 0) ::close(lock_);
  if (!committed_) remove_parents(made_parents_);
}

void StagedFolder::commit() {
  try {
    sync_tree(staging_);
    if (kind_of(target_) == Kind::missing) {
      move_file(staging_, target_);
      sync_path(folder_of(target_));
    } else if (!exchange(staging_, target_)) {
      merge(staging_, target_, last_);
      if (kind_of(staging_ / last_) == Kind::regular) move_file(staging_ / last_, target_ / last_);
      sync_path(target_);
    }
  } catch (const fs::filesystem_error& error) {
    throw system_failure(target_, "write", error.code().value());
  }
  committed_ = true;
}

FolderLock::FolderLock(const fs::path& folder)
    : fd_(::open(folder.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY)) {
  if (fd_ < 0) throw system_failure(folder, "open", errno);
  while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
  }
}

FolderLock::~FolderLock() { ::close(fd_); }

}  // namespace cleave::base
