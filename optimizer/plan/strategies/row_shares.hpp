#pragma once

#include <cstdint>
#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

// What strategies share that divide the rows of a sequence over devices with all weights.

/// Devices with rows; the others have nothing to do.
std::size_t computing_rows(const Plan& plan);

/// Rows of the sequence as the shares want them, for each device that computes: what is left over
/// goes to the largest remainders, of equal ones to the first. Who would have none takes one of the
/// most; there have to be as many as devices.
std::vector<model::Range> divided_rows(const Plan& plan, std::int64_t rows);

/// Throws std::invalid_argument where the plan's shares are no rows of a teacher that answers.
void check_row_shares(const Plan& plan);

/// Rows by speed, for each of the devices.
std::vector<Share> propose_row_shares(const model::ModelConfig& teacher,
                                      const std::vector<Capacity>& devices);

}  // namespace cleave::plan
