#include "infer/roster.hpp"

#include <algorithm>
#include <utility>

#include "base/text.hpp"
#include "infer/jobs.hpp"

namespace cleave::infer {

void Roster::add(std::unique_ptr<Peer> peer) {
  devices_.push_back(peer->device());
  peers_.push_back(std::move(peer));
}

void Roster::start() {
  for (const auto& peer : peers_) peer->start();
}

void Roster::stop() {
  for (const auto& peer : peers_) peer->stop();
}

void Roster::offer() {
  for (const auto& peer : peers_) peer->offer();
}

void Roster::withdraw(Peer::Id id) {
  for (const auto& peer : peers_) peer->withdraw(id);
}

std::string Roster::why_away(const FleetPlan& plan, std::size_t device) const {
  const Peer& peer = *peers_[device];
  if (peer.serves(plan.digest())) return {};
  return peer.joined() ? "refused the plan: " + peer.refusal(plan.digest()) : not_joined;
}

std::string Roster::who_is_missing(const FleetPlan& plan) const {
  std::vector<std::string> missing;
  for (std::size_t device = 0; device < peers_.size(); ++device) {
    const Peer& peer = *peers_[device];
    if (!plan.has(device) || peer.joined()) continue;
    const auto& why = peer.last_error().empty() ? "not reached yet" : peer.last_error();
    missing.push_back("'" + peer.device() + "' at " + peer.address() + " (" + why + ")");
  }
  return base::joined(missing, ", ");
}

std::string Roster::need_of(std::size_t device, const std::string& why) const {
  const Peer& peer = *peers_[device];
  const bool dialled = why == not_joined && !peer.last_error().empty();
  return "[infer] device '" + peer.device() + "' at " + peer.address() + " is needed: " + why +
         (dialled ? " (" + peer.last_error() + ")" : "");
}

std::vector<AgentStatus> Roster::status() const {
  std::vector<AgentStatus> list;
  for (const auto& peer : peers_) list.push_back(peer->status());
  return list;
}

std::optional<std::size_t> Roster::ejected(const FleetPlan& plan) const {
  for (std::size_t device = 0; device < peers_.size(); ++device)
    if (plan.has(device) && peers_[device]->joined() && peers_[device]->ejected()) return device;
  return std::nullopt;
}

bool Roster::has_others(std::size_t device) const {
  return std::any_of(peers_.begin(), peers_.end(), [&](const auto& other) {
    return other != peers_[device] && other->joined() && !other->ejected();
  });
}

void Roster::keep_one_asked(const FleetPlan& plan) {
  std::vector<Peer*> joined;
  for (std::size_t device = 0; device < peers_.size(); ++device)
    if (plan.has(device) && peers_[device]->joined()) joined.push_back(peers_[device].get());
  const bool any =
      std::any_of(joined.begin(), joined.end(), [](const Peer* peer) { return !peer->ejected(); });
  if (any) return;
  for (Peer* peer : joined) peer->reinstate();
}

void Roster::count_joined() {
  const auto joined =
      std::count_if(peers_.begin(), peers_.end(), [](const auto& peer) { return peer->joined(); });
  const auto out_of_reach = std::count_if(peers_.begin(), peers_.end(),
                                          [](const auto& peer) { return peer->out_of_reach(); });
  const std::lock_guard lock(mutex_);
  num_joined_ = static_cast<int>(joined);
  num_out_of_reach_ = static_cast<int>(out_of_reach);
  changed_.notify_all();
}

int Roster::wait_for(int count, std::chrono::milliseconds timeout) const {
  const int wanted = count > 0 ? count : static_cast<int>(peers_.size());
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [&] { return num_joined_ >= wanted; });
  return num_joined_;
}

int Roster::wait_for_those_in_reach(std::chrono::milliseconds timeout) const {
  const int all = static_cast<int>(peers_.size());
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout,
                    [&] { return num_joined_ > 0 && num_joined_ + num_out_of_reach_ >= all; });
  return num_joined_;
}

}  // namespace cleave::infer
