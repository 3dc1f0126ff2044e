#pragma once

#include <string>

#include <c10/core/Device.h>

#include "calibrate/group.hpp"
#include "model/config/config.hpp"

namespace cleave::calibrate {

/// What training computes on where `accelerator` is asked for: "none" is the CPU; "cuda" a GPU
/// through CUDA, which of them LOCAL_RANK (torchrun's) says, else the first. Throws
/// std::runtime_error where this libtorch can use no GPU, std::invalid_argument where LOCAL_RANK or
/// the name is not one of those.
///
/// On an accelerator a batch is cut into the same pieces as on the CPU and draws the same random
/// numbers, so that it learns the same up to rounding; a run that resumes is not the same to the
/// byte.
at::Device device_of(const std::string& accelerator);

/// What to compute in where a recipe names `asked`: bf16 unless the CPU of some process of the
/// group takes longer for products in bf16 than in fp32, as one without instructions for it does.
/// That is measured, in a fifth of a second; an accelerator is taken at its word. A collective
/// call.
model::Compute number_format(model::Compute asked, at::Device device, const Group& group);
/// The same where `bf16_against_f32` was measured: seconds over seconds.
model::Compute number_format(model::Compute asked, double bf16_against_f32);

}  // namespace cleave::calibrate
