#if defined(__x86_64__)
#define CLEAVE_TARGET avx512
#define CLEAVE_HIGHWAY_TARGET HWY_AVX3
#include "infer/kernels/simd/base.hpp"

namespace cleave::kernels {

Table table_avx512() { return avx512::make_table(Target::avx512); }

}  // namespace cleave::kernels

#endif
