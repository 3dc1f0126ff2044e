// The emulated edge testbed: a fleet on one machine, each device honest about being slow.
//
// Every agent and every aggregator is a process of its own, paced to its device's speed, whose
// streams behave as behind its device's link; with --namespaces the kernel shapes the links
// instead, between network namespaces. The bundle and, with
// --original, the whole model on the fastest device are asked in turn, in one run; both sides start
// and end at the aggregator.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <time.h>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "decompose/decompose.hpp"
#include "infer/client.hpp"
#include "infer/engine.hpp"
#include "infer/machine.hpp"
#include "infer/paced.hpp"
#include "model/config/hugging_face.hpp"
#include "optimizer/plan/cost.hpp"
#include "optimizer/plan/fleet.hpp"
#include "optimizer/pricer.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/output.hpp"
#include "tools/commands/serving.hpp"
#include "tools/commands/side_by_side.hpp"
#include "tools/commands/statistics.hpp"
#include "tools/commands/workload.hpp"
#include "tools/link_file.hpp"
#include "tools/print.hpp"
#include "tools/signals.hpp"
#include "tools/testbed/memory_cgroup.hpp"
#include "tools/testbed/network.hpp"
#include "tools/testbed/process.hpp"

namespace cleave::tools {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

/// A folder that goes when the value goes.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (fs::temp_directory_path() / "cleave-testbed-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr)
      throw std::system_error(errno, std::generic_category(), "[testbed] " + pattern);
    path_ = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// The devices, where they run, and how slow they are made.
struct Ground {
  plan::Fleet fleet;
  double dilate = 1;
  std::unique_ptr<EmulatedNetwork> network;  // null: no namespaces
  std::vector<std::string> links;            // files by device; none: loopback as it is
  fs::path programs;                         // folder of cleave, cleave-agent and this program
  fs::path logs;

  std::string namespace_of(std::size_t device) const {
    return network ? network->namespace_of(device) : std::string();
  }
  std::string host_of(std::size_t device) const {
    if (network) return EmulatedNetwork::address_of(device);
    // An address of its own says which device a stream leads to.
    return links.empty() ? "127.0.0.1" : "127.0.77." + std::to_string(device + 2);
  }
  /// Devices of their own do not slow each other down: here they compute one at a time.
  std::string turns() const { return (logs / "turns").string(); }
  double share_of(std::size_t device) const { return fleet.devices[device].speed / dilate; }
  std::size_t index_of(const std::string& name) const {
    const auto found = fleet.find(name);
    if (!found)
      throw std::runtime_error("[fleet] the plan's device '" + name + "' is not in the fleet");
    return *found;
  }
};

/// One bundle that runs: its agents, its aggregator, and a connection to it.
struct System {
  std::string what;
  bool limited = true;  // to what its devices give; the original is not
  std::vector<plan::Plan> plans;
  std::vector<std::unique_ptr<MemoryCgroup>> cgroups;  // outlive the processes in them
  std::map<std::string, Process> agents;
  std::unique_ptr<Process> server;
  std::map<std::string, double> runtime_bytes;  // of each process, before its model
  std::unique_ptr<infer::Client> client;

