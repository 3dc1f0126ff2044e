#pragma once

#include <string>
#include <vector>

#include "optimizer/plan/plan.hpp"
#include "tests/decompose/teacher.hpp"

namespace cleave::testing {

/// The whole teacher on every device.
inline plan::Plan whole_plan(const model::ModelConfig& teacher,
                             const std::vector<std::string>& devices) {
  plan::Plan plan;
  plan.teacher = teacher;
  plan.aggregator = devices.front();
  for (const auto& device : devices) {
    plan::PlanPart part;
    part.device = device;
    part.sub_model().config = teacher;
    part.sub_model().layers = decompose::keep_all(teacher).layers;
    plan.parts.push_back(part);
  }
  return plan;
}

/// The tiny teacher on two unequal devices: hub keeps 8 channels of all layers, cam 6 of two.
inline plan::Plan tiny_plan(const model::ModelConfig& teacher = tiny_config()) {
  auto plan = whole_plan(teacher, {"hub", "cam"});
  plan.parts[0].sub_model().config.width = 8;
  plan.parts[0].sub_model().config.layers = {{2, 12}, {1, 8}, {2, 6}};
  plan.parts[1].sub_model().config.width = 6;
  plan.parts[1].sub_model().config.layers = {{1, 8}, {2, 5}};
  plan.parts[1].sub_model().layers = {0, 2};
  return plan;
}

}  // namespace cleave::testing
