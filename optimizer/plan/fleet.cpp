#include "optimizer/plan/fleet.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>

#include "base/reader.hpp"
#include "optimizer/plan/names.hpp"

namespace cleave::plan {
namespace {

constexpr std::int64_t fleet_format = 1;
constexpr std::size_t max_devices = 256;

/// Figures that a person can write down or look up.
struct Figures {
  double gflops = 0;              // fp32 matrix products of the whole device
  double memory_bytes_per_s = 0;  // as a copy loop sees it
  double overhead_s = 0;          // of one kernel
  double message_s = 0;           // of one message, at each end
  double runtime_bytes = 0;       // the process before any model
};

constexpr double default_overhead_s = 10e-6;
constexpr double default_message_s = 100e-6;
constexpr double default_runtime_bytes = 175e6;  // libtorch 1.13 on a CPU

struct Preset {
  std::string_view name;
  std::string_view machine;
  Figures figures;
};

/// Estimates, not measurements. GFLOP/s: what published fp32 matrix products (or HPL in fp64,
/// doubled) sustain, about half to two thirds of the peak; memory: published copy bandwidth; the
/// Jetsons compute on their GPU, where starting a kernel costs more and CUDA's own memory counts.
/// Profile the device where figures matter.
const std::vector<Preset>& presets() {
  static const std::vector<Preset> table = {
      {"pi4", "Raspberry Pi 4, 4x Cortex-A72 1.5 GHz (estimate)", {22, 4e9, 25e-6, 250e-6, 175e6}},
      {"pi5", "Raspberry Pi 5, 4x Cortex-A76 2.4 GHz (estimate)", {60, 9e9, 12e-6, 150e-6, 175e6}},
      {"jetson-nano",
       "Jetson Nano, 128-core Maxwell GPU (estimate)",
       {120, 18e9, 60e-6, 300e-6, 900e6}},
      {"jetson-orin-nano",
       "Jetson Orin Nano 8 GB, 1024-core Ampere GPU (estimate)",
       {700, 50e9, 30e-6, 150e-6, 1100e6}},
      {"n100",
       "Intel N100 mini PC, 4 cores up to 3.4 GHz (estimate)",
       {100, 15e9, 8e-6, 100e-6, 175e6}},
  };
  return table;
}

/// Smaller products and the exponentials run below the rate of a large matrix product.
constexpr double attention_rate = 0.5, activation_rate = 0.4;

Profile profile_of(const Figures& figures, std::string machine) {
  const auto set = [](CostModel& cost, KernelKind kind, KernelCost value) {
    cost.kernels[static_cast<std::size_t>(kind)] = value;
  };
  const double flops = figures.gflops * 1e9, bytes = figures.memory_bytes_per_s;
  const double overhead = figures.overhead_s;
  Profile profile;
  profile.machine = std::move(machine);
  profile.runtime_bytes = figures.runtime_bytes;
  set(profile.cost, KernelKind::matmul, {overhead, flops, bytes});
  set(profile.cost, KernelKind::attention, {4 * overhead, attention_rate * flops, bytes});
  set(profile.cost, KernelKind::norm, {overhead, 0, bytes});
  set(profile.cost, KernelKind::activation, {overhead, 0, activation_rate * bytes});
  set(profile.cost, KernelKind::elementwise, {overhead, 0, bytes});
  profile.cost.instruction_s = overhead;
  profile.cost.message_s = figures.message_s;
  profile.cost.message_s_per_byte = 1 / bytes;
  return profile;
}

/// `value`, which the reader has found to be no less than 0.
double above_zero(const base::Reader& reader, double value) {
  if (value > 0) return value;
  throw reader.error("saw 0, needs more than 0");
}

double rate_at(const base::Reader& reader) { return above_zero(reader, reader.bytes_per_s()); }
double bytes_at(const base::Reader& reader) {
  return above_zero(reader, static_cast<double>(reader.bytes()));
}
double seconds_or(const base::Reader& reader, const std::string& key, double fallback) {
  const auto found = reader.find(key);
  return found ? found->seconds() : fallback;
}

Profile read_figures(const base::Reader& reader) {
  reader.allow({"gflops", "memory_bandwidth", "overhead", "message", "runtime_memory"});
  Figures figures;
  const base::Reader gflops = reader.at("gflops");
  figures.gflops = above_zero(gflops, gflops.number(0, 1e9));
  figures.memory_bytes_per_s = rate_at(reader.at("memory_bandwidth"));
  figures.overhead_s = seconds_or(reader, "overhead", default_overhead_s);
  figures.message_s = seconds_or(reader, "message", default_message_s);
  const auto runtime = reader.find("runtime_memory");
  figures.runtime_bytes = runtime ? static_cast<double>(runtime->bytes()) : default_runtime_bytes;
  return profile_of(figures, "by hand");
}

Profile read_preset(const base::Reader& reader) {
  const std::string name = reader.text();
  std::string known;
  for (const Preset& preset : presets()) {
    if (preset.name == name) return profile_of(preset.figures, std::string(preset.machine));
    known += (known.empty() ? "" : ", ") + std::string(preset.name);
  }
  throw reader.error("saw " + shown(name) + ", needs one of " + known);
}

/// The file beside the fleet, the hand-written figures or the preset: exactly one of them.
Profile read_speeds(const base::Reader& device, const std::filesystem::path& folder) {
  const auto file = device.find("profile"), figures = device.find("figures"),
             preset = device.find("preset");
  const int given = int{file.has_value()} + int{figures.has_value()} + int{preset.has_value()};
  if (given != 1)
    throw device.error("saw " + std::to_string(given) +
                       " of profile, figures, preset, needs exactly one");
  if (file) return read_profile(folder / file->text());
  return figures ? read_figures(*figures) : read_preset(*preset);
}

Device read_device(const base::Reader& reader, const std::filesystem::path& folder) {
  reader.allow({"name", "address", "memory", "disk", "speed", "watts_idle", "watts_busy", "profile",
                "preset", "figures", "aggregator", "agent"});
  Device device;
  const base::Reader name = reader.at("name");
  device.name = name.text();
  if (!is_name(device.name))
    throw name.error("saw " + shown(device.name) + ", needs " + std::string(name_needs));
  device.address = reader.text("address", "");
  if (!device.address.empty() && !is_address(device.address))
    throw reader.at("address").error("saw " + shown(device.address) +
                                     ", needs \"host:port\", port 1..65535");
  device.memory_bytes = bytes_at(reader.at("memory"));
  if (const auto disk = reader.find("disk")) device.disk_bytes = static_cast<double>(disk->bytes());
  if (const auto speed = reader.find("speed"))
    device.speed = above_zero(*speed, speed->number(0, 1e6));
  device.agent = reader.boolean("agent", true);
  device.watts_idle = reader.number("watts_idle", 0, 1e6, 0);
  device.watts_busy = reader.number("watts_busy", 0, 1e6, 0);
  device.profile = read_speeds(reader, folder);
  return device;
}

Link read_link(const base::Reader& reader) {
  Link link;
  link.bytes_per_s = rate_at(reader.at("bandwidth"));
  link.latency_s = seconds_or(reader, "latency", 0);
  return link;
}

/// Reads [links] and [[link]] against the devices that are known by then.
class LinkReader {
 public:
  explicit LinkReader(Fleet& fleet) : fleet_(fleet) {}