  std::string plan_names() const {
    std::vector<std::string> names;
    for (const plan::Plan& plan : plans) names.push_back(plan.name);
    return base::joined(names, ",");
  }
  const std::string& aggregator() const { return plans.front().aggregator; }
};

Process start_agent(System& system, const Ground& ground, const fs::path& bundle,
                    const std::string& device) {
  const auto index = ground.index_of(device);
  Process::Options options;
  options.own_settings = false;
  options.words = {(ground.programs / "cleave-agent").string(),
                   bundle.string(),
                   "--device",
                   device,
                   "--plan",
                   system.plan_names(),
                   "--listen",
                   ground.host_of(index) + ":0",
                   "--pace",
                   format("%.9g", ground.share_of(index)),
                   "--pace-turns",
                   ground.turns(),
                   "--format",
                   "json"};
  if (ground.network) options.words.emplace_back("--insecure");
  if (!ground.links.empty())
    options.words.insert(options.words.end(), {"--link", ground.links.at(index)});
  if (system.limited) {
    const double memory = ground.fleet.devices[index].memory_bytes;
    options.words.insert(options.words.end(), {"--memory", format("%.0f B", memory)});
    system.cgroups.push_back(MemoryCgroup::make(device, memory));
    if (system.cgroups.back()) options.cgroup = system.cgroups.back()->members();
  } else {
    options.words.insert(options.words.end(), {"--memory", "0 B"});
  }
  options.network_namespace = ground.namespace_of(index);
  options.log = ground.logs / (system.what + "-" + device + ".log");
  return Process(options);
}

/// The address that a program announces once it listens; what its runtime takes is kept.
std::string announced_address(System& system, const std::string& name, Process& process) {
  const auto said = nlohmann::json::parse(process.read_line(std::chrono::seconds(60)));
  system.runtime_bytes[name] = said.at("runtime_bytes");
  return said.at("address");
}

/// `plans`: names, of the default one where there is none.
void start(System& system, const Ground& ground, const fs::path& bundle,
           const std::vector<std::string>& plans = {""}) {
  for (const std::string& name : plans) system.plans.push_back(plan::Bundle(bundle).plan(name));
  for (const plan::Plan& plan : system.plans)
    for (const auto& part : plan.parts)
      if (system.agents.count(part.device) == 0)
        system.agents.emplace(part.device, start_agent(system, ground, bundle, part.device));
  std::map<std::string, std::string> hosts;
  for (auto& [device, process] : system.agents)
    hosts[device] = announced_address(system, device, process);
  const fs::path hosts_file = ground.logs / (system.what + "-hosts.toml");
  plan::write_hosts(hosts, hosts_file);

  const auto aggregator = ground.index_of(system.aggregator());
  Process::Options options;
  options.own_settings = false;
  options.words = {(ground.programs / "cleave").string(),
                   "serve",
                   bundle.string(),
                   "--plan",
                   system.plan_names(),
                   "--hosts",
                   hosts_file.string(),
                   "--listen",
                   (ground.network ? "127.0.0.1" : ground.host_of(aggregator)) + ":0",
                   "--pace",
                   format("%.9g", ground.share_of(aggregator)),
                   "--pace-turns",
                   ground.turns(),
                   "--format",
                   "json"};
  if (!ground.links.empty())
    options.words.insert(options.words.end(), {"--link", ground.links.at(aggregator)});
  options.network_namespace = ground.namespace_of(aggregator);
  options.log = ground.logs / (system.what + "-aggregator.log");
  system.server = std::make_unique<Process>(options);
  const std::string address =
      announced_address(system, plan::aggregator_process(system.aggregator()), *system.server);
  if (ground.network) enter_network_namespace(ground.namespace_of(aggregator));
  system.client = std::make_unique<infer::Client>(address);
  for (int i = 0; i < 200; ++i) {
    const auto agents = system.client->status().agents;
    if (std::all_of(agents.begin(), agents.end(),
                    [](const auto& agent) { return agent.connected; }))
      return;
    std::this_thread::sleep_for(milliseconds(50));
  }
  throw std::runtime_error("[testbed] not every agent of the " + system.what +
                           " was joined within 10 s");
}

/// The whole model on a device, which also aggregates, as it is predicted.
plan::Plan whole_on(const Ground& ground, const model::ModelConfig& config,
                    const plan::RequestShape& shape, const std::string& device) {
  plan::Plan plan = plan::whole_plan(config, device);
  plan.shape = shape;
  optimizer::predict(plan, ground.fleet);
  return plan;
}

const std::string& fastest_device(const Ground& ground) {
  return ground.fleet.devices[ground.fleet.aggregator()].name;
}

/// The device that is predicted to answer first of those that have room for the whole model; empty
/// where none has.
std::string best_device_with_room(const Ground& ground, const model::ModelConfig& config,
                                  const plan::RequestShape& shape) {
  std::string best;
  double soonest_s = 0;
  for (const plan::Device& device : ground.fleet.devices) {
    if (!device.agent) continue;
    const plan::Plan plan = whole_on(ground, config, shape, device.name);
    const plan::DevicePrediction needs = plan.prediction.of(device.name);
    if (needs.runtime_bytes + needs.model_bytes > device.memory_bytes) continue;
    if (!best.empty() && plan.prediction.latency_s >= soonest_s) continue;
    best = device.name;
    soonest_s = plan.prediction.latency_s;
  }
  return best;
}

/// No way to divide the work is faster: all floating-point operations, at the speeds of all devices
/// that have room for any weights together, and nothing to send. 0 where none has.
double least_latency_s(const Ground& ground, const model::ModelConfig& config,
                       const plan::RequestShape& shape) {
  const auto kernels = plan::kernels_of_model(config, plan::planned_load(shape), true);
  double requests_per_s = 0;
  for (const plan::Device& device : ground.fleet.devices)
    if (device.agent && device.memory_bytes > device.profile.runtime_bytes + plan::serving_bytes)
      requests_per_s += 1 / device.seconds(kernels);
  return requests_per_s > 0 ? 1 / requests_per_s : 0;
}

fs::path make_whole_bundle(const plan::Plan& plan, const fs::path& model, const fs::path& out) {
  decompose::decompose(model, {plan}, decompose::weight_importance(model), out);
  return out;
}

/// Every device multiplies matrices at once, each in its own process; measured share of a core
/// against the stated one.
struct SpeedCheck {
  std::string device;
  double stated = 0, measured = 0;
  bool holds() const { return std::abs(measured / stated - 1) <= 0.05; }
};

std::vector<SpeedCheck> check_speeds(const Ground& ground) {
  std::vector<Process> running;
  for (std::size_t i = 0; i < ground.fleet.devices.size(); ++i) {
    Process::Options options;
    options.own_settings = false;
    options.words = {(ground.programs / "cleave-testbed").string(), "--speed-check",
                     format("%.9g", ground.share_of(i)), ground.turns()};
    options.log = ground.logs / ("speed-" + ground.fleet.devices[i].name + ".log");
    running.emplace_back(options);
  }
  std::vector<SpeedCheck> checks;
  for (std::size_t i = 0; i < running.size(); ++i) {
    const double measured =
        std::strtod(running[i].read_line(std::chrono::seconds(30)).c_str(), nullptr);
    checks.push_back({ground.fleet.devices[i].name, ground.share_of(i), measured});
  }
  return checks;
}

/// A matrix product, as an engine that can be paced like any other: a large one where the
/// instruction is an mlp_up, else one of a few microseconds.
class ProductEngine : public infer::Engine {
 public:
  std::unique_ptr<infer::Slots> begin(std::shared_ptr<const plan::Program>,
                                      const infer::Sequence&) override {
    return std::make_unique<Products>();
  }

