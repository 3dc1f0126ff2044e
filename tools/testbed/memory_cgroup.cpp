#include "tools/testbed/memory_cgroup.hpp"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "tools/testbed/process.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;

bool write_number(const fs::path& file, double number) {
  std::ofstream out(file);
  out << std::llround(number) << std::flush;
  return out.good();
}

/// Groups of testbeds that are gone; a group with members stays.
void sweep(const fs::path& root) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(root, ignored)) {
    const std::string name = entry.path().filename().string();
    if (is_left_behind(name)) rmdir(entry.path().c_str());
  }
}

}  // namespace

std::unique_ptr<MemoryCgroup> MemoryCgroup::make(const std::string& device, double limit_bytes) {
  const std::pair<fs::path, const char*> versions[] = {
      {"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}};
  for (const auto& [root, limit] : versions) {
    const fs::path path = root / own_name(device);
    if (geteuid() != 0 || mkdir(path.c_str(), 0755) != 0) continue;
    std::unique_ptr<MemoryCgroup> group(new MemoryCgroup(path));
    sweep(root);
    if (fs::exists(path / limit) && write_number(path / limit, limit_bytes)) return group;
  }
  return nullptr;
}

MemoryCgroup::~MemoryCgroup() {
  // Its last member's end may take a moment to arrive here.
  for (int i = 0; i < 250 && rmdir(path_.c_str()) != 0 && errno == EBUSY; ++i) usleep(20000);
}

}  // namespace cleave::tools