  void read_default(const base::Reader& reader) {
    reader.allow({"bandwidth", "latency"});
    fleet_.default_link = read_link(reader);
  }

  void read_pair(const base::Reader& reader) {
    reader.allow({"from", "to", "bandwidth", "latency", "one_way"});
    const std::size_t from = device_at(reader.at("from")), to = device_at(reader.at("to"));
    if (from == to)
      throw reader.error("saw a link from " + shown(fleet_.devices[from].name) +
                         " to itself, needs two devices");
    const Link link = read_link(reader);
    add(reader, {from, to, link});
    if (!reader.boolean("one_way", false)) add(reader, {to, from, link});
  }

 private:
  std::size_t device_at(const base::Reader& reader) const {
    const std::string name = reader.text();
    if (const auto device = fleet_.find(name)) return *device;
    std::vector<std::string> known;
    for (const Device& device : fleet_.devices) known.push_back(device.name);
    const std::string near = base::nearest(name, known);
    throw reader.error("saw " + shown(name) + ", needs a device of this fleet" +
                       (near.empty() ? "" : " (did you mean " + shown(near) + "?)"));
  }

  void add(const base::Reader& reader, const Fleet::Pair& pair) {
    if (!seen_.insert({pair.from, pair.to}).second)
      throw reader.error("saw the link " + fleet_.devices[pair.from].name + " -> " +
                         fleet_.devices[pair.to].name + " again, needs each direction once");
    fleet_.pairs.push_back(pair);
  }

