#include "tools/testbed/network.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <sched.h>
#include <signal.h>
#include <system_error>
#include <unistd.h>

#include "tools/print.hpp"
#include "tools/testbed/process.hpp"

namespace cleave::tools {
namespace {

/// Runs `ip` or `tc` inside a namespace.
void in_namespace(const std::string& space, std::vector<std::string> words) {
  words.insert(words.begin(), {"ip", "netns", "exec", space});
  run_program(words);
}

/// Removes what a testbed that was killed left behind: namespaces whose process is gone.
void sweep() {
  const std::filesystem::path folder = "/var/run/netns";
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (is_left_behind(name)) run_program({"ip", "netns", "del", name});
  }
}

}  // namespace

std::optional<std::string> EmulatedNetwork::unavailable() {
  if (geteuid() != 0) return "network namespaces need root";
  const std::string probe = own_name("probe");
  try {
    run_program({"ip", "netns", "add", probe});
    run_program({"ip", "netns", "del", probe});
  } catch (const std::exception& error) {
    return error.what();
  }
  return std::nullopt;
}

EmulatedNetwork::EmulatedNetwork(const plan::Fleet& fleet, double dilate) : prefix_(own_name("")) {
  if (fleet.devices.size() > 200)
    throw std::runtime_error("[testbed] saw " + std::to_string(fleet.devices.size()) +
                             " devices, needs at most 200");
  sweep();
  try {
    switch_ = prefix_ + "switch";
    run_program({"ip", "netns", "add", switch_});
    in_namespace(switch_, {"ip", "link", "add", "bridge", "type", "bridge"});
    in_namespace(switch_, {"ip", "link", "set", "bridge", "up"});
    for (std::size_t device = 0; device < fleet.devices.size(); ++device)
      add_device(device, fleet, dilate);
  } catch (...) {
    remove();
    throw;
  }
}

EmulatedNetwork::~EmulatedNetwork() { remove(); }

void EmulatedNetwork::add_device(std::size_t device, const plan::Fleet& fleet, double dilate) {
  const std::string space = prefix_ + std::to_string(device),
                    port = "port" + std::to_string(device);
  run_program({"ip", "netns", "add", space});
  namespaces_.push_back(space);
  in_namespace(switch_,
               {"ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space});
  in_namespace(switch_, {"ip", "link", "set", port, "master", "bridge", "up"});
  in_namespace(space, {"ip", "address", "add", address_of(device) + "/24", "dev", "eth0"});
  in_namespace(space, {"ip", "link", "set", "eth0", "up"});
  in_namespace(space, {"ip", "link", "set", "lo", "up"});
  const auto link = interface_link(fleet, device);
  shape(space, "eth0", link, dilate);
  shape(switch_, port, link, dilate);
}

void EmulatedNetwork::shape(const std::string& space, const std::string& interface,
                            const plan::Link& link, double dilate) {
  if (link.bytes_per_s <= 0) return;
  // A small bucket, so that a short message pays for its bytes too; `latency` is how long the queue
  // may grow, not a delay.
  const std::string rate = format("%.0fbit", 8 * link.bytes_per_s / dilate);
  in_namespace(space, {"tc", "qdisc", "add", "dev", interface, "root", "handle", "1:", "tbf",
                       "rate", rate, "burst", "10kb", "latency", "10s"});
  // Half of the one-way latency at each end of the cable.
  if (!has_latency_ || link.latency_s <= 0) return;
  try {
    in_namespace(space, {"tc", "qdisc", "add", "dev", interface, "parent", "1:1", "handle",
                         "10:", "netem", "delay", format("%.0fus", 5e5 * link.latency_s * dilate)});
  } catch (const std::runtime_error&) {
    has_latency_ = false;
  }
}

void EmulatedNetwork::remove() noexcept {
  auto all = namespaces_;
  if (!switch_.empty()) all.push_back(switch_);
  for (const auto& space : all) {
    try {
      if (std::filesystem::exists("/var/run/netns/" + space))
        run_program({"ip", "netns", "del", space});
    } catch (const std::exception&) {
      // Nothing more can be done here; the next start sweeps it.
    }
  }
  namespaces_.clear();
}

plan::Link interface_link(const plan::Fleet& fleet, std::size_t device) {
  plan::Link best;
  for (std::size_t other = 0; other < fleet.devices.size(); ++other) {
    if (other == device) continue;
    const auto& link = fleet.link(device, other);
    if (link.bytes_per_s > best.bytes_per_s) best = link;
  }
  return fleet.devices.size() == 1 ? fleet.default_link : best;
}

void enter_network_namespace(const std::string& name) {
  const int fd = open(("/var/run/netns/" + name).c_str(), O_RDONLY | O_CLOEXEC);
  const int result = fd < 0 ? -1 : setns(fd, CLONE_NEWNET);
  const int error = errno;
  if (fd >= 0) close(fd);
  if (result != 0)
    throw std::system_error(error, std::generic_category(),
                            "[testbed] cannot enter namespace " + name);
}

}  // namespace cleave::tools