 private:
  class Products : public infer::Slots {
   public:
    void run(const plan::Instruction& instruction) override {
      const bool large = std::holds_alternative<plan::MlpUp>(instruction);
      result_ = large ? at::mm(left_, right_) : at::mm(small_, small_);
    }
    void set(plan::ValueId, net::Value) override {}
    net::Value get(plan::ValueId) override { return {}; }
    void clear(plan::ValueId) override {}

   private:
    at::Tensor left_ = at::ones({256, 768}), right_ = at::ones({768, 768}), result_;
    at::Tensor small_ = at::ones({48, 48});
  };
};

/// Child of check_speeds: prints the share of a core that paced products get, large ones and 1,000
/// small ones of which 20 at a time stand between two values that leave.
int speed_check(double share, const std::string& turns) {
  infer::set_threads(1);
  const auto plain = ProductEngine().begin({}, {});
  const auto engine = infer::paced(std::make_unique<ProductEngine>(), 1 / share, turns);
  const auto products = engine->begin({}, {});
  const plan::Instruction large = plan::MlpUp(), small = plan::Norm();
  for (int i = 0; i < 20; ++i) plain->run(large);
  timespec before{}, after{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  const auto started = infer::Clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(infer::Clock::now() - started).count();
  };
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 20; ++i) products->run(small);
    engine->settle();
  }
  while (seconds() < 1.5) {
    products->run(large);
    engine->settle();
  }
  const double wall_s = seconds();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  const double cpu_s = static_cast<double>(after.tv_sec - before.tv_sec) +
                       1e-9 * static_cast<double>(after.tv_nsec - before.tv_nsec);
  std::printf("%.6f\n", cpu_s / wall_s);
  return exit_done;
}

