#include "calibrate/accelerator.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "calibrate/environment.hpp"
#include "model/lanes.hpp"

namespace cleave::calibrate {
namespace {

/// Of one product, its result fetched.
double product_s(const at::Tensor& x) {
  const auto begin = std::chrono::steady_clock::now();
  at::linear(x, x).sum().item<double>();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Seconds of a matrix product in bf16 over those of the same in fp32 on the CPU.
double bf16_against_f32() {
  double single_s = std::numeric_limits<double>::max(), half_s = single_s;
  model::Lanes lane(1);  // as products are computed later
  lane.run(1, [&](std::int64_t) {
    const c10::NoGradGuard no_grad;
    const at::Tensor single = at::ones({256, 256}), half = single.to(at::kBFloat16);
    product_s(single);  // what only the first one costs
    product_s(half);
    for (int round = 0; round < 3; ++round) {
      single_s = std::min(single_s, product_s(single));
      half_s = std::min(half_s, product_s(half));
    }
  });
  return half_s / single_s;
}

}  // namespace

at::Device device_of(const std::string& accelerator) {
  if (accelerator == "none") return at::kCPU;
  if (accelerator != "cuda")
    throw std::invalid_argument("[accelerator] saw '" + accelerator + "', needs none or cuda");
  const std::int64_t gpus = at::hasCUDA() ? static_cast<std::int64_t>(at::getNumGPUs()) : 0;
  if (gpus == 0)
    throw std::runtime_error(
        "[accelerator] cuda: saw no GPU that this libtorch can use, needs one (and a libtorch with "
        "CUDA, which Debian's is not), or --accelerator none");
  const std::int64_t gpu =
      std::getenv("LOCAL_RANK") == nullptr ? 0 : environment_number("LOCAL_RANK", 0, gpus - 1);
  return {at::kCUDA, static_cast<c10::DeviceIndex>(gpu)};
}

model::Compute number_format(model::Compute asked, double bf16_against_f32) {
  return bf16_against_f32 > 1 ? model::Compute::f32 : asked;
}

model::Compute number_format(model::Compute asked, at::Device device, const Group& group) {
  const bool judge = asked == model::Compute::bf16 && device.is_cpu();
  const model::Compute own = judge ? number_format(asked, bf16_against_f32()) : asked;
  return group.any(own != asked) ? model::Compute::f32 : asked;
}

}  // namespace cleave::calibrate
