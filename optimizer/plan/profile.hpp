#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "optimizer/plan/work.hpp"

namespace cleave::plan {

/// seconds = overhead_s + flops / flops_per_s + bytes / bytes_per_s for one kind of kernel. A rate
/// of 0 means "no such term".
struct KernelCost {
  double overhead_s = 0;
  double flops_per_s = 0;
  double bytes_per_s = 0;
};

/// What a device's computing costs, fitted from samples (optimizer/predict.hpp) or written by hand.
struct CostModel {
  std::array<KernelCost, num_kernel_kinds> kernels;
  /// Fixed cost of one computing instruction beside its kernels: dispatch, wake-up, and the first
  /// touch of code and data that others drove out of the caches since the last request.
  double instruction_s = 0;
  /// More of that where the device had been idle for longer (some 20 ms), so that its core has to
  /// wake: the first computing of a request on an agent.
  double wake_s = 0;
  /// Fixed cost of a message on this device (system calls, wake-ups), at each end.
  double message_s = 0;
  /// Seconds a byte to hand it to the network or take it (copy in the kernel).
  double message_s_per_byte = 0;

  double seconds(const Kernel& kernel) const;
  double seconds(const std::vector<Kernel>& kernels) const;
};

struct Sample {
  Kernel kernel;
  double seconds = 0;
  bool held_out = false;  // not used by the fit; the error is reported on these
};

/// Measured or hand-written figures of one device. Goals: readable by a person, one JSON file.
/// Format version 1.
struct Profile {
  std::string machine;  // CPU model, cores, BLAS and kernel family, threads used
  std::vector<Sample> samples;
  CostModel cost;
  /// Memory of the process before any model: libtorch's own, VmHWM after start and one warm
  /// product. Bytes.
  double runtime_bytes = 0;
  /// Relative error on held-out samples.
  double median_error = 0, p90_error = 0;
};

/// Throws std::runtime_error with file and field.
Profile read_profile(const std::filesystem::path& path);
/// The same from a text; `name` stands for the file in messages.
Profile profile_from_json(const std::string& text, const std::string& name);
/// Whole or not at all.
void write_profile(const Profile& profile, const std::filesystem::path& path);
nlohmann::json to_json(const Profile& profile);

}  // namespace cleave::plan