/// The answer over the wire against every part in this process.
double largest_difference(Side& side, const fs::path& bundle, const net::Value& input,
                          milliseconds deadline) {
  const plan::Bundle files(bundle);
  const auto engine = infer::local_engine(files, side.plan);
  engine->prepare();
  const auto expected = infer::run_locally(*engine, side.plan, input);
  infer::Request request;
  request.input = input;
  request.plan = side.plan.name;
  request.deadline = deadline;
  request.require_all = true;
  const auto response = ask(*side.service, request);
  if (response.status != infer::Status::answered)
    throw std::runtime_error("[testbed] the first request was not answered: " + response.message);
  const auto* a = reinterpret_cast<const float*>(expected.data.data());
  const auto* b = reinterpret_cast<const float*>(response.output.data.data());
  double largest = 0, difference = 0;
  for (std::int64_t i = 0; i < expected.count(); ++i) {
    largest = std::max(largest, static_cast<double>(std::abs(a[i])));
    difference = std::max(difference, static_cast<double>(std::abs(a[i] - b[i])));
  }
  return largest > 0 ? difference / largest : difference;
}

std::string with_spread(const std::vector<double>& values) {
  const auto spread = spread_of(values);
  return base::format_seconds(spread.median) + " (" + base::format_seconds(spread.mad) + ")";
}

/// VmHWM of a process and what it was after start and one warm product; what the plan predicted;
/// what its device gives.
struct MemoryRow {
  std::string process;
  double peak = 0, runtime = 0, predicted_runtime = 0, predicted_model = 0, limit = 0;
  bool limited = true;
  double model() const { return peak - runtime; }
  bool holds() const { return !limited || peak <= limit; }
};

std::vector<MemoryRow> memory_of(const System& system, const Ground& ground) {
  std::vector<MemoryRow> rows;
  const auto agents = system.client->status().agents;
  const auto add = [&](const std::string& name, const Process& process, const std::string& device) {
    double runtime_bytes = 0, model_bytes = 0;  // of the plan that takes most
    for (const plan::Plan& plan : system.plans) {
      const auto predicted = plan.prediction.of(name);
      runtime_bytes = std::max(runtime_bytes, predicted.runtime_bytes);
      model_bytes = std::max(model_bytes, predicted.model_bytes);
    }
    double peak = process.peak_memory_bytes();
    // The system's figure is of the time since the last request that was observed.
    for (const auto& agent : agents)
      if (agent.device == name) peak = std::max(peak, agent.memory_bytes);
    rows.push_back({name, peak, system.runtime_bytes.at(name), runtime_bytes, model_bytes,
                    ground.fleet.devices[ground.index_of(device)].memory_bytes, system.limited});
  };
  for (const auto& [device, process] : system.agents) add(device, process, device);
  add(plan::aggregator_process(system.aggregator()), *system.server, system.aggregator());
  return rows;
}

/// What did not hold, in words; nothing where all did.
std::vector<std::string> shortfalls(const std::vector<SpeedCheck>& speeds,
                                    const std::vector<System>& systems,
                                    const std::vector<Side>& sides, const Ground& ground) {
  std::vector<std::string> found;
  for (const auto& speed : speeds)
    if (!speed.holds()) found.push_back("the speed of " + speed.device);
  for (const Side& side : sides) {
    const auto add = [&](std::size_t count, const std::string& what) {
      if (count > 0)
        found.push_back(std::to_string(count) + " requests to the " + side.what + what);
    };
    add(side.failed, " failed (" + side.last_failure + ")");
    add(side.partial, " were answered without some device");
  }
  for (const auto& system : systems)
    for (const auto& row : memory_of(system, ground))
      if (!row.holds()) found.push_back("the memory limit of " + row.process);
  return found;
}

nlohmann::json to_json(const Side& side, const System& system, const Ground& ground) {
  nlohmann::json json{{"what", side.what},
                      {"failed", side.failed},
                      {"partial", side.partial},
                      {"bytes_on_wire", side.bytes_on_wire},
                      {"predicted_latency_s", side.plan.prediction.latency_s},
                      {"latency_s", side.latency_s},
                      {"devices", nlohmann::json::object()},
                      {"memory", nlohmann::json::object()}};
  if (!side.latency_s.empty()) {
    const auto spread = spread_of(side.latency_s);
    json["median_s"] = spread.median;
    json["mad_s"] = spread.mad;
    json["p90_s"] = spread.p90;
    json["p99_s"] = spread.p99;
    json["overhead_median_s"] = median_of(side.overhead_s);
    json["fuse_median_s"] = median_of(side.fuse_s);
    json["predicted_fuse_s"] = predicted_fuse_s(side.plan);
  }
  for (const auto& [device, values] : side.compute_s)
    json["devices"][device] = {{"compute_median_s", median_of(values)},
                               {"predicted_compute_s", side.plan.prediction.of(device).compute_s},
                               {"round_trip_median_s", median_of(side.round_trip_s.at(device))}};
  for (const auto& row : memory_of(system, ground))
    json["memory"][row.process] = {{"peak_bytes", row.peak},
                                   {"runtime_bytes", row.runtime},
                                   {"model_bytes", row.model()},
                                   {"predicted_runtime_bytes", row.predicted_runtime},
                                   {"predicted_model_bytes", row.predicted_model},
                                   {"limit_bytes", row.limit},
                                   {"limited", row.limited},
                                   {"holds", row.holds()}};
  return json;
}

