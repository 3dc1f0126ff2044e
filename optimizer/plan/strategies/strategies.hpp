#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

// One source a strategy: how shares become programs, what shares it takes, which it proposes, and
// what it makes of shares by hand (all but the first throw std::invalid_argument).

/// Throws std::invalid_argument "[check] plan.parts: saw …, needs …".
[[noreturn]] inline void refuse(const std::string& where, const std::string& saw,
                                const std::string& needs) {
  throw std::invalid_argument("[check] plan." + where + ": saw " + saw + ", needs " + needs);
}

/// Where a strategy divides no rows.
inline void expect_no_rows(const Share& share, const std::string& where,
                           std::string_view strategy) {
  if (share.rows != 0)
    refuse(where + ".share.rows", std::to_string(share.rows),
           "none: the strategy '" + std::string(strategy) + "' divides none");
}

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
std::vector<Share> divide_pipeline(const model::ModelConfig& teacher,
                                   const std::vector<std::int64_t>& weights);

void check_voltage(const Plan& plan);
std::vector<Division> divisions_voltage();

std::vector<Program> compile_prism(const Plan& plan, const RequestShape& shape,
                                   base::Element element);
void check_prism(const Plan& plan);

void check_tensor(const Plan& plan);
std::vector<Share> propose_tensor(const model::ModelConfig& teacher,
                                  const std::vector<Capacity>& devices);

std::vector<Program> compile_hepti(const Plan& plan, const RequestShape& shape,
                                   base::Element element);
void check_hepti(const Plan& plan);
std::vector<Division> divisions_hepti();

void check_galaxy(const Plan& plan);
std::vector<Division> divisions_galaxy();

}  // namespace cleave::plan
