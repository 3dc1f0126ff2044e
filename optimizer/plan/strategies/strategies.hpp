#pragma once

#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

// One source a strategy: how shares become programs, and what shares it takes (throws
// std::invalid_argument).

std::vector<Program> compile_local(const Plan& plan, const RequestShape& shape,
                                   base::Element element);
void check_local(const Plan& plan);

std::vector<Program> compile_decomposed(const Plan& plan, const RequestShape& shape,
                                        base::Element element);
void check_decomposed(const Plan& plan);

std::vector<Program> compile_pipeline(const Plan& plan, const RequestShape& shape,
                                      base::Element element);
void check_pipeline(const Plan& plan);

std::vector<Program> compile_tensor(const Plan& plan, const RequestShape& shape,
                                    base::Element element);
void check_tensor(const Plan& plan);

}  // namespace cleave::plan
