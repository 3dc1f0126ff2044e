#include "net/buffer.hpp"

#include <cstring>
#include <new>

namespace cleave::net {
namespace {

// One cache line, and the widest vector register of today.
constexpr std::align_val_t alignment{64};

}  // namespace

Buffer Buffer::allocate(std::size_t size, std::byte** writable) {
  auto* data = static_cast<std::byte*>(::operator new(size == 0 ? 1 : size, alignment));
  std::shared_ptr<const void> owner(
      data, [](const void* p) { ::operator delete(const_cast<void*>(p), alignment); });
  if (writable) *writable = data;
  return Buffer(std::move(owner), data, size);
}

Buffer Buffer::copy_of(const void* data, std::size_t size) {
  std::byte* writable = nullptr;
  auto buffer = allocate(size, &writable);
  if (size > 0) std::memcpy(writable, data, size);
  return buffer;
}

}  // namespace cleave::net
