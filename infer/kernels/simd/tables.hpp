#pragma once

// What each target's source gives to table.cpp.

#include "infer/kernels/table.hpp"

namespace cleave::kernels {

Table table_scalar();
#if defined(__x86_64__)
Table table_sse4();
Table table_avx2();
Table table_avx512();
ProductKernels int8_avx2_vnni();
ProductKernels int8_avx512_vnni();
ProductKernels bf16_avx512_bf16();
#elif defined(__aarch64__)
Table table_neon();
ProductKernels int8_neon_dotprod();
ProductKernels int8_neon_i8mm();
ProductKernels bf16_neon_bf16();
#endif

}  // namespace cleave::kernels