void print(const Side& side, const System& system, const Ground& ground) {
  std::printf("\n%s: strategy %s, %zu requests\n\n", side.what.c_str(), side.plan.strategy.c_str(),
              side.latency_s.size());
  Table times({"where", "median (MAD)", "predicted", "round trip"});
  for (const auto& [device, values] : side.compute_s) {
    const double predicted = side.plan.prediction.of(device).compute_s;
    times.row({"compute " + device, with_spread(values),
               predicted > 0 ? base::format_seconds(predicted) : "–",
               with_spread(side.round_trip_s.at(device))});
  }
  const double fuse_s = predicted_fuse_s(side.plan);
  times.row(
      {"fuse", with_spread(side.fuse_s), fuse_s > 0 ? base::format_seconds(fuse_s) : "–", "–"});
  times.row({"aggregator's own share", with_spread(side.overhead_s), "–", "–"});
  times.row({"latency", with_spread(side.latency_s),
             side.plan.prediction.latency_s > 0
                 ? base::format_seconds(side.plan.prediction.latency_s)
                 : "–",
             "–"});
  std::printf("%s\n", times.text().c_str());
  Table memory({"process", "peak memory", "runtime", "(predicted)", "model", "(predicted)", "limit",
                "holds"});
  const auto size = [](double bytes) { return bytes > 0 ? base::format_bytes(bytes) : "–"; };
  for (const auto& row : memory_of(system, ground))
    memory.row({row.process, base::format_bytes(row.peak), size(row.runtime),
                size(row.predicted_runtime), size(row.model()), size(row.predicted_model),
                base::format_bytes(row.limit) + (row.limited ? "" : " (lifted)"),
                !row.limited  ? "–"
                : row.holds() ? "yes"
                              : "NO"});
  std::printf("%s%s on the wire a request\n", memory.text().c_str(),
              base::format_bytes(side.bytes_on_wire).c_str());
  if (side.partial > 0) std::printf("%zu answers are without some device\n", side.partial);
}

/// Network namespaces. Throws std::runtime_error where there can be none: what they need (veth,
/// bridge, tbf) shows only when they are made.
std::string make_namespaces(Ground& ground) {
  const auto refuse = [](const std::string& reason) {
    throw std::runtime_error("[--namespaces] " + reason.substr(0, reason.find('\n')));
  };
  if (const auto reason = EmulatedNetwork::unavailable()) refuse(*reason);
  try {
    ground.network = std::make_unique<EmulatedNetwork>(ground.fleet, ground.dilate);
  } catch (const std::runtime_error& error) {
    refuse(error.what());
  }
  return std::string("one network namespace a device, links shaped by tc tbf") +
         (ground.network->has_latency() ? "" : "; no emulated delay (the kernel has no netem)");
}

/// What each device's streams behave like: its link of the fleet or, from --link, all alike.
std::string make_links(Ground& ground, const Args& args) {
  if (ground.fleet.devices.size() > 200)
    throw std::runtime_error("[testbed] saw " + std::to_string(ground.fleet.devices.size()) +
                             " devices, needs at most 200");
  for (std::size_t device = 0; device < ground.fleet.devices.size(); ++device) {
    const plan::Link link = interface_link(ground.fleet, device);
    std::vector<net::LinkConditions> trace{{0, link.bytes_per_s, link.latency_s, 0}};
    if (args.has("link")) trace = read_link_file(args.text("link"));
    for (net::LinkConditions& row : trace) {
      row.from_s *= ground.dilate;
      row.bytes_per_s /= ground.dilate;
      row.latency_s *= ground.dilate;
      row.jitter_s *= ground.dilate;
    }
    ground.links.push_back(
        (ground.logs / (ground.fleet.devices[device].name + "-link.csv")).string());
    write_link_file(trace, ground.links.back());
  }
  return args.has("link") ? "every device's streams behave as " + args.text("link") + " says"
                          : "each device's streams behave as behind its link";
}

