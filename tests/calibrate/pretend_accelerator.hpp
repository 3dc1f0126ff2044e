#pragma once

#include <cstdint>

#include <c10/core/Device.h>

namespace cleave::testing {

/// A GPU that is none, for machines without one: the CPU's kernels compute, but as on a GPU none of
/// its tensors may meet one of the CPU's (that throws c10::Error) or be read where it lies (its
/// address is none of this process). So what runs on it gives the CPU's results, and what forgets
/// to move a tensor fails.
///
/// Registers itself with libtorch (as PrivateUse1) where the test program links this.
at::Device pretend_accelerator();

/// Operators that it has computed so far.
std::int64_t operators_on_accelerator();

}  // namespace cleave::testing
