#include <algorithm>
#include <stdexcept>
#include <string>

#include "optimizer/plan/strategies/shared_pass.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

// Hepti-style (after Hepti, ICS 2024, as far as its text goes): three slicings for three memory
// budgets, with shares by compute, link and memory. S1 divides the rows of the sequence, all
// weights on each device: one all-gather a layer. S2 divides the rows of attention, its weights on
// each device, and the columns of the MLP: two all-gathers and a reduce-scatter. S3 divides heads
// and columns: two all-reduces.

namespace cleave::plan {
namespace {

constexpr Division rows_alone{false, false, false, true};
constexpr Division rows_and_columns{false, true, true, true};
constexpr Division heads_and_columns{true, true, true, false};

bool has_rows(const PlanPart& part) { return part.share() && part.share()->rows > 0; }

Division slicing_of(const Plan& plan) {
  if (!has_rows(plan.parts.front())) return heads_and_columns;
  const std::vector<LayerShare> all = whole_share(plan.teacher).layers;
  const bool have_all_weights =
      std::all_of(plan.parts.begin(), plan.parts.end(),
                  [&](const PlanPart& part) { return part.share()->layers == all; });
  return have_all_weights ? rows_alone : rows_and_columns;
}

}  // namespace

std::vector<Division> divisions_hepti() {
  return {rows_alone, rows_and_columns, heads_and_columns};
}

void check_hepti(const Plan& plan) {
  expect_shares(plan);
  expect_division(plan, slicing_of(plan));
}

std::vector<Program> compile_hepti(const Plan& plan, const RequestShape& shape,
                                   base::Element element) {
  return has_rows(plan.parts.front()) ? compile_by_rows(plan, shape, element)
                                      : compile_whole_stream(plan, shape, element);
}

}  // namespace cleave::plan
