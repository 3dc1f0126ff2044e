#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "model/memory.hpp"

namespace cleave::model {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

bool is_aligned(const at::Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 64 == 0;
}

TEST(Memory, GivesAlignedTensors) {
  keep_memory_compact();
  std::vector<at::Tensor> alive;
  for (const std::int64_t size : {1, 7, 16, 1000, 100003, 3000017}) {
    alive.push_back(at::ones({size}));
    EXPECT_TRUE(is_aligned(alive.back())) << size;
    EXPECT_EQ(alive.back().sum().item<float>(), static_cast<float>(size));
  }
  EXPECT_EQ(at::empty({0}).numel(), 0);
}

TEST(Memory, MayBeAskedForTwiceAndLate) {
  const at::Tensor before = at::ones({1000});
  keep_memory_compact();
  keep_memory_compact();
  EXPECT_EQ((before + at::ones({1000})).sum().item<float>(), 2000);
}

// What glibc's aligned blocks do not do before 2.38.
TEST(Memory, GivesAFreedBlockOutAgain) {
  if (sanitized) GTEST_SKIP() << "AddressSanitizer keeps freed blocks back";
  keep_memory_compact();
  at::Tensor first = at::ones({300000});
  const void* place = first.data_ptr();
  const at::Tensor after = at::ones({300000});  // so that the freed block cannot grow
  first = at::Tensor();
  const at::Tensor second = at::ones({300000});
  EXPECT_EQ(second.data_ptr(), place);
}

TEST(Memory, LendsRawBlocks) {
  keep_memory_compact();
  c10::Allocator* allocator = c10::GetCPUAllocator();
  void* block = allocator->raw_allocate(100);
  ASSERT_NE(block, nullptr);
  allocator->raw_deallocate(block);
}

TEST(Memory, SaysWhatIsMissing) {
  if (sanitized) GTEST_SKIP() << "AddressSanitizer ends the process";
  keep_memory_compact();
  for (const std::size_t size : {std::numeric_limits<std::size_t>::max(), std::size_t{1} << 62}) {
    try {
      c10::GetCPUAllocator()->allocate(size);
      FAIL();
    } catch (const c10::Error& error) {
      EXPECT_EQ(std::string(error.what_without_backtrace()),
                "not enough memory: needs " + std::to_string(size) + " bytes more");
    }
  }
}

}  // namespace
}  // namespace cleave::model