  Fleet& fleet_;
  std::set<std::pair<std::size_t, std::size_t>> seen_;
};

void read_devices(const base::Reader& reader, const std::filesystem::path& folder, Fleet& fleet) {
  const std::vector<base::Reader> items = reader.items();
  if (items.empty() || items.size() > max_devices)
    throw reader.error("saw " + std::to_string(items.size()) + " devices, needs 1.." +
                       std::to_string(max_devices));
  std::map<std::string, std::string> owner_of;
  for (const base::Reader& item : items) {
    Device device = read_device(item, folder);
    if (fleet.find(device.name))
      throw item.at("name").error("saw " + shown(device.name) +
                                  " again, needs another name for each device");
    if (!device.address.empty() && !owner_of.emplace(device.address, device.name).second)
      throw item.at("address").error("saw " + shown(device.address) + " again (it is " +
                                     owner_of[device.address] + "'s), needs another");
    fleet.devices.push_back(std::move(device));
  }
}

/// Where some devices say `aggregator = true` the others may not; else all may that do not refuse.
void read_aggregators(const base::Reader& reader, Fleet& fleet) {
  bool any_named = false, any_left = false;
  for (const base::Reader& item : reader.items())
    any_named = any_named || item.boolean("aggregator", false);
  for (const base::Reader& item : reader.items()) {
    const bool may = item.boolean("aggregator", !any_named);
    if (!may && !item.boolean("agent", true))
      throw item.error("saw a device that neither has a part nor aggregates, needs one of them");
    fleet.may_aggregate.push_back(may);
    any_left = any_left || may;
  }
  if (!any_left)
    throw reader.error("saw aggregator = false on every device, needs one that may aggregate");
}

/// Every pair of devices can talk, in both directions.
void check_links(const base::Reader& reader, const Fleet& fleet) {
  if (fleet.default_link.bytes_per_s > 0) return;
  for (std::size_t from = 0; from < fleet.devices.size(); ++from)
    for (std::size_t to = 0; to < fleet.devices.size(); ++to)
      if (fleet.link(from, to).bytes_per_s <= 0)
        throw reader.error("saw no link between " + fleet.devices[from].name + " and " +
                           fleet.devices[to].name + ": needs [links] or a [[link]]");
}

Fleet read(const base::Reader& reader, const std::filesystem::path& folder) {
  reader.expect_format(fleet_format);
  reader.allow({"format", "links", "link", "device"});
  Fleet fleet;
  const base::Reader devices = reader.at("device");
  read_devices(devices, folder, fleet);
  read_aggregators(devices, fleet);
  if (std::none_of(fleet.devices.begin(), fleet.devices.end(),
                   [](const Device& device) { return device.agent; }))
    throw devices.error("saw agent = false on every device, needs one that has a part");
  LinkReader links(fleet);
  if (const auto common = reader.find("links")) links.read_default(*common);
  if (const auto pairs = reader.find("link"))
    for (const base::Reader& pair : pairs->items()) links.read_pair(pair);
  check_links(reader, fleet);
  return fleet;
}

/// A product of the size that transformers are made of.
const std::vector<Kernel>& reference_work() {
  static const std::vector<Kernel> work = {{KernelKind::matmul, 256, 768, 768}};
  return work;
}

}  // namespace

double Device::seconds(const std::vector<Kernel>& kernels) const {
  return profile.cost.seconds(kernels) / speed;
}

const Link& Fleet::link(std::size_t from, std::size_t to) const {
  static const Link within_device = {std::numeric_limits<double>::infinity(), 0};
  if (from == to) return within_device;
  for (const Pair& pair : pairs)
    if (pair.from == from && pair.to == to) return pair.link;
  return default_link;
}

std::optional<std::size_t> Fleet::find(const std::string& name) const {
  for (std::size_t i = 0; i < devices.size(); ++i)
    if (devices[i].name == name) return i;
  return std::nullopt;
}

std::size_t Fleet::aggregator() const {
  std::size_t best = 0;
  double best_s = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (i < may_aggregate.size() && !may_aggregate[i]) continue;
    const double device_s = devices[i].seconds(reference_work());
    if (device_s < best_s) {
      best = i;
      best_s = device_s;
    }
  }
  return best;
}

Fleet read_fleet(const std::filesystem::path& path) {
  return read(base::Reader::toml_file(path), path.parent_path());
}

Fleet fleet_from_toml(const std::string& text, const std::string& name,
                      const std::filesystem::path& folder) {
  return read(base::Reader::toml_text(text, name), folder);
}

}  // namespace cleave::plan
