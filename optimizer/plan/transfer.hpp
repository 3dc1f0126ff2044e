#pragma once

#include "optimizer/plan/plan.hpp"

namespace cleave::plan {

/// The same relative widths, heads, MLP widths and depth for another teacher, on the same devices;
/// widths are rounded to multiples of `width_step`, every kept layer keeps a head and a column
/// where the original did. Nothing is predicted but the importance kept, which is the original's.
/// Throws std::invalid_argument where the plan is not one of sub-models.
Plan transferred(const Plan& plan, const model::ModelConfig& teacher, std::int64_t width_step = 8);

}  // namespace cleave::plan
