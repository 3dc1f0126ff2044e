#pragma once

#include <string>

namespace cleave::infer {

/// VmHWM of this process: the most memory it ever held at once, bytes. 0 where /proc does not say.
double peak_memory_bytes();
/// The same since the last call of reset_recent_peak(), or at all where the system cannot reset it.
double recent_peak_bytes();
/// peak_memory_bytes() stays what it was; what others read of this process under /proc does not.
void reset_recent_peak();
/// VmRSS: what it holds now, bytes.
double resident_memory_bytes();
/// Gives the system what was freed and the allocator kept. Takes milliseconds where that is much;
/// does nothing where the C library cannot.
void give_back_memory();

/// The BLAS that matrix products run on.
struct BlasInfo {
  /// "OpenBLAS 0.3.21 SkylakeX": library and kernel family.
  std::string name;
  /// What makes it slow and what helps, or empty.
  std::string warning;
};
BlasInfo blas_info();

/// Call first in main. A CPU that is newer than OpenBLAS gets kernels from before AVX2, 2.5 times
/// slower: then the program starts itself anew with OPENBLAS_CORETYPE set to what this CPU can run.
/// Returns where there is nothing to mend, or it cannot be mended.
void take_best_blas_kernels(char** argv);

/// "AMD EPYC, 2 cores, OpenBLAS 0.3.21 SkylakeX": for profiles and reports.
std::string machine_name();

}  // namespace cleave::infer
