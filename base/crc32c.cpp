#include "base/crc32c.hpp"

#include <array>
#include <cstring>

// The instruction is compiled in whatever the target of the build is, and used where it is there.
#if defined(__x86_64__)
#include <nmmintrin.h>
#define CLEAVE_CRC32C_TARGET __attribute__((target("sse4.2")))
#elif defined(__aarch64__) && defined(__linux__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <asm/hwcap.h>
#include <sys/auxv.h>
// Clang's <arm_acle.h> has them only where the whole build's target does.
#if defined(__clang__)
#define CLEAVE_CRC32C_TARGET __attribute__((target("crc")))
#define CLEAVE_CRC32C_ADD8 __builtin_arm_crc32cd
#define CLEAVE_CRC32C_ADD1 __builtin_arm_crc32cb
#else
#define CLEAVE_CRC32C_TARGET __attribute__((target("+crc")))
#define CLEAVE_CRC32C_ADD8 __builtin_aarch64_crc32cx
#define CLEAVE_CRC32C_ADD1 __builtin_aarch64_crc32cb
#endif
#endif

namespace cleave::base {
namespace {

constexpr std::uint32_t polynomial = 0x82f63b78;  // bits reversed

constexpr std::uint32_t times_x(std::uint32_t a) {
  return (a & 1) != 0 ? (a >> 1) ^ polynomial : a >> 1;
}

/// [k][byte]: the byte with k bytes of zeros behind it.
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = times_x(crc);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t crc = tables[k - 1][byte];
      tables[k][byte] = (crc >> 8) ^ tables[0][crc & 255];
    }
  return tables;
}
constexpr Tables tables = make_tables();

/// Eight bytes a step ("slicing by 8", Kounavis and Berry); byte by byte, so that the machine's
/// order does not matter.
std::uint32_t by_table(const void* data, std::size_t size, std::uint32_t before) {
  const auto* next = static_cast<const unsigned char*>(data);
  std::uint32_t crc = ~before;
  for (; size >= 8; size -= 8, next += 8) {
    crc = tables[7][(crc ^ next[0]) & 255] ^ tables[6][((crc >> 8) ^ next[1]) & 255] ^
          tables[5][((crc >> 16) ^ next[2]) & 255] ^ tables[4][(crc >> 24) ^ next[3]] ^
          tables[3][next[4]] ^ tables[2][next[5]] ^ tables[1][next[6]] ^ tables[0][next[7]];
  }
  for (; size > 0; --size, ++next) crc = (crc >> 8) ^ tables[0][(crc ^ *next) & 255];
  return ~crc;
}

#if defined(CLEAVE_CRC32C_TARGET)

/// Product of two polynomials modulo ours; the highest bit is x^0.
constexpr std::uint32_t product(std::uint32_t a, std::uint32_t b) {
  std::uint32_t sum = 0;
  for (std::uint32_t bit = 0x80000000; bit != 0; bit >>= 1, b = times_x(b))
    if ((a & bit) != 0) sum ^= b;
  return sum;
}

/// What a number of zero bytes behind it makes of a remainder, looked up byte by byte.
using Shift = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr Shift make_shift(std::size_t bytes) {
  std::uint32_t power = 0x80000000;
  for (std::uint32_t square = 0x00800000; bytes > 0; bytes >>= 1, square = product(square, square))
    if ((bytes & 1) != 0) power = product(power, square);
  Shift shift{};
  for (std::uint32_t k = 0; k < 4; ++k)
    for (std::uint32_t byte = 0; byte < 256; ++byte) shift[k][byte] = product(power, byte << 8 * k);
  return shift;
}

std::uint32_t shifted(const Shift& by, std::uint64_t crc) {
  return by[0][crc & 255] ^ by[1][(crc >> 8) & 255] ^ by[2][(crc >> 16) & 255] ^
         by[3][(crc >> 24) & 255];
}

constexpr std::size_t long_run = 4096, short_run = 256;
constexpr Shift over_long_run = make_shift(long_run), over_short_run = make_shift(short_run);

#if defined(__x86_64__)
using Register = std::uint64_t;  // the instruction's own: no extension between two of them
CLEAVE_CRC32C_TARGET inline Register add8(Register crc, const unsigned char* from) {
  std::uint64_t word = 0;
  std::memcpy(&word, from, sizeof word);
  return _mm_crc32_u64(crc, word);
}
CLEAVE_CRC32C_TARGET inline Register add1(Register crc, unsigned char byte) {
  return _mm_crc32_u8(static_cast<std::uint32_t>(crc), byte);
}
bool has_instruction() { return __builtin_cpu_supports("sse4.2") != 0; }
constexpr char instruction[] = "sse4.2";
#else
using Register = std::uint32_t;
CLEAVE_CRC32C_TARGET inline Register add8(Register crc, const unsigned char* from) {
  std::uint64_t word = 0;
  std::memcpy(&word, from, sizeof word);
  return CLEAVE_CRC32C_ADD8(crc, word);
}
CLEAVE_CRC32C_TARGET inline Register add1(Register crc, unsigned char byte) {
  return CLEAVE_CRC32C_ADD1(crc, byte);
}
bool has_instruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
constexpr char instruction[] = "armv8 crc";
#endif

/// Three runs of the bytes side by side: an instruction takes three cycles to end and one to begin.
CLEAVE_CRC32C_TARGET std::uint32_t three_runs(const unsigned char* next, std::size_t run,
                                              const Shift& over_run, Register crc) {
  Register second = 0, third = 0;
  for (std::size_t i = 0; i < run; i += 8) {
    crc = add8(crc, next + i);
    second = add8(second, next + run + i);
    third = add8(third, next + 2 * run + i);
  }
  const std::uint32_t both = shifted(over_run, crc) ^ static_cast<std::uint32_t>(second);
  return shifted(over_run, both) ^ static_cast<std::uint32_t>(third);
}

CLEAVE_CRC32C_TARGET std::uint32_t by_instruction(const void* data, std::size_t size,
                                                  std::uint32_t before) {
  const auto* next = static_cast<const unsigned char*>(data);
  Register crc = ~before;
  for (; size > 0 && reinterpret_cast<std::uintptr_t>(next) % 8 != 0; --size, ++next)
    crc = add1(crc, *next);
  for (; size >= 3 * long_run; size -= 3 * long_run, next += 3 * long_run)
    crc = three_runs(next, long_run, over_long_run, crc);
  for (; size >= 3 * short_run; size -= 3 * short_run, next += 3 * short_run)
    crc = three_runs(next, short_run, over_short_run, crc);
  for (; size >= 8; size -= 8, next += 8) crc = add8(crc, next);
  for (; size > 0; --size, ++next) crc = add1(crc, *next);
  return ~static_cast<std::uint32_t>(crc);
}

#endif

std::vector<Crc32cWay> ways_of_machine() {
  std::vector<Crc32cWay> ways;
#if defined(CLEAVE_CRC32C_TARGET)
  if (has_instruction()) ways.push_back({instruction, by_instruction});
#endif
  ways.push_back({"table", by_table});
  return ways;
}

}  // namespace

const std::vector<Crc32cWay>& crc32c_ways() {
  static const std::vector<Crc32cWay> ways = ways_of_machine();
  return ways;
}

std::uint32_t crc32c(const void* data, std::size_t size, std::uint32_t before) {
  static const auto run = crc32c_ways().front().run;
  return run(data, size, before);
}

}  // namespace cleave::base
