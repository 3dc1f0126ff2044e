#pragma once

#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

// One source a strategy: how shares become programs, what shares it takes and which it proposes
// (the latter two throw std::invalid_argument).

std::vector<Program> compile_local(const Plan& plan, const RequestShape& shape,
                                   base::Element element);
void check_local(const Plan& plan);

std::vector<Program> compile_decomposed(const Plan& plan, const RequestShape& shape,
                                        base::Element element);
void check_decomposed(const Plan& plan);

std::vector<Program> compile_pipeline(const Plan& plan, const RequestShape& shape,
                                      base::Element element);
void check_pipeline(const Plan& plan);
std::vector<Share> propose_pipeline(const model::ModelConfig& teacher,
                                    const std::vector<Capacity>& devices);

std::vector<Program> compile_tensor(const Plan& plan, const RequestShape& shape,
                                    base::Element element);
void check_tensor(const Plan& plan);
std::vector<Share> propose_tensor(const model::ModelConfig& teacher,
                                  const std::vector<Capacity>& devices);

}  // namespace cleave::plan
