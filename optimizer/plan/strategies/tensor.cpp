#include <string>

#include "optimizer/plan/strategies/shared_pass.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

// Megatron-LM (Shoeybi and others 2019): each device computes its heads and columns on the whole
// stream, and two all-reduces a layer add up what they bring. Shares are equal up to one unit.

namespace cleave::plan {
namespace {

template <class RangeOf>
void expect_equal(const Plan& plan, std::int64_t units, const std::string& field,
                  const std::string& what, const RangeOf& range_of) {
  if (units == 0) return;
  const std::size_t parts = plan.parts.size();
  if (units < static_cast<std::int64_t>(parts))
    refuse("parts", std::to_string(parts) + " devices",
           "at most " + std::to_string(units) + ", one for each of the teacher's " + what);
  const auto ranges = equal_ranges(units, parts);
  for (std::size_t p = 0; p < parts; ++p) {
    const model::Range saw = range_of(*plan.parts[p].share());
    if (!(saw == ranges[p]))
      refuse("parts[" + std::to_string(p) + "].share." + field,
             std::to_string(saw.begin) + ":" + std::to_string(saw.end),
             std::to_string(ranges[p].begin) + ":" + std::to_string(ranges[p].end) +
                 ", an equal share of " + std::to_string(units));
  }
}

}  // namespace

void check_tensor(const Plan& plan) {
  expect_shares(plan);
  for (std::size_t p = 0; p < plan.parts.size(); ++p)
    expect_no_rows(*plan.parts[p].share(), "parts[" + std::to_string(p) + "]", plan.strategy);
  for (std::size_t l = 0; l < plan.teacher.layers.size(); ++l) {
    const std::string layer = "layers[" + std::to_string(l) + "].";
    const model::LayerShape& shape = plan.teacher.layers[l];
    expect_equal(plan, shape.heads / plan.teacher.group, layer + "heads",
                 "heads of keys and values", [l](const Share& s) { return s.layers[l].heads; });
    expect_equal(plan, shape.mlp_width, layer + "columns", "MLP columns",
                 [l](const Share& s) { return s.layers[l].columns; });
  }
  expect_equal(plan, plan.teacher.vocabulary, "vocabulary", "tokens",
               [](const Share& s) { return s.vocabulary; });
}

/// Whatever the devices are.
std::vector<Share> propose_tensor(const model::ModelConfig& teacher,
                                  const std::vector<Capacity>& devices) {
  return equal_shares(teacher, devices.size());
}

}  // namespace cleave::plan
