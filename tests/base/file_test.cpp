#include "base/file.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <signal.h>
#include <string>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "tests/base/scratch.hpp"

namespace cleave::base {
namespace {

namespace fs = std::filesystem;
using cleave::testing::message_of;
using cleave::testing::names_below;
using cleave::testing::Scratch;
using Names = std::set<std::string>;

/// Runs without root's rights for the length of a scope, so that "no right" can be tried as root
/// too.
class AsNobody {
 public:
  explicit AsNobody(const fs::path& visible) {
    fs::permissions(visible, fs::perms::all);
    if (::geteuid() == 0) switched_ = ::seteuid(65534) == 0;
  }
  ~AsNobody() {
    if (switched_) (void)!::seteuid(0);
  }
  bool works() const { return ::geteuid() != 0; }

 private:
  bool switched_ = false;
};

/// Runs `action` in a process of its own that then dies as by kill -9: no destructor runs.
void in_a_killed_process(const std::function<void()>& action) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    action();
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST(ReadText, GivesTheBytes) {
  const Scratch scratch;
  const std::string bytes("a\0b\xff\n", 5);
  write_whole(scratch / "file", bytes);
  EXPECT_EQ(read_text(scratch / "file"), bytes);
  write_whole(scratch / "empty", "");
  EXPECT_EQ(read_text(scratch / "empty"), "");
}

TEST(ReadText, ReadsWhatStatesNoSize) {
  EXPECT_NE(read_text("/proc/self/status").find("VmHWM"), std::string::npos);
}

TEST(ReadText, RefusesMoreThanTheLimit) {
  const Scratch scratch;
  const auto file = scratch / "file";
  write_whole(file, std::string(100, 'x'));
  EXPECT_EQ(read_text(file, 100).size(), 100u);
  EXPECT_EQ(message_of([&] { read_text(file, 99); }),
            "[" + file.string() + "] cannot read: saw 100 bytes or more, needs at most 99");
  EXPECT_THROW(read_text("/dev/zero", 10'000), std::runtime_error);
}

TEST(ReadText, SaysWhyNot) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { read_text(scratch / "none"); }),
            "[" + (scratch / "none").string() + "] cannot read: No such file or directory");
  EXPECT_EQ(message_of([&] { read_text(scratch.path()); }),
            "[" + scratch.path().string() + "] cannot read: Is a directory");
}

TEST(WriteWhole, ReplacesAndLeavesNothingElse) {
  const Scratch scratch;
  write_whole(scratch / "file", "first, and longer");
  write_whole(scratch / "file", "second");
  EXPECT_EQ(read_text(scratch / "file"), "second");
  EXPECT_EQ(names_below(scratch.path()), Names{"file"});
}

TEST(WriteWhole, KeepsTheRightsOfWhatItReplaces) {
  const Scratch scratch;
  write_whole(scratch / "key", "old");
  fs::permissions(scratch / "key", fs::perms::owner_read | fs::perms::owner_write);
  write_whole(scratch / "key", "new");
  EXPECT_EQ(fs::status(scratch / "key").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

TEST(WriteWhole, WritesThroughALink) {
  const Scratch scratch;
  write_whole(scratch / "file", "old");
  fs::create_symlink("file", scratch / "link");
  write_whole(scratch / "link", "new");
  EXPECT_TRUE(fs::is_symlink(scratch / "link"));
  EXPECT_EQ(read_text(scratch / "file"), "new");
}

TEST(WriteWhole, WritesADeviceDirectly) {
  write_whole("/dev/null", "gone");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST(WriteWhole, SaysThatTheDiskIsFull) {
  EXPECT_EQ(message_of([] { write_whole("/dev/full", "abc"); }),
            "[/dev/full] cannot write 3 bytes: No space left on device");
}

TEST(WriteWhole, SaysWhyNot) {
  const Scratch scratch;
  const auto nowhere = scratch / "none/file";
  EXPECT_EQ(message_of([&] { write_whole(nowhere, "x"); }),
            "[" + nowhere.string() + "] cannot write: No such file or directory");
  EXPECT_EQ(message_of([&] { write_whole(scratch.path(), "x"); }),
            "[" + scratch.path().string() + "] cannot write: Is a directory");
  EXPECT_EQ(names_below(scratch.path()), Names{});
}

TEST(WriteWhole, SaysThatTheRightIsMissing) {
  const Scratch scratch;
  fs::create_directory(scratch / "locked");
  const auto file = scratch / "locked/file";
  write_whole(file, "old");
  fs::permissions(scratch / "locked", fs::perms::owner_read | fs::perms::owner_exec |
                                          fs::perms::others_read | fs::perms::others_exec);
  {
    const AsNobody nobody(scratch.path());
    if (!nobody.works()) GTEST_SKIP() << "cannot give up root's rights here";
    EXPECT_EQ(message_of([&] { write_whole(file, "new"); }),
              "[" + file.string() + "] cannot write: Permission denied");
  }
  EXPECT_EQ(read_text(file), "old");
  fs::permissions(scratch / "locked", fs::perms::owner_all);
}

TEST(WriteWhole, ManyWritersLeaveOneWholeFile) {
  const Scratch scratch;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&, writer] {
      const std::string bytes(10'000, static_cast<char>('a' + writer));
      for (int i = 0; i < 20; ++i) write_whole(scratch / "file", bytes);
    });
  }
  for (auto& writer : writers) writer.join();
  const std::string bytes = read_text(scratch / "file");
  EXPECT_EQ(bytes, std::string(10'000, bytes.at(0)));
  EXPECT_EQ(names_below(scratch.path()), Names{"file"});
}

TEST(MappedFile, OutlivesItsNameAndTheObject) {
  const Scratch scratch;
  write_whole(scratch / "file", "mapped bytes");
  std::shared_ptr<const void> owner;
  const std::byte* data = nullptr;
  {
    const MappedFile file(scratch / "file");
    ASSERT_EQ(file.size(), 12u);
    owner = file.owner();
    data = file.data();
  }
  fs::remove(scratch / "file");
  EXPECT_EQ(std::memcmp(data, "mapped bytes", 12), 0);
}

TEST(MappedFile, MapsAnEmptyFile) {
  const Scratch scratch;
  write_whole(scratch / "file", "");
  const MappedFile file(scratch / "file");
  EXPECT_EQ(file.size(), 0u);
}

TEST(MappedFile, SaysWhyNot) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { MappedFile{scratch / "none"}; }),
            "[" + (scratch / "none").string() + "] cannot map: No such file or directory");
  EXPECT_EQ(message_of([&] { MappedFile{scratch.path()}; }),
            "[" + scratch.path().string() + "] cannot map: Is a directory");
  EXPECT_EQ(message_of([] { MappedFile{"/dev/null"}; }), "[/dev/null] cannot map: No such device");
}

TEST(StagedFile, AppearsOnlyAtCommit) {
  const Scratch scratch;
  StagedFile file(scratch / "file");
  file.write("one ", 4);
  file.write("two", 3);
  EXPECT_FALSE(fs::exists(scratch / "file"));
  file.commit();
  EXPECT_EQ(read_text(scratch / "file"), "one two");
}

TEST(StagedFile, LeavesTheOldFileWithoutCommit) {
  const Scratch scratch;
  write_whole(scratch / "file", "old");
  {
    StagedFile file(scratch / "file");
    file.write("new", 3);
  }
  EXPECT_EQ(read_text(scratch / "file"), "old");
  EXPECT_EQ(names_below(scratch.path()), Names{"file"});
}

TEST(StagedFile, SaysHowFarItCame) {
  StagedFile file("/dev/full");
  EXPECT_EQ(message_of([&] { file.write("abcd", 4); }),
            "[/dev/full] cannot write 4 bytes: No space left on device");
}

TEST(StagedFile, SweepsWhatAKilledProcessLeft) {
  const Scratch scratch;
  in_a_killed_process([&] {
    StagedFile file(scratch / "file");
    file.write("half", 4);
    ::raise(SIGKILL);
  });
  ASSERT_EQ(names_below(scratch.path()).size(), 1u);
  write_whole(scratch / "file", "whole");
  EXPECT_EQ(names_below(scratch.path()), Names{"file"});
}

TEST(StagedFile, LeavesALivingStagingAlone) {
  const Scratch scratch;
  StagedFile slow(scratch / "file");
  slow.write("slow", 4);
  write_whole(scratch / "file", "fast");
  slow.commit();
  EXPECT_EQ(read_text(scratch / "file"), "slow");
}

TEST(StagedFile, LeavesFilesOfOtherNamesAlone) {
  const Scratch scratch;
  for (const std::string name : {"file.tmp-mine", "file.tmp-", "other.tmp-1-2", "file.tmp"}) {
    std::ofstream(scratch / name) << "kept";
  }
  write_whole(scratch / "file", "whole");
  EXPECT_EQ(names_below(scratch.path()),
            (Names{"file", "file.tmp-mine", "file.tmp-", "other.tmp-1-2", "file.tmp"}));
}

TEST(StagedFolder, AppearsWhole) {
  const Scratch scratch;
  {
    StagedFolder folder(scratch / "deep/er/bundle");
    fs::create_directories(folder.path() / "parts/a");
    write_whole(folder.path() / "parts/a/weights", "w");
    write_whole(folder.path() / "manifest.json", "m");
    EXPECT_FALSE(fs::exists(scratch / "deep/er/bundle"));
    folder.commit();
  }
  EXPECT_EQ(names_below(scratch / "deep/er"),
            (Names{"bundle", "bundle/manifest.json", "bundle/parts", "bundle/parts/a",
                   "bundle/parts/a/weights"}));
}

TEST(StagedFolder, LeavesNothingWithoutCommit) {
  const Scratch scratch;
  {
    StagedFolder folder(scratch / "deep/er/bundle");
    write_whole(folder.path() / "manifest.json", "m");
  }
  EXPECT_EQ(names_below(scratch.path()), Names{});
}

TEST(StagedFolder, MergesIntoWhatIsThere) {
  const Scratch scratch;
  const auto bundle = scratch / "bundle";
  fs::create_directories(bundle / "parts/a");
  write_whole(bundle / "parts/a/weights", "old");
  write_whole(bundle / "hosts.toml", "mine");
  write_whole(bundle / "manifest.json", "old");
  {
    StagedFolder folder(bundle);
    EXPECT_EQ(folder.path().parent_path(), bundle);
    fs::create_directories(folder.path() / "parts/a");
    fs::create_directories(folder.path() / "parts/b");
    write_whole(folder.path() / "parts/a/weights", "new");
    write_whole(folder.path() / "parts/b/weights", "new");
    write_whole(folder.path() / "manifest.json", "new");
    EXPECT_EQ(read_text(bundle / "manifest.json"), "old");
    folder.commit();
  }
  EXPECT_EQ(read_text(bundle / "hosts.toml"), "mine");
  EXPECT_EQ(read_text(bundle / "parts/a/weights"), "new");
  EXPECT_EQ(read_text(bundle / "manifest.json"), "new");
  EXPECT_EQ(names_below(bundle), (Names{"hosts.toml", "manifest.json", "parts", "parts/a",
                                        "parts/a/weights", "parts/b", "parts/b/weights"}));
}

TEST(StagedFolder, MovesTheLastFileAfterAllOthers) {
  const Scratch scratch;
  const auto bundle = scratch / "bundle";
  // A folder that stands where a file must go stops the commit; "zebra" is the last by name.
  fs::create_directories(bundle / "zebra/inside");
  write_whole(bundle / "manifest.json", "old");
  {
    StagedFolder folder(bundle);
    write_whole(folder.path() / "manifest.json", "new");
    write_whole(folder.path() / "zebra", "file");
    EXPECT_EQ(message_of([&] { folder.commit(); }),
              "[" + (bundle / "zebra").string() + "] cannot write: Is a directory");
  }
  EXPECT_EQ(read_text(bundle / "manifest.json"), "old");
  EXPECT_EQ(names_below(bundle), (Names{"manifest.json", "zebra", "zebra/inside"}));
}

struct stat status_of(const fs::path& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return status;
}

TEST(StagedFolder, ChangesPlacesWithTheOldFolder) {
  const Scratch scratch;
  const auto bundle = scratch / "bundle";
  fs::create_directories(bundle / "parts/b");
  write_whole(bundle / "parts/b/weights", "kept");
  write_whole(bundle / "hosts.toml", "mine");
  write_whole(bundle / "manifest.json", "old");
  fs::create_symlink("hosts.toml", bundle / "link");
  fs::permissions(bundle, fs::perms::owner_all);
  const auto before = status_of(bundle), hosts = status_of(bundle / "hosts.toml");
  {
    StagedFolder folder(bundle);
    fs::create_directories(folder.path() / "parts/a");
    write_whole(folder.path() / "parts/a/weights", "new");
    write_whole(folder.path() / "manifest.json", "new");
    folder.commit();
    EXPECT_NE(status_of(bundle).st_ino, before.st_ino);
  }
  EXPECT_EQ(status_of(bundle).st_mode, before.st_mode);
  EXPECT_EQ(status_of(bundle / "hosts.toml").st_ino, hosts.st_ino);
  EXPECT_TRUE(fs::is_symlink(bundle / "link"));
  EXPECT_EQ(read_text(bundle / "manifest.json"), "new");
  EXPECT_EQ(read_text(bundle / "parts/b/weights"), "kept");
  EXPECT_EQ(names_below(scratch.path()),
            (Names{"bundle", "bundle/hosts.toml", "bundle/manifest.json", "bundle/parts",
                   "bundle/parts/a", "bundle/parts/a/weights", "bundle/parts/b",
                   "bundle/parts/b/weights"}));  // the link counts as what it leads to
}

/// Files "0" to "199" of one text, and the manifest.
void fill(const fs::path& folder, const std::string& text) {
  for (int i = 0; i < 200; ++i) std::ofstream(folder / std::to_string(i)) << text;
  std::ofstream(folder / "manifest.json") << text;
}

TEST(StagedFolder, AKillAtTheFirstNewFileFindsTheOthersNewToo) {
  const Scratch scratch;
  const auto bundle = scratch / "bundle";
  fs::create_directory(bundle);
  fill(bundle, "old");
  const auto first = status_of(bundle / "0").st_ino;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    StagedFolder folder(bundle);
    fill(folder.path(), "new");
    folder.commit();
    ::pause();
  }
  struct stat now {};
  while (::stat((bundle / "0").c_str(), &now) == 0 && now.st_ino == first) {
  }
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  for (const auto& name : names_below(bundle)) EXPECT_EQ(read_text(bundle / name), "new") << name;
  StagedFolder{bundle};
  EXPECT_EQ(names_below(scratch.path()).size(), 202u);  // the old folder is swept
}

