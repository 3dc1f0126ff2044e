#define CLEAVE_TARGET scalar
#define CLEAVE_HIGHWAY_TARGET HWY_SCALAR
#include "infer/kernels/simd/base.hpp"

namespace cleave::kernels {

Table table_scalar() { return scalar::make_table(Target::scalar); }

}  // namespace cleave::kernels
