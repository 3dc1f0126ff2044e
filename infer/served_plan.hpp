#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "net/message.hpp"
#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::infer {

/// The programs of a plan by shape, compiled once: of all ranks, or of one, and then about 2 MB of
/// them at most. I/O thread only.
class Programs {
 public:
  using Ranks = std::vector<std::shared_ptr<const plan::Program>>;
  explicit Programs(plan::Plan plan, std::optional<std::size_t> only = {})
      : plan_(std::move(plan)), only_(only) {}
  /// Throws std::invalid_argument where there is none for the shape, in which nothing is generated.
  std::shared_ptr<const Ranks> find(plan::RequestShape shape);
  /// Those for an input: images [B, c, h, w], or token ids [B, N] behind `past` others; for `best`
  /// and `from_kept` see plan::RequestShape.
  std::shared_ptr<const Ranks> find(const net::Value& input, std::int64_t past,
                                    std::int64_t best = 0, bool from_kept = false);
  const plan::Plan& plan() const { return plan_; }

 private:
  plan::Plan plan_;
  std::optional<std::size_t> only_;
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, bool, bool>;
  std::map<Key, std::shared_ptr<const Ranks>> cache_;
  std::size_t cached_bytes_ = 0;
};

/// A plan as one device serves it.
class DevicePlan {
 public:
  /// Throws std::invalid_argument where the plan has no such device.
  DevicePlan(const plan::Plan& plan, const std::string& device);
  /// With nothing said of generation: caches are counted where they are kept.
  const plan::Plan& plan() const { return programs_.plan(); }
  /// The device's program. Throws std::invalid_argument.
  std::shared_ptr<const plan::Program> program(const plan::RequestShape& shape) {
    return programs_.find(shape)->at(rank_);
  }
  /// The other devices that it exchanges values with.
  const std::set<std::string>& peers() const { return peers_; }
  const std::string& device(std::int32_t rank) const {
    return plan().parts.at(static_cast<std::size_t>(rank)).device;
  }
  std::optional<std::int32_t> rank_of(const std::string& device) const;
  std::int32_t aggregator_rank() const { return static_cast<std::int32_t>(plan().parts.size()); }

 private:
  std::size_t rank_;
  std::set<std::string> peers_;
  Programs programs_;
};

/// The plans that a device is sent, by digest, as far as it holds their weights.
class DevicePlans {
 public:
  /// `loaded`: those whose weights the engine has. Throws std::invalid_argument where one has no
  /// such device.
  DevicePlans(plan::Bundle bundle, const std::vector<plan::Plan>& loaded, std::string device);
  /// Throws std::exception: no plan, or not one that the device can serve.
  std::shared_ptr<DevicePlan> take(const net::PlanMessage& message);

 private:
  plan::Bundle bundle_;
  std::string device_;
  std::set<std::string> loaded_;  // whose sub-models the engine has
  bool shares_ = false;           // and it has the device's holding
  std::map<std::string, std::shared_ptr<DevicePlan>> plans_;
};

/// A plan as the aggregator serves it, with devices numbered as those of all its plans.
class FleetPlan {
 public:
  /// `devices` of all plans; those of the plan are among them. `largest_features`: by rank, 0 where
  /// they are not known.
  FleetPlan(const plan::Plan& plan, const std::vector<std::string>& devices,
            const std::vector<double>& largest_features);
  const plan::Plan& plan() const { return programs_.plan(); }
  const std::string& digest() const { return digest_; }
  /// Agents exchange values, so that all of them compute a request or none.
  bool is_coupled() const { return coupled_; }
  bool has(std::size_t device) const { return ranks_.at(device).has_value(); }
  /// Of a device that has a part.
  std::int32_t rank(std::size_t device) const {
    return static_cast<std::int32_t>(ranks_.at(device).value());
  }
  Programs& programs() { return programs_; }

  // What the programs of one shape say.

  const std::shared_ptr<const plan::Program>& own(const Programs::Ranks& programs) const {
    return programs.at(plan().parts.size());
  }
  const std::shared_ptr<const plan::Program>& of(const Programs::Ranks& programs,
                                                 std::size_t device) const {
    return programs.at(ranks_.at(device).value());
  }
  /// It has a part, and something to do there.
  bool computes(const Programs::Ranks& programs, std::size_t device) const {
    return has(device) && !of(programs, device)->instructions.empty();
  }
  /// What the aggregator hands on to the device of what the request gives, and under which tag.
  std::vector<std::pair<std::uint32_t, const plan::Input*>> inputs_to(
      const Programs::Ranks& programs, std::size_t device) const;
  /// Of the values that the aggregator receives from the device.
  std::vector<std::uint32_t> tags_from(const Programs::Ranks& programs, std::size_t device) const;
  /// One of the device's values may not be absent.
  bool must_come(const Programs::Ranks& programs, std::size_t device) const;
  /// Why a value that the device sent is none of the program; empty where it is. `tag` is one of
  /// tags_from().
  std::string objection(const Programs::Ranks& programs, std::size_t device, std::uint32_t tag,
                        const net::Value& value) const;

 private:
  Programs programs_;
  std::string digest_;
  bool coupled_ = false;
  std::vector<std::optional<std::size_t>> ranks_;  // by device
  std::vector<double> largest_;                    // |number| of a part's features, by rank
};

/// The value that the aggregator's program takes in.
const plan::ValueInfo& input_of(const plan::Program& program);

}  // namespace cleave::infer