/// Makes the links, and says which.
std::string make_network(Ground& ground, const Args& args) {
  if (args.flag("loopback")) return "loopback, links not shaped (--loopback)";
  return args.flag("namespaces") ? make_namespaces(ground) : make_links(ground, args);
}

/// The exit code, and its reason on standard error.
int verdict(const std::vector<std::string>& failures, double difference, bool complete) {
  const bool differs = !(difference <= 1e-5);  // also where it is no number
  std::string text;
  for (const auto& failure : failures) text += (text.empty() ? "" : "; ") + failure;
  if (differs)
    text = format("answers differ from the local run by %.1e of the largest logit", difference);
  if (!text.empty())
    std::fprintf(stderr, "cleave-testbed: [testbed] did not hold: %s\n", text.c_str());
  if (!complete || differs) return exit_failed;
  return text.empty() ? exit_done : exit_negative;
}

Side side_of(const std::string& what, const plan::Plan& plan, const System& system) {
  Side side;
  side.what = what;
  side.plan = plan;
  side.service = system.client.get();
  return side;
}

int testbed(const Args& args) {
  infer::set_threads(1);
  expect_output(args, "csv", OutputKind::table);
  const fs::path bundle = fs::absolute(args.at(0));
  if (args.has("original")) plan::expect_teacher(plan::Bundle(bundle), args.text("original"));
  ScratchFolder scratch;
  Ground ground;
  ground.fleet = plan::read_fleet(args.text("fleet"));
  ground.dilate = args.number("dilate");
  ground.programs = fs::read_symlink("/proc/self/exe").parent_path();
  ground.logs = scratch.path();

  const int ways = args.flag("loopback") + args.flag("namespaces") + args.has("link");
  if (ways > 1) throw UsageError("needs at most one of --loopback, --namespaces and --link");
  const std::string network_note = make_network(ground, args);
  const std::string identity = plan::Bundle(bundle).identity();
  const auto names = args.has("plan") ? args.list("plan") : std::vector<std::string>{""};
  if (std::set(names.begin(), names.end()).size() < names.size())
    throw UsageError("[--plan] saw one twice, needs each once");
  for (const std::string& name : names) {
    const auto plan = plan::Bundle(bundle).plan(name);
    ground.index_of(plan.aggregator);
    for (const auto& part : plan.parts) ground.index_of(part.device);
  }
  const auto wanted = plan::Bundle(bundle).plan(names.front());
  const Workload workload = from_options([&] {
    return Workload(wanted.teacher, shape_of(args, wanted.shape, wanted.teacher),
                    static_cast<std::uint64_t>(args.integer("seed")));
  });
  const auto speeds = check_speeds(ground);
  std::vector<System> systems(1);
  systems[0].what = "system";
  start(systems[0], ground, bundle, names);
  std::vector<Side> sides;
  for (const plan::Plan& plan : systems[0].plans)
    sides.push_back(side_of(names.size() > 1 ? plan.name : systems[0].what, plan, systems[0]));
  const std::string roomy = best_device_with_room(ground, wanted.teacher, workload.shape());
  std::vector<Bound> bounds;
  if (args.has("original")) {
    const auto add_whole = [&](const std::string& what, const std::string& device, bool limited) {
      System system;
      system.what = what;
      system.limited = limited;
      const plan::Plan plan =
          whole_on(ground, model::read_config(args.text("original")), workload.shape(), device);
      start(system, ground,
            make_whole_bundle(plan, args.text("original"), scratch.path() / (what + device)));
      systems.push_back(std::move(system));
    };
    add_whole("original", fastest_device(ground), false);
    if (!roomy.empty() && roomy != fastest_device(ground))
      add_whole("whole model on " + roomy + ", the best that has room", roomy, true);
    for (std::size_t i = 1; i < systems.size(); ++i)
      sides.push_back(side_of(systems[i].what, systems[i].plans.front(), systems[i]));
  }
  if (roomy.empty())
    bounds.push_back({"whole model on one device: none has room", 0});
  else if (!args.has("original") || roomy == fastest_device(ground))
    bounds.push_back(
        {"whole model on " + roomy + ", the best that has room (formula)",
         whole_on(ground, wanted.teacher, workload.shape(), roomy).prediction.latency_s});
  bounds.push_back({"lower bound (formula): all work at all devices' speeds, nothing sent",
                    least_latency_s(ground, wanted.teacher, workload.shape())});

  for (Side& side : sides) side.is_predicted = workload.shape() == side.plan.shape;
  const auto deadline = args.milliseconds("deadline");
  double difference = 0;
  for (std::size_t i = 0; i < systems[0].plans.size(); ++i)
    difference =
        std::max(difference, largest_difference(sides[i], bundle, workload.input(), deadline));
  {
    ProgressBar bar;
    ask_in_turn(sides, workload, deadline, args.integer("warmup"), args.integer("requests"),
                bar.callback());
  }
  if (stop_wanted()) {
    std::fprintf(stderr, "cleave-testbed: stopped\n");
    return exit_failed;
  }

  const bool complete = std::all_of(sides.begin(), sides.end(),
                                    [](const Side& side) { return !side.latency_s.empty(); });
  const std::size_t original = systems[0].plans.size();  // where there is one
  const double ratio = sides.size() > original && complete
                           ? median_of(sides[original].latency_s) / median_of(sides[0].latency_s)
                           : 0;
  const auto failures = shortfalls(speeds, systems, sides, ground);
  nlohmann::json json{{"bundle", identity},
                      {"batch", workload.shape().batch},
                      {"tokens", workload.shape().tokens},
                      {"generate", workload.shape().generate},
                      {"holds", failures.empty()},
                      {"network", network_note},
                      {"dilate", ground.dilate},
                      {"against_local", difference},
                      {"ratio", ratio},
                      {"speeds", nlohmann::json::array()},
                      {"systems", nlohmann::json::array()}};
  for (const auto& speed : speeds)
    json["speeds"].push_back({{"device", speed.device},
                              {"stated", speed.stated},
                              {"measured", speed.measured},
                              {"holds", speed.holds()}});
  const auto system_of = [&](std::size_t side) -> const System& {
    return systems[side < original ? 0 : side - original + 1];
  };
  for (std::size_t i = 0; i < sides.size(); ++i)
    json["systems"].push_back(to_json(sides[i], system_of(i), ground));
  json["side_by_side"] = cleave::tools::to_json(sides, bounds);
  write_csv(args, numbers_table(sides, bounds));
  const bool dry = args.flag("dry-run");
  if (!dry) plan::write_measured(bundle, "testbed", json);
  if (args.json()) {
    std::printf("%s\n", json.dump(2, ' ', false, replace_invalid).c_str());
  } else {
    std::printf("testbed: %s\n\n", network_note.c_str());
    Table table({"device", "share of a core", "measured", "holds"});
    for (const auto& speed : speeds)
      table.row({speed.device, format("%.3f", speed.stated), format("%.3f", speed.measured),
                 speed.holds() ? "yes" : "NO: this machine is too busy"});
    std::printf("%sanswers differ from the local run by %.1e of the largest logit\n",
                table.text().c_str(), difference);
    for (std::size_t i = 0; i < sides.size(); ++i)
      if (!sides[i].latency_s.empty()) print(sides[i], system_of(i), ground);
    std::printf("\n%s\n%s", sides_table(sides, bounds).text().c_str(),
                devices_table(sides).text().c_str());
    if (dry) std::printf("\nwould write %s\n", (bundle / "measured.json").c_str());
    if (ratio > 0)
      std::printf("\nthe system answers %.2f times as fast as the original on the fastest device\n",
                  ratio);
  }
  return verdict(failures, difference, complete);
}

Command testbed_command() {
  return {"testbed",
          "a fleet on this one machine: paced agents, shaped links, the original in turn",
          {{"BUNDLE", "bundle folder"}},
          {"fleet", "plan", "original", "csv", "requests", "warmup", "batch", "tokens", "generate",
           "deadline", "dilate", "loopback", "namespaces", "link", "seed", "dry-run", "format",
           "verbose"},
          "cleave-testbed bundle/ --fleet fleet.toml --original teacher/",
          testbed};
}

}  // namespace
}  // namespace cleave::tools

int main(int argc, char** argv) {
  cleave::infer::take_best_blas_kernels(argv);
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 3 && words[0] == "--speed-check")
    return cleave::tools::speed_check(std::strtod(words[1].c_str(), nullptr), words[2]);
  return cleave::tools::run_command("cleave-testbed", cleave::tools::testbed_command(), words);
}
