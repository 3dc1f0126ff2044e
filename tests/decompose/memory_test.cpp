// A teacher of 300 MB is made and cut in processes of their own: neither may need its
// size.
#include <cstdio>
#include <fstream>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "decompose/decompose.hpp"
#include "tests/decompose/teacher.hpp"

namespace cleave::decompose {
namespace {

using testing::Scratch;

/// Kilobytes: VmRSS, VmHWM … of this process; −1 where /proc does not tell.
long status_kb(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stol(line.substr(field.size() + 1));
  }
  return -1;
}

/// Starts the peak again at what is used now; false where the kernel does not allow it.
bool reset_peak() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5" << std::flush;
  return clear.good();
}

/// Megabytes that `work` needs at its peak beyond what the process had before; −1 where it failed.
double peak_mb_of(const std::function<void()>& work) {
  int channel[2];
  if (::pipe(channel) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    double megabytes = -1;
    try {
      const bool reset = reset_peak();
      const long before = status_kb(reset ? "VmRSS" : "VmHWM");
      work();
      megabytes = static_cast<double>(status_kb("VmHWM") - before) / 1024;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
    }
    const auto written = ::write(channel[1], &megabytes, sizeof megabytes);
    ::_exit(written == sizeof megabytes ? 0 : 1);
  }
  ::close(channel[1]);
  double megabytes = -1;
  if (::read(channel[0], &megabytes, sizeof megabytes) != sizeof megabytes) megabytes = -1;
  ::close(channel[0]);
  ::waitpid(child, nullptr, 0);
  return megabytes;
}

/// 81 M parameters, 323 MB; its largest tensor has 17 MB.
model::ModelConfig large_config() {
  model::ModelConfig config = preset("vit-base");
  config.width = 1024;
  config.head_width = 64;
  config.layers.assign(6, {16, 4096});
  config.classes = 4096;
  return config;
}

double largest_mb(const model::ModelConfig& config) {
  std::int64_t largest = 0;
  for (const auto& parameter : model::parameters(config))
    largest = std::max(largest, parameter.count());
  return static_cast<double>(largest) * 4 / (1 << 20);
}

/// Every other unit of everything.
KeepList half(const model::ModelConfig& config) {
  auto keep = keep_all(config);
  const auto halve = [](std::vector<std::int64_t>& list) {
    for (std::size_t i = 0; i < list.size() / 2; ++i) list[i] = list[2 * i];
    list.resize(list.size() / 2);
  };
  halve(keep.channels);
  for (auto& heads : keep.heads) halve(heads);
  for (auto& mlp : keep.mlp) halve(mlp);
  return keep;
}

TEST(Memory, OfMakingAndCuttingIsThatOfTheLargestTensor) {
  const auto config = large_config();
  const double model_mb = static_cast<double>(model::count_parameters(config)) * 4 / (1 << 20);
  const double allowed_mb = 2 * largest_mb(config) + 4;  // header, lists and buffers
  ASSERT_GT(model_mb, 8 * allowed_mb);
  const Scratch scratch;
  const auto teacher = scratch / "teacher", part = scratch / "part", whole = scratch / "whole";
  const double init_mb = peak_mb_of([&] { init(config, 1, teacher); });
  const double half_mb = peak_mb_of([&] { slice(teacher, half(config), part); });
  const double whole_mb = peak_mb_of([&] { slice(teacher, keep_all(config), whole); });
  const double norms_mb = peak_mb_of([&] { weight_importance(teacher); });
  std::printf(
      "model %.0f MB, largest tensor %.0f MB; peaks: init %.1f, half %.1f, whole %.1f, norms %.1f "
      "MB\n",
      model_mb, largest_mb(config), init_mb, half_mb, whole_mb, norms_mb);
  for (const double peak_mb : {init_mb, half_mb, whole_mb}) {
    EXPECT_GE(peak_mb, 0);
    EXPECT_LE(peak_mb, allowed_mb);
  }
  EXPECT_GE(norms_mb, 0);
  EXPECT_LE(norms_mb, allowed_mb + 32);  // and what libtorch wakes up for its first sum
}

}  // namespace
}  // namespace cleave::decompose
