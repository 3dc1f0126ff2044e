#include <algorithm>
#include <cmath>

#include "optimizer/plan/strategies/shared_pass.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

// Voltage (Hu and Li 2024), the "full-tensor exchange" of later papers: each device has all weights
// and computes some rows of the sequence; before each attention the rows that keys and values are
// computed from are gathered, (P-1)/P·N·D numbers from each device.

namespace cleave::plan {

void check_voltage(const Plan& plan) {
  expect_shares(plan);
  Division rows;
  rows.rows = true;
  expect_division(plan, rows);
}

/// By speed.
std::vector<Share> propose_voltage(const model::ModelConfig& teacher,
                                   const std::vector<Capacity>& devices) {
  constexpr double grain = 1000;
  double fastest = 0;
  for (const Capacity& device : devices) fastest = std::max(fastest, device.speed);
  std::vector<Share> shares(devices.size(), whole_share(teacher));
  for (std::size_t p = 0; p < devices.size(); ++p)
    shares[p].rows = std::max<std::int64_t>(1, std::llround(grain * devices[p].speed / fastest));
  return shares;
}

}  // namespace cleave::plan
