#include <stdexcept>
#include <string>

#include "optimizer/plan/strategies/collectives.hpp"
#include "optimizer/plan/strategies/heads_and_columns.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {
namespace {

/// The ranks' ranges of `units` follow each other, equal up to one unit, none empty.
template <class RangeOf>
void check_ranges(const Plan& plan, std::int64_t units, const std::string& field,
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
  if (!plan.teacher.answers())
    refuse("teacher", "no head", "one: the strategy 'tensor' answers as the teacher does");
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const std::string where = "parts[" + std::to_string(p) + "]";
    if (!plan.parts[p].share())
      refuse(where, "a sub-model", "a share: the strategy 'tensor' divides the teacher");
    expect_no_rows(*plan.parts[p].share(), where, "tensor");
  }
  for (std::size_t l = 0; l < plan.teacher.layers.size(); ++l) {
    const std::string layer = "layers[" + std::to_string(l) + "].";
    const model::LayerShape& shape = plan.teacher.layers[l];
    check_ranges(plan, shape.heads / plan.teacher.group, layer + "heads",
                 "heads of keys and values", [l](const Share& s) { return s.layers[l].heads; });
    check_ranges(plan, shape.mlp_width, layer + "columns", "MLP columns",
                 [l](const Share& s) { return s.layers[l].columns; });
  }
  check_ranges(plan, plan.teacher.vocabulary, "vocabulary", "tokens",
               [](const Share& s) { return s.vocabulary; });
}

/// Whatever the devices are.
std::vector<Share> propose_tensor(const model::ModelConfig& teacher,
                                  const std::vector<Capacity>& devices) {
  return equal_shares(teacher, devices.size());
}

std::vector<Program> compile_tensor(const Plan& plan, const RequestShape& shape,
                                    base::Element element) {
  std::vector<Share> shares;
  for (const PlanPart& part : plan.parts) shares.push_back(*part.share());
  return by_heads_and_columns(plan, shares, plan.all_reduce, shape, element);
}

}  // namespace cleave::plan
