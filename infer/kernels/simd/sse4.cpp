#if defined(__x86_64__)
#define CLEAVE_TARGET sse4
#define CLEAVE_HIGHWAY_TARGET HWY_SSE4
#include "infer/kernels/simd/base.hpp"

namespace cleave::kernels {

Table table_sse4() { return sse4::make_table(Target::sse4); }

}  // namespace cleave::kernels

#endif
