#include "base/lock.hpp"

#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <stdexcept>
#include <string>
#include <sys/file.h>
#include <system_error>
#include <unistd.h>

#include "base/descriptor.hpp"

namespace cleave::base {
namespace fs = std::filesystem;
namespace {

const char work[] = ".work", file_name[] = "lock";

std::string host() {
  char name[HOST_NAME_MAX + 1] = {};
  return ::gethostname(name, HOST_NAME_MAX) == 0 ? name : "";
}

/// "process 1234", or "another process" where the file does not say.
std::string holder(int fd) {
  char text[32 + HOST_NAME_MAX] = {};
  if (::pread(fd, text, sizeof text - 1, 0) <= 0) return "another process";
  const std::string said = text;
  const auto space = said.find(' '), end = said.find('\n');
  if (space == std::string::npos || end == std::string::npos || space > end ||
      said.find_first_not_of("0123456789") != space)
    return "another process";
  const std::string where = said.substr(space + 1, end - space - 1);
  return "process " + said.substr(0, space) + (where == host() ? "" : " of " + where);
}

/// For people only: a full disk is no reason to fail.
void sign(int fd) {
  const std::string text = std::to_string(::getpid()) + " " + host() + "\n";
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, text.data(), text.size(), 0) < 0) return;
}

void make_folders(const fs::path& folder, std::vector<fs::path>& made) {
  std::vector<fs::path> missing;
  for (fs::path at = folder; !at.empty() && !fs::exists(at); at = at.parent_path())
    missing.insert(missing.begin(), at);
  for (const fs::path& at : missing)
    if (fs::create_directory(at)) made.push_back(at);
}

void remove_folders(const std::vector<fs::path>& made) {
  for (auto folder = made.rbegin(); folder != made.rend(); ++folder) ::rmdir(folder->c_str());
}

}  // namespace

WorkLock::WorkLock(const fs::path& folder) : path_(folder / work / file_name) {
  try {
    for (int tries = 0; fd_ < 0; ++tries) {
      make_folders(path_.parent_path(), made_);
      constexpr int how = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
      Descriptor file(::open(path_.c_str(), how | O_CREAT | O_EXCL, 0666));
      const bool is_new = file.is_open();
      if (!is_new && errno == EEXIST) file = Descriptor(::open(path_.c_str(), how));
      // Who had it before removes the folder too, where it is empty.
      if (!file.is_open() && errno == ENOENT && tries < 100) continue;
      if (!file.is_open()) throw system_failure(path_, "lock", errno);
      while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK) {
          const int error = errno;
          if (is_new) ::unlink(path_.c_str());
          throw system_failure(path_, "lock", error);
        }
        throw std::runtime_error("[" + folder.string() + "] is in use: saw " + holder(file.get()) +
                                 " at work in it, needs it to end first");
      }
      // Who had it before may have removed the file in between.
      if (is_same_file(file.get(), path_)) fd_ = file.release();
    }
  } catch (const fs::filesystem_error& error) {
    remove_folders(made_);
    throw system_failure(path_, "lock", error.code().value());
  } catch (...) {
    remove_folders(made_);
    throw;
  }
  sign(fd_);
}

WorkLock::~WorkLock() {
  // While it is still ours. Where the folder was replaced the path may be another's.
  if (is_same_file(fd_, path_)) ::unlink(path_.c_str());
  ::close(fd_);
  remove_folders(made_);
}

bool WorkLock::has_work(const fs::path& folder) {
  std::error_code ignored;
  for (fs::directory_iterator entry(folder / work, ignored), end; entry != end;
       entry.increment(ignored))
    if (entry->path().filename() != file_name) return true;
  return false;
}

}  // namespace cleave::base
