#if defined(__aarch64__)
#define CLEAVE_TARGET neon
#define CLEAVE_HIGHWAY_TARGET HWY_NEON
#include "infer/kernels/simd/base.hpp"

namespace cleave::kernels {

Table table_neon() { return neon::make_table(Target::neon); }

}  // namespace cleave::kernels

#endif
