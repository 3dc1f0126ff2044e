#include "model/memory.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace cleave::model {
namespace {

constexpr std::size_t alignment = 64;

/// Aligned blocks within plain ones; the word before a block remembers where the plain one begins.
class PlainBlocks : public c10::Allocator {
 public:
  // Which of the two overrides depends on libtorch: 2.x dropped the const, and asks for copy_data.
  c10::DataPtr allocate(std::size_t size) const { return make(size); }
  c10::DataPtr allocate(std::size_t size) { return make(size); }
  void copy_data(void* target, const void* source, std::size_t size) const {
    std::memcpy(target, source, size);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }

 private:
  static c10::DataPtr make(std::size_t size) {
    void* block = size == 0 ? nullptr : aligned_block(size);
    return {block, block, &release, c10::Device(c10::kCPU)};
  }
  static void* aligned_block(std::size_t size) {
    constexpr std::size_t extra = alignment + sizeof(void*);
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max() - extra;
    void* whole = size > most ? nullptr : std::malloc(size + extra);
    TORCH_CHECK(whole != nullptr, "not enough memory: needs ", size, " bytes more");
    const auto first = reinterpret_cast<std::uintptr_t>(whole) + sizeof(void*);
    const auto aligned = (first + alignment - 1) / alignment * alignment;
    auto* block = reinterpret_cast<void**>(aligned);
    block[-1] = whole;
    return block;
  }
  static void release(void* block) {
    if (block != nullptr) std::free(static_cast<void**>(block)[-1]);
  }
};

void share_one_heap() {
#ifdef __GLIBC__
  constexpr int never = std::numeric_limits<int>::max();
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // larger blocks go back to the system at once
  mallopt(M_TRIM_THRESHOLD, never);
  mallopt(M_TOP_PAD, 64 << 10);
#endif
}

}  // namespace

void keep_memory_compact() {
  static PlainBlocks blocks;
  static std::once_flag once;
  std::call_once(once, [] {
    share_one_heap();
    constexpr std::uint8_t above_libtorchs_own = 1;
    c10::SetCPUAllocator(&blocks, above_libtorchs_own);
  });
}

void return_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace cleave::model