TEST(StagedFolder, MergesWhereSomebodyStands) {
  const Scratch scratch;
  const auto before = fs::current_path();
  write_whole(scratch / "manifest.json", "old");
  const auto folder_before = status_of(scratch.path()).st_ino;
  fs::current_path(scratch.path());
  {
    StagedFolder folder(".");
    write_whole(folder.path() / "manifest.json", "new");
    folder.commit();
  }
  EXPECT_EQ(read_text("manifest.json"), "new");
  fs::current_path(before);
  EXPECT_EQ(status_of(scratch.path()).st_ino, folder_before);
  EXPECT_EQ(names_below(scratch.path()), Names{"manifest.json"});
}

TEST(StagedFolder, MergesBesideALivingStaging) {
  const Scratch scratch;
  write_whole(scratch / "manifest.json", "old");
  StagedFolder slow(scratch.path());
  write_whole(slow.path() / "slow", "1");
  {
    StagedFolder fast(scratch.path());
    write_whole(fast.path() / "manifest.json", "new");
    fast.commit();
  }
  slow.commit();
  EXPECT_EQ(read_text(scratch / "manifest.json"), "new");
  EXPECT_EQ(read_text(scratch / "slow"), "1");
}

TEST(StagedFolder, RefusesAFile) {
  const Scratch scratch;
  write_whole(scratch / "file", "x");
  EXPECT_EQ(message_of([&] { StagedFolder{scratch / "file"}; }),
            "[" + (scratch / "file").string() + "] cannot write: Not a directory");
  EXPECT_EQ(message_of([&] { StagedFolder{scratch / "file/deeper/bundle"}; }),
            "[" + (scratch / "file/deeper/bundle").string() + "] cannot write: Not a directory");
}

