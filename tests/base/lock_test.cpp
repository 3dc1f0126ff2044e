#include "base/lock.hpp"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "tests/base/scratch.hpp"

namespace {
/// Asked first where it is set; an error number, or 0 for the system's own answer.
std::function<int()> before_flock;
}  // namespace

/// In the place of the C library's, for a file system that cannot lock.
extern "C" int flock(int fd, int operation) noexcept {
  if (before_flock) {
    errno = before_flock();
    if (errno != 0) return -1;
  }
  return static_cast<int>(::syscall(SYS_flock, fd, operation));
}

namespace cleave::base {
namespace {

namespace fs = std::filesystem;
using cleave::testing::message_of;
using cleave::testing::names_below;
using cleave::testing::Scratch;
using Names = std::set<std::string>;

/// Another process that has the lock until it is killed.
class Holder {
 public:
  explicit Holder(const fs::path& folder) {
    int ready[2];
    if (::pipe(ready) != 0) throw std::runtime_error("no pipe");
    child_ = ::fork();
    if (child_ == 0) {
      const WorkLock lock(folder);
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Holder() { kill(); }
  void kill() {
    if (child_ <= 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    child_ = -1;
  }
  pid_t id() const { return child_; }

 private:
  pid_t child_ = -1;
};

std::string in_use(const fs::path& folder, const std::string& by) {
  return "[" + folder.string() + "] is in use: saw " + by + " at work in it, needs it to end first";
}

TEST(WorkLock, IsOneProcessAtATimeAndGoesWithAKilledOne) {
  const Scratch scratch;
  Holder holder(scratch / "out");
  const auto names = names_below(scratch.path());
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(message_of([&] { WorkLock(scratch / "out"); }),
              in_use(scratch / "out", "process " + std::to_string(holder.id())));
  EXPECT_EQ(names_below(scratch.path()), names);
  holder.kill();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(message_of([&] { WorkLock(scratch / "out"); }), "");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(WorkLock, LeavesTheFoldersAsTheyWere) {
  const Scratch scratch;
  { const WorkLock lock(scratch / "new/out"); }
  EXPECT_EQ(names_below(scratch.path()), Names{});
  fs::create_directories(scratch / "old/.work");
  {
    const WorkLock lock(scratch / "old");
    EXPECT_FALSE(WorkLock::has_work(scratch / "old"));
    write_whole(scratch / "old/.work/checkpoint", "x");
    EXPECT_TRUE(WorkLock::has_work(scratch / "old"));
  }
  EXPECT_EQ(names_below(scratch.path()), (Names{"old", "old/.work", "old/.work/checkpoint"}));
  EXPECT_FALSE(WorkLock::has_work(scratch / "none"));
}

TEST(WorkLock, WhatTheFileSaysIsOnlyForPeople) {
  const Scratch scratch;
  fs::create_directories(scratch / "out/.work");
  for (const std::string text : {"", "12", "rubbish\n", "-1 a\n", "7 elsewhere\n"}) {
    write_whole(scratch / "out/.work/lock", text);
    const int fd = ::open((scratch / "out/.work/lock").c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_EQ(::flock(fd, LOCK_EX), 0);
    EXPECT_EQ(message_of([&] { WorkLock(scratch / "out"); }),
              in_use(scratch / "out",
                     text == "7 elsewhere\n" ? "process 7 of elsewhere" : "another process"));
    ::close(fd);
    EXPECT_EQ(message_of([&] { WorkLock(scratch / "out"); }), "");
  }
}

// A calibration replaces the bundle that it works in: other folders, the same file.
TEST(WorkLock, IsHeldWhileTheFolderIsReplaced) {
  const Scratch scratch;
  write_whole(scratch / "manifest.json", "old");
  auto lock = std::make_unique<WorkLock>(scratch.path());
  StagedFolder staged(scratch.path());
  write_whole(staged.path() / "manifest.json", "new");
  staged.commit();
  const std::string message = message_of([&] { WorkLock(scratch.path()); });
  EXPECT_EQ(message, in_use(scratch.path(), "process " + std::to_string(::getpid())));
  lock.reset();
  EXPECT_EQ(message_of([&] { WorkLock(scratch.path()); }), "");
  EXPECT_FALSE(fs::exists(scratch / ".work"));
}

// Between opening and locking, who had it may have removed the file: a lock on that is on nothing.
TEST(WorkLock, IsOnTheFileThatHasTheName) {
  const Scratch scratch;
  int calls = 0;
  before_flock = [&] {
    if (++calls == 1) fs::remove_all(scratch / "out/.work");
    return 0;
  };
  const WorkLock lock(scratch / "out");
  before_flock = {};
  EXPECT_EQ(calls, 2);
  EXPECT_NE(message_of([&] { WorkLock(scratch / "out"); }), "");
}

TEST(WorkLock, SaysWhyThereCanBeNone) {
  const Scratch scratch;
  before_flock = [] { return ENOLCK; };
  EXPECT_EQ(message_of([&] { WorkLock(scratch / "out"); }),
            "[" + (scratch / "out/.work/lock").string() + "] cannot lock: No locks available");
  before_flock = {};
  write_whole(scratch / "file", "x");
  EXPECT_EQ(message_of([&] { WorkLock(scratch / "file"); }),
            "[" + (scratch / "file/.work/lock").string() + "] cannot lock: Not a directory");
  EXPECT_FALSE(fs::exists(scratch / "out/.work"));
}

TEST(WorkLock, NeedsAFolderThatCanBeWritten) {
  const Scratch scratch;
  if (::geteuid() != 0) {
    fs::permissions(scratch.path(), fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_EQ(message_of([&] { WorkLock(scratch / "out"); }),
              "[" + (scratch / "out/.work/lock").string() + "] cannot lock: Permission denied");
    fs::permissions(scratch.path(), fs::perms::owner_all);
    return;
  }
  if (::mount("tmpfs", scratch.path().c_str(), "tmpfs", MS_RDONLY, "size=64k") != 0)
    GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  EXPECT_EQ(message_of([&] { WorkLock(scratch / "out"); }),
            "[" + (scratch / "out/.work/lock").string() + "] cannot lock: Read-only file system");
  ::umount2(scratch.path().c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace cleave::base
