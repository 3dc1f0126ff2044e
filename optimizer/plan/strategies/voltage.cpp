#include <algorithm>
#include <cmath>
#include <string>

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
  if (plan.gathered != Gathered::rows)
    refuse("gathered", "'" + std::string(name_of(plan.gathered)) + "'",
           "'" + std::string(name_of(Gathered::rows)) + "': the strategy 'voltage' exchanges rows");
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

std::vector<Share> divide_voltage(const model::ModelConfig& teacher,
                                  const std::vector<std::int64_t>& weights) {
  std::vector<Share> shares(weights.size(), whole_share(teacher));
  for (std::size_t p = 0; p < weights.size(); ++p) shares[p].rows = weights[p];
  return shares;
}

}  // namespace cleave::plan
