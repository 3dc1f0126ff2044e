#include "infer/kernels/table.hpp"

#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "infer/kernels/simd/tables.hpp"

namespace cleave::kernels {
namespace {

Table make(Target target) {
  Table table;
  switch (target) {
    case Target::scalar:
      table = table_scalar();
      break;
#if defined(__x86_64__)
    case Target::sse4:
      table = table_sse4();
      break;
    case Target::avx2_vnni:
      table = table_avx2();
      table.int8 = int8_avx2_vnni();
      break;
    case Target::avx2:
      table = table_avx2();
      break;
    case Target::avx512_bf16:
      table = table_avx512();
      table.int8 = int8_avx512_vnni();
      table.bf16 = bf16_avx512_bf16();
      break;
    case Target::avx512_vnni:
      table = table_avx512();
      table.int8 = int8_avx512_vnni();
      break;
    case Target::avx512:
      table = table_avx512();
      break;
#elif defined(__aarch64__)
    case Target::neon:
      table = table_neon();
      break;
    case Target::neon_dotprod:
      table = table_neon();
      table.int8 = int8_neon_dotprod();
      break;
    case Target::neon_i8mm:
      table = table_neon();
      table.int8 = int8_neon_i8mm();
      break;
    case Target::neon_bf16:
      table = table_neon();
      table.int8 = int8_neon_i8mm();
      table.bf16 = bf16_neon_bf16();
      break;
#endif
    default:
      throw std::invalid_argument("[kernels] this program has none for " +
                                  std::string(name_of(target)));
  }
  table.target = target;
  return table;
}

}  // namespace

const Table& table_of(Target target) {
  // Every target that this program can have kernels for, made when first asked for.
  switch (target) {
#define CLEAVE_TABLE(name)                         \
  case Target::name: {                             \
    static const Table table = make(Target::name); \
    return table;                                  \
  }
    CLEAVE_TABLE(scalar)
    CLEAVE_TABLE(sse4)
    CLEAVE_TABLE(avx2)
    CLEAVE_TABLE(avx2_vnni)
    CLEAVE_TABLE(avx512)
    CLEAVE_TABLE(avx512_vnni)
    CLEAVE_TABLE(avx512_bf16)
    CLEAVE_TABLE(neon)
    CLEAVE_TABLE(neon_dotprod)
    CLEAVE_TABLE(neon_i8mm)
    CLEAVE_TABLE(neon_bf16)
#undef CLEAVE_TABLE
  }
  throw std::invalid_argument("[kernels] no such target");
}

const Table& chosen_table() {
  static const Table& table = [&]() -> const Table& {
    const char* wanted = std::getenv("CLEAVE_CPU");
    return table_of(choose_target(wanted ? wanted : "", features()));
  }();
  return table;
}

}  // namespace cleave::kernels
