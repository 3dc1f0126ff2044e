#pragma once

#include <vector>

#include "optimizer/plan/program.hpp"
#include "optimizer/plan/work.hpp"

namespace cleave::plan {

/// Compute of one instruction (send and receive have none).
std::vector<Kernel> kernels_of(const Instruction& instruction, const Program& program,
                               const Plan& plan);
/// Floating-point operations of all its instructions. `past`: of a text, tokens before this
/// request.
double flops_of(const Program& program, const Plan& plan, std::int64_t past);
/// The most bytes of the program's values that are alive at once, and those that are being sent:
/// the largest for each link.
double values_bytes(const Program& program);
/// The most bytes on the rank beside its weights while it runs the program: the values that are
/// alive or being sent and what an instruction allocates, and where texts are generated the cache.
double running_bytes(const Program& program, const Plan& plan);
/// Keys and values that the rank keeps of B texts of `tokens` tokens, fp32.
double cache_bytes(const Program& program, const Plan& plan, std::int64_t batch,
                   std::int64_t tokens);
/// The peak beside the weights: running_bytes, or what loading the weights takes for a moment where
/// that is more.
double working_bytes(const Program& program, const Plan& plan);
/// What reading a bundle and serving it takes beside the model (measured).
constexpr double serving_bytes = 1.5e6;
/// The weights that the rank's program reads, and of a text that is generated its prompt's too;
/// fp32.
double weight_bytes(const Program& program, const Plan& plan);
/// What the rank holds while it waits: weights (the part's, or the fusion head's) and
/// serving_bytes.
double resident_bytes(const Program& program, const Plan& plan);

}  // namespace cleave::plan