TEST(StagedFolder, SweepsWhatAKilledProcessLeft) {
  const Scratch scratch;
  for (const auto& bundle : {scratch / "bundle", scratch / "new/bundle"}) {
    fs::create_directories(scratch / "bundle");
    fs::create_directories(scratch / "new");
    in_a_killed_process([&] {
      StagedFolder folder(bundle);
      write_whole(folder.path() / "half", "x");
      ::raise(SIGKILL);
    });
    const auto before = names_below(scratch.path()).size();
    StagedFolder{bundle};
    EXPECT_EQ(names_below(scratch.path()).size(), before - 2) << bundle;
  }
}

TEST(StagedFolder, LeavesALivingStagingAlone) {
  const Scratch scratch;
  StagedFolder first(scratch / "bundle");
  StagedFolder second(scratch / "bundle");
  write_whole(first.path() / "a", "1");
  write_whole(second.path() / "b", "2");
  second.commit();
  first.commit();
  EXPECT_EQ(read_text(scratch / "bundle/a"), "1");
  EXPECT_EQ(read_text(scratch / "bundle/b"), "2");
}

TEST(FolderLock, IsHeldByOneAtATime) {
  const Scratch scratch;
  std::atomic<bool> second{false};
  std::thread other;
  {
    const FolderLock first(scratch.path());
    other = std::thread([&] {
      const FolderLock waits(scratch.path());
      second = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_FALSE(second);
  }
  other.join();
  EXPECT_TRUE(second);
  EXPECT_THROW(FolderLock(scratch / "missing"), std::runtime_error);
}

}  // namespace
}  // namespace cleave::base
