#pragma once

#include <optional>
#include <string>
#include <vector>

#include "optimizer/plan/fleet.hpp"

namespace cleave::tools {

/// A network namespace for each device, joined by a bridge that lives in one more; `tc … tbf` gives
/// each interface the rate of the device's link, `netem` its latency where the kernel has it.
/// Everything is named after this process and removed when the value goes; what a killed testbed
/// left behind is swept at the next start.
class EmulatedNetwork {
 public:
  /// Why there can be none here ("needs root"), or nothing.
  static std::optional<std::string> unavailable();
  /// `dilate` slows every link by this factor. Throws std::runtime_error (and removes what was
  /// made).
  EmulatedNetwork(const plan::Fleet& fleet, double dilate);
  ~EmulatedNetwork();
  EmulatedNetwork(const EmulatedNetwork&) = delete;
  EmulatedNetwork& operator=(const EmulatedNetwork&) = delete;

  const std::string& namespace_of(std::size_t device) const { return namespaces_.at(device); }
  /// "10.77.0.2": where the device's agent listens.
  static std::string address_of(std::size_t device) {
    return "10.77.0." + std::to_string(device + 2);
  }
  /// False: netem is missing, links have a rate but no latency of their own.
  bool has_latency() const { return has_latency_; }

 private:
  void add_device(std::size_t device, const plan::Fleet& fleet, double dilate);
  void shape(const std::string& space, const std::string& interface, const plan::Link& link,
             double dilate);
  void remove() noexcept;
  std::string prefix_, switch_;
  std::vector<std::string> namespaces_;
  bool has_latency_ = true;
};

/// A device has one network interface: it is as fast as the fastest of its links.
plan::Link interface_link(const plan::Fleet& fleet, std::size_t device);

/// Moves the calling thread (and threads it starts later) into a network namespace. Throws
/// std::system_error.
void enter_network_namespace(const std::string& name);

}  // namespace cleave::tools
