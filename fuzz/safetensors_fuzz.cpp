// The header of a safetensors file: whatever the bytes, the tensors lie inside the file or it is
// refused.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "model/config/safetensors.hpp"

namespace {

using cleave::model::TensorEntry;

void require(bool holds) {
  if (!holds) std::abort();
}

/// Shape, size and place agree; nothing overlaps.
void check(std::vector<TensorEntry> entries, std::uint64_t file_size) {
  std::sort(entries.begin(), entries.end(),
            [](const TensorEntry& a, const TensorEntry& b) { return a.offset < b.offset; });
  std::uint64_t end = 8;
  for (const TensorEntry& entry : entries) {
    std::uint64_t bytes = static_cast<std::uint64_t>(cleave::base::size_of(entry.element));
    for (const std::int64_t dim : entry.dims) {
      require(dim >= 0);
      bytes *= static_cast<std::uint64_t>(dim);
    }
    require(bytes == entry.bytes || !entry.foreign.empty());
    require(entry.offset >= end && entry.bytes <= file_size &&
            entry.offset <= file_size - entry.bytes);
    end = entry.offset + entry.bytes;
  }
}

}  // namespace

/// The first two bytes are how much longer the file is than what is here.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::uint64_t available = size - 2;
  const std::uint64_t file_size = available + data[0] + 256u * data[1];
  const std::vector<std::byte> header(reinterpret_cast<const std::byte*>(data) + 2,
                                      reinterpret_cast<const std::byte*>(data) + size);
  try {
    check(cleave::model::parse_safetensors_header(header.data(), available, file_size, "fuzz"),
          file_size);
  } catch (const std::runtime_error&) {
  }
  return 0;
}
