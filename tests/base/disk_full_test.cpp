// A file system of 256 kB that is really full: needs root, and the right to mount.
#include <cerrno>
#include <cstring>
#include <set>
#include <string>
#include <sys/mount.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "tests/base/scratch.hpp"

namespace cleave::base {
namespace {

using cleave::testing::message_of;
using cleave::testing::names_below;
using cleave::testing::Scratch;
using Names = std::set<std::string>;

class DiskFull : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    if (::mount("tmpfs", disk().c_str(), "tmpfs", 0, "size=256k") != 0) {
      GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) ::umount2(disk().c_str(), MNT_DETACH);
  }
  const std::filesystem::path& disk() const { return scratch_.path(); }

 private:
  Scratch scratch_;
  bool mounted_ = false;
};

TEST_F(DiskFull, LeavesTheOldFileAndNothingElse) {
  write_whole(disk() / "file", "old");
  const std::string large(1 << 20, 'x');
  EXPECT_EQ(
      message_of([&] { write_whole(disk() / "file", large); }),
      "[" + (disk() / "file").string() + "] cannot write 1048576 bytes: No space left on device");
  EXPECT_EQ(read_text(disk() / "file"), "old");
  EXPECT_EQ(names_below(disk()), Names{"file"});
}

TEST_F(DiskFull, StopsAFileWrittenPieceByPiece) {
  const std::string piece(100'000, 'x');
  {
    StagedFile file(disk() / "file");
    file.write(piece.data(), piece.size());
    file.write(piece.data(), piece.size());
    EXPECT_EQ(message_of([&] { file.write(piece.data(), piece.size()); }),
              "[" + (disk() / "file").string() +
                  "] cannot write 100000 bytes after 200000: No space left on device");
  }
  EXPECT_EQ(names_below(disk()), Names{});
}

TEST_F(DiskFull, LeavesAFolderAsItWas) {
  std::filesystem::create_directory(disk() / "bundle");
  write_whole(disk() / "bundle/manifest.json", "old");
  const auto fill = [&](const std::filesystem::path& target) {
    StagedFolder folder(target);
    write_whole(folder.path() / "small", "fits");
    write_whole(folder.path() / "weights", std::string(1 << 20, 'x'));
    folder.commit();
  };
  EXPECT_THROW(fill(disk() / "bundle"), std::runtime_error);
  EXPECT_THROW(fill(disk() / "fresh/bundle"), std::runtime_error);
  EXPECT_EQ(read_text(disk() / "bundle/manifest.json"), "old");
  EXPECT_EQ(names_below(disk()), (Names{"bundle", "bundle/manifest.json"}));
}

}  // namespace
}  // namespace cleave::base
