#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "infer/served_plan.hpp"
#include "infer/service.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::infer {

/// The plans that an aggregator serves, the default one first, and which of them a request means.
/// I/O thread only.
class FleetPlans {
 public:
  /// Throws std::invalid_argument where there is none.
  FleetPlans(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans);
  /// Of all plans, each once; their places are the devices' numbers.
  const std::vector<std::string>& devices() const { return devices_; }
  const std::vector<std::unique_ptr<FleetPlan>>& all() const { return plans_; }
  /// Null where there is none of that name; the default one where it is empty.
  FleetPlan* find(const std::string& name) const;
  /// As many rows of a request [B, …] as one job takes; a text is never cut.
  std::int64_t rows_at_once(const Request& request) const;

  struct Found {
    FleetPlan* plan = nullptr;
    /// A large batch has those of its pieces, and none for the whole.
    std::shared_ptr<const Programs::Ranks> programs;
    std::string wrong;  // empty: the request can be computed
  };
  /// `best`: candidates of each device, where tokens are wanted.
  Found find_for(const Request& request, std::int64_t best) const;

 private:
  std::vector<std::string> devices_;
  std::vector<std::unique_ptr<FleetPlan>> plans_;
};

}  // namespace cleave::infer
