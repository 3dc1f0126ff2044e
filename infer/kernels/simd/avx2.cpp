#if defined(__x86_64__)
#define CLEAVE_TARGET avx2
#define CLEAVE_HIGHWAY_TARGET HWY_AVX2
#include "infer/kernels/simd/base.hpp"

namespace cleave::kernels {

Table table_avx2() { return avx2::make_table(Target::avx2); }

}  // namespace cleave::kernels

#endif
