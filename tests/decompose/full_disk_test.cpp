// A bundle written to a file system that is really full: needs root, and the right to mount.
#include <cerrno>
#include <cstring>
#include <sys/mount.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/file.hpp"
#include "decompose/decompose.hpp"
#include "tests/decompose/planning.hpp"

namespace cleave::decompose {
namespace {

using testing::message_of;
using testing::names_below;
using testing::Scratch;
using testing::tiny_config;

/// 128 kB: room for a bundle of the tiny teacher, not for one of a wider.
class FullDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    std::filesystem::create_directories(disk());
    if (::mount("tmpfs", disk().c_str(), "tmpfs", 0, "size=128k") != 0) {
      GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) ::umount2(disk().c_str(), MNT_DETACH);
  }
  std::filesystem::path disk() const { return scratch_ / "disk"; }

  void cut(const model::ModelConfig& config, const std::vector<std::string>& devices) const {
    const auto teacher = scratch_ / "teacher";
    init(config, 7, teacher);
    auto marked = config;
    marked.random_weights = true;
    decompose(teacher, {testing::whole_plan(marked, devices)}, weight_importance(teacher),
              disk() / "bundle");
  }

  static model::ModelConfig wide_config() {
    auto config = tiny_config();
    config.layers[0].mlp_width = 4000;
    return config;
  }

 private:
  Scratch scratch_;
  bool mounted_ = false;
};

TEST_F(FullDisk, LeavesNoBundle) {
  const auto message = message_of([&] { cut(wide_config(), {"hub"}); });
  EXPECT_NE(message.find("parts/default"), std::string::npos) << message;
  EXPECT_NE(message.find("No space left on device"), std::string::npos) << message;
  EXPECT_TRUE(names_below(disk()).empty());
}

TEST_F(FullDisk, LeavesTheOldBundleAsItWas) {
  cut(tiny_config(), {"hub"});
  const auto before = names_below(disk());
  const auto identity = plan::Bundle(disk() / "bundle").identity();
  EXPECT_NE(message_of([&] { cut(wide_config(), {"hub"}); }), "");
  EXPECT_EQ(names_below(disk()), before);
  EXPECT_EQ(plan::Bundle(disk() / "bundle").identity(), identity);
  EXPECT_NO_THROW(plan::Bundle(disk() / "bundle").verify(""));
}

}  // namespace
}  // namespace cleave::decompose
