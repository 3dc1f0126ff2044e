#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "infer/peers.hpp"
#include "infer/served_plan.hpp"

namespace cleave::infer {

/// All agents of an aggregator by their device's number: which of them can be asked, and why the
/// others cannot. On the I/O thread, but for the waits.
class Roster {
 public:
  void add(std::unique_ptr<Peer> peer);
  /// Their names.
  const std::vector<std::string>& devices() const { return devices_; }
  std::size_t size() const { return peers_.size(); }
  Peer& operator[](std::size_t device) const { return *peers_[device]; }
  void start();
  void stop();

  /// Sends what waits, to each as much as its window takes.
  void offer();
  /// Nobody waits for the request any more; it stays with those who have it.
  void withdraw(Peer::Id id);

  /// Why the device cannot be asked for the plan; empty where it can.
  std::string why_away(const FleetPlan& plan, std::size_t device) const;
  /// "'cam' at 127.0.0.1:7103 (Connection refused)" for each device of the plan that is not joined.
  std::string who_is_missing(const FleetPlan& plan) const;
  /// That a request cannot do without the device, which is missing for that reason.
  std::string need_of(std::size_t device, const std::string& why) const;
  std::vector<AgentStatus> status() const;

  /// One of the plan that is joined and ejected.
  std::optional<std::size_t> ejected(const FleetPlan& plan) const;
  /// Somebody else is joined and not ejected.
  bool has_others(std::size_t device) const;
  /// Where only ejected devices of the plan are left, they are asked again.
  void keep_one_asked(const FleetPlan& plan);

  /// Some peer has changed: lets those see it who wait.
  void count_joined();
  /// Any thread: until `count` are joined (0: all), at most `timeout`. Returns how many are.
  int wait_for(int count, std::chrono::milliseconds timeout) const;
  /// Any thread: until all are joined, or some are and the others are out of reach.
  int wait_for_those_in_reach(std::chrono::milliseconds timeout) const;

 private:
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::string> devices_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  int num_joined_ = 0, num_out_of_reach_ = 0;  // guarded
};

}  // namespace cleave::infer
