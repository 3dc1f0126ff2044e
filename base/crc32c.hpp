#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cleave::base {

/// CRC32C (Castagnoli's polynomial, RFC 3720) of bytes: finds every error of up to three bits in
/// 256 MB and every burst of up to 32 bits; no protection against who forges. Bytes may come in
/// pieces: crc32c(b, n, crc32c(a, m)) is that of a and b together. By the processor's instruction
/// where it has one (SSE4.2, ARMv8's CRC), which is found out once.
std::uint32_t crc32c(const void* data, std::size_t size, std::uint32_t before = 0);

/// A way to compute it.
struct Crc32cWay {
  const char* name;
  std::uint32_t (*run)(const void* data, std::size_t size, std::uint32_t before);
};
/// Those of this machine: the one that crc32c() takes first, the table last.
const std::vector<Crc32cWay>& crc32c_ways();

}  // namespace cleave::base
