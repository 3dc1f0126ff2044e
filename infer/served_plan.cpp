#include "infer/served_plan.hpp"

#include <stdexcept>

#include "base/text.hpp"
#include "infer/values.hpp"
#include "optimizer/plan/weights.hpp"

namespace cleave::infer {
namespace {

/// More shapes than anybody uses at once; a client that tries every batch cannot fill the memory.
constexpr std::size_t max_cached_shapes = 32;
/// Of a device, which has its own programs alone.
constexpr std::size_t most_cached_bytes = std::size_t{2} << 20;
/// Plans that a device keeps beyond those that some connection uses.
constexpr std::size_t most_idle_plans = 16;

std::size_t bytes_of(const plan::Program& program) {
  std::size_t bytes = sizeof program + program.instructions.size() * sizeof(plan::Instruction);
  for (const plan::ValueInfo& value : program.values)
    bytes += sizeof value + value.name.capacity() + value.dims.size() * sizeof(std::int64_t);
  return bytes;
}

plan::Plan without_generation(plan::Plan plan) {
  plan.shape.generate = 0;
  return plan;
}

/// Throws std::invalid_argument.
std::size_t rank_in(const plan::Plan& plan, const std::string& device) {
  if (const auto rank = plan::rank_of(plan, device)) return *rank;
  throw std::invalid_argument("[agent] device: saw '" + device + "', needs one of plan '" +
                              plan.name + "': " + base::joined(plan::devices_of(plan)));
}

/// The other devices that each rank exchanges values with, whatever the request.
std::vector<std::set<std::string>> peers_of(const plan::Plan& plan) {
  std::vector<std::set<std::string>> peers(plan.parts.size());
  for (const plan::RequestShape& shape : plan::shapes_of(plan)) {
    const auto programs = plan::compile(plan, shape);
    for (std::size_t rank = 0; rank < peers.size(); ++rank)
      for (const std::int32_t peer : plan::peers_of(programs[rank]))
        if (static_cast<std::size_t>(peer) < peers.size())
          peers[rank].insert(plan.parts[static_cast<std::size_t>(peer)].device);
  }
  return peers;
}

const plan::ValueInfo& info_of(const plan::Program& program, plan::ValueId value) {
  return program.values.at(static_cast<std::size_t>(value));
}

}  // namespace

std::shared_ptr<const Programs::Ranks> Programs::find(const net::Value& input, std::int64_t past,
                                                      std::int64_t best, bool from_kept) {
  return find({input.dims.empty() ? 0 : input.dims[0], input.dims.size() < 2 ? 0 : input.dims[1], 0,
               best, from_kept, past > 0});
}

std::shared_ptr<const Programs::Ranks> Programs::find(plan::RequestShape shape) {
  if (!plan_.teacher.is_text()) shape.tokens = 0;
  shape.continues = shape.continues && shape.tokens > 1;  // of one token programs are the same
  const Key key(shape.batch, shape.tokens, shape.best, shape.from_kept, shape.continues);
  if (const auto known = cache_.find(key); known != cache_.end()) return known->second;
  auto ranks = std::make_shared<Ranks>();
  std::size_t bytes = 0;
  for (auto& program : plan::compile(plan_, shape)) {
    const bool kept = !only_ || *only_ == ranks->size();
    if (kept) bytes += bytes_of(program);
    ranks->push_back(kept ? std::make_shared<const plan::Program>(std::move(program)) : nullptr);
  }
  if (cache_.size() >= max_cached_shapes || (only_ && cached_bytes_ + bytes > most_cached_bytes)) {
    cache_.clear();
    cached_bytes_ = 0;
  }
  cache_[key] = ranks;
  cached_bytes_ += bytes;
  return ranks;
}

DevicePlan::DevicePlan(const plan::Plan& plan, const std::string& device)
    : rank_(rank_in(plan, device)),
      peers_(peers_of(plan).at(rank_)),
      programs_(without_generation(plan), rank_) {}

std::optional<std::int32_t> DevicePlan::rank_of(const std::string& device) const {
  const auto rank = plan::rank_of(plan(), device);
  return rank ? std::optional(static_cast<std::int32_t>(*rank)) : std::nullopt;
}

DevicePlans::DevicePlans(plan::Bundle bundle, const std::vector<plan::Plan>& loaded,
                         std::string device)
    : bundle_(std::move(bundle)), device_(std::move(device)) {
  for (const plan::Plan& plan : loaded) {
    shares_ = shares_ || plan.parts.at(rank_in(plan, device_)).share() != nullptr;
    loaded_.insert(plan.name);
  }
}

std::shared_ptr<DevicePlan> DevicePlans::take(const net::PlanMessage& message) {
  if (const auto known = plans_.find(message.digest); known != plans_.end()) return known->second;
  const plan::Plan plan = plan::plan_from_json(message.json, "plan");
  if (const std::string digest = plan::digest_of(plan); digest != message.digest)
    throw std::invalid_argument("plan digest: saw '" + message.digest + "', needs '" + digest +
                                "'");
  const bool is_share = plan.parts.at(rank_in(plan, device_)).share() != nullptr;
  plan::expect_held(bundle_, plan, device_);
  if (is_share ? !shares_ : loaded_.count(plan.name) == 0)
    throw std::invalid_argument("[plan '" + plan.name +
                                "'] is left out by --plan: its weights are not loaded");
  // Those that no connection has any more may come again.
  for (auto at = plans_.begin(); at != plans_.end() && plans_.size() >= most_idle_plans;)
    at = at->second.use_count() == 1 ? plans_.erase(at) : std::next(at);
  return plans_[message.digest] = std::make_shared<DevicePlan>(plan, device_);
}

FleetPlan::FleetPlan(const plan::Plan& plan, const std::vector<std::string>& devices,
                     const std::vector<double>& largest_features)
    : programs_(plan), digest_(plan::digest_of(plan)), largest_(largest_features) {
  for (const std::string& device : devices) ranks_.push_back(plan::rank_of(plan, device));
  for (const std::set<std::string>& peers : peers_of(plan)) coupled_ = coupled_ || !peers.empty();
}

std::vector<std::pair<std::uint32_t, const plan::Input*>> FleetPlan::inputs_to(
    const Programs::Ranks& programs, std::size_t device) const {
  std::vector<std::pair<std::uint32_t, const plan::Input*>> inputs;
  if (!has(device)) return inputs;
  const auto& instructions = own(programs)->instructions;
  for (const plan::Instruction& instruction : instructions) {
    const auto* send = std::get_if<plan::Send>(&instruction);
    if (!send || send->peer != rank(device)) continue;
    for (const plan::Instruction& from : instructions)
      if (const auto* input = std::get_if<plan::Input>(&from);
          input && input->result == send->value)
        inputs.emplace_back(send->tag, input);
  }
  return inputs;
}

std::vector<std::uint32_t> FleetPlan::tags_from(const Programs::Ranks& programs,
                                                std::size_t device) const {
  std::vector<std::uint32_t> tags;
  if (!has(device)) return tags;
  for (const plan::Instruction& instruction : own(programs)->instructions)
    if (const auto* receive = std::get_if<plan::Receive>(&instruction);
        receive && receive->peer == rank(device))
      tags.push_back(receive->tag);
  return tags;
}

bool FleetPlan::must_come(const Programs::Ranks& programs, std::size_t device) const {
  if (coupled_) return true;
  for (const auto& instruction : own(programs)->instructions) {
    const auto* receive = std::get_if<plan::Receive>(&instruction);
    if (receive && receive->peer == rank(device) && !receive->may_be_absent) return true;
  }
  return false;
}

std::string FleetPlan::objection(const Programs::Ranks& programs, std::size_t device,
                                 std::uint32_t tag, const net::Value& value) const {
  const plan::Program& program = *own(programs);
  for (const auto& instruction : program.instructions) {
    const auto* receive = std::get_if<plan::Receive>(&instruction);
    if (!receive || receive->peer != rank(device) || receive->tag != tag) continue;
    const plan::ValueInfo& info = info_of(program, receive->result);
    std::string wrong = mismatch(value, info);
    if (wrong.empty())
      wrong =
          implausible(value, plausible_times * largest_.at(static_cast<std::size_t>(rank(device))));
    if (!wrong.empty()) return "value " + info.name + ": " + wrong;
  }
  return {};
}

const plan::ValueInfo& input_of(const plan::Program& program) {
  const auto* input = plan::find_first<plan::Input>(program);
  if (input == nullptr) throw std::logic_error("[program] saw no input, needs one");
  return info_of(program, input->result);
}

}  // namespace cleave::infer
