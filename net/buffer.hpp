#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/element.hpp"

namespace cleave::net {

/// Bytes with a shared owner. A send keeps the owner until it is written; a received buffer becomes
/// a tensor without a copy (its owner goes with it). Freeing may happen on either thread. What is
/// under a send is never written again.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<const void> owner, const std::byte* data, std::size_t size)
      : owner_(std::move(owner)), data_(data), size_(size) {}
  /// `size` bytes, 64-byte aligned, not initialised; `writable` receives where to write them.
  static Buffer allocate(std::size_t size, std::byte** writable);
  static Buffer copy_of(const void* data, std::size_t size);

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A tensor between devices and between instructions: dense, row-major.
struct Value {
  base::Element element = base::Element::f32;
  std::vector<std::int64_t> dims;
  Buffer data;
  /// False: the peer did not deliver in time; only `fuse` accepts that.
  bool present = true;

  static Value absent() {
    Value v;
    v.present = false;
    return v;
  }
  std::int64_t count() const {
    std::int64_t n = 1;
    for (auto d : dims) n *= d;
    return n;
  }
  /// Rows, which are the last axis; without dims one.
  std::int64_t rows() const {
    std::int64_t n = 1;
    for (std::size_t i = 0; i + 1 < dims.size(); ++i) n *= dims[i];
    return n;
  }
  std::int64_t bytes() const {
    return count() * base::size_of(element) + rows() * base::scale_bytes_of(element);
  }
};

}  // namespace cleave::net
