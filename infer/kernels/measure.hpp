#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "infer/kernels/table.hpp"

namespace cleave::kernels {

/// What the machine can at most, measured on registers and on memory that no cache holds.
struct Limits {
  double f32_flops_s = 0, bf16_flops_s = 0, int8_flops_s = 0;  // one thread
  double read_bytes_s = 0;

  double flops_s(Format format) const {
    return format == Format::f32    ? f32_flops_s
           : format == Format::bf16 ? bf16_flops_s
                                    : int8_flops_s;
  }
};

/// A kernel at one shape on one thread, beside what limits it there: arithmetic or memory,
/// whichever would take longer.
struct MeasuredKernel {
  std::string kernel, shape;
  Format format = Format::f32;       // of weights, keys and values
  Format computed_in = Format::f32;  // whose arithmetic is the limit
  double flops = 0, bytes = 0;       // what it computes, and what it reads at least
  std::vector<double> seconds;       // of each round
  std::vector<double> shares;        // of the limit, as it was in the same round
};

struct KernelReport {
  Target target = Target::scalar;
  Limits limits;  // medians
  std::vector<MeasuredKernel> kernels;
};

/// Measures every kernel at the shapes of ViT-B, BERT-base and GPT-2, in each format, `rounds`
/// times in turn with the limits. Called with how many are done of how many; false stops: what has
/// no round yet is left out. Takes 1 GB of memory.
KernelReport measure_kernels(const Table& table, int rounds,
                             const std::function<bool(std::int64_t, std::int64_t)>& progress = {});

/// "f32", "bf16", "int8".
const char* name_of(Format format);

}  // namespace cleave::kernels
