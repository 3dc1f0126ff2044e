#include "infer/fleet_plans.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "base/text.hpp"
#include "infer/batch.hpp"
#include "infer/values.hpp"

namespace cleave::infer {

FleetPlans::FleetPlans(const plan::Bundle& bundle, const std::vector<plan::Plan>& plans) {
  if (plans.empty()) throw std::invalid_argument("[aggregator] plans: saw none, needs one or more");
  for (const plan::Plan& plan : plans)
    for (const std::string& device : plan::devices_of(plan))
      if (std::find(devices_.begin(), devices_.end(), device) == devices_.end())
        devices_.push_back(device);
  for (const plan::Plan& plan : plans)
    plans_.push_back(std::make_unique<FleetPlan>(plan, devices_, bundle.largest_features(plan)));
}

FleetPlan* FleetPlans::find(const std::string& name) const {
  for (const auto& plan : plans_)
    if (name.empty() || plan->plan().name == name) return plan.get();
  return nullptr;
}

std::int64_t FleetPlans::rows_at_once(const Request& request) const {
  if (request.sequence.id != 0) return request.input.dims.at(0);
  return infer::rows_at_once(request.input, plans_.front()->plan().teacher.is_text());
}

FleetPlans::Found FleetPlans::find_for(const Request& request, std::int64_t best) const {
  Found found;
  found.plan = find(request.plan);
  if (found.plan == nullptr) {
    std::vector<std::string> names;
    for (const auto& plan : plans_) names.push_back(plan->plan().name);
    found.wrong = "plan: saw '" + request.plan + "', needs one of " + base::joined(names, ", ");
    return found;
  }
  const net::Value& input = request.input;
  if (input.dims.empty() || input.dims[0] < 1 ||
      input.dims[0] > std::numeric_limits<std::int32_t>::max()) {
    found.wrong = "input: saw " + shape_text(input.element, input.dims) +
                  ", needs a batch of 1 or more in front";
    return found;
  }
  net::Value piece = input;
  piece.dims[0] = std::min(piece.dims[0], rows_at_once(request));
  try {
    if (request.sampling) request.sampling->check();
    found.programs =
        found.plan->programs().find(piece, request.sequence.past, request.sampling ? best : 0);
  } catch (const std::exception& error) {
    found.wrong = error.what();
    return found;
  }
  if (request.sampling && request.sequence.id == 0) {
    found.wrong = "sampling: saw a request that stands for itself, needs one of a sequence";
    return found;
  }
  plan::ValueInfo whole = input_of(*found.plan->own(*found.programs));
  whole.dims.at(0) = input.dims[0];
  if (const auto wrong = mismatch(input, whole); !wrong.empty()) found.wrong = "input: " + wrong;
  return found;
}

}  // namespace cleave::infer
