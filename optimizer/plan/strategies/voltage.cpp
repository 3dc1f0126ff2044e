#include <string>

#include "optimizer/plan/strategies/shared_pass.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

// Voltage (Hu and Li 2024), the "full-tensor exchange" of later papers: each device has all weights
// and computes some rows of the sequence; before each attention the rows that keys and values are
// computed from are gathered, (P-1)/P·N·D numbers from each device.

namespace cleave::plan {

std::vector<Division> divisions_voltage() {
  Division rows;
  rows.rows = true;
  return {rows};
}

void check_voltage(const Plan& plan) {
  expect_shares(plan);
  expect_division(plan, divisions_voltage().front());
  if (plan.gathered != Gathered::rows)
    refuse("gathered", "'" + std::string(name_of(plan.gathered)) + "'",
           "'" + std::string(name_of(Gathered::rows)) + "': the strategy 'voltage' exchanges rows");
}

}  // namespace cleave::plan
