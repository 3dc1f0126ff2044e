#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "optimizer/plan/plan.hpp"

namespace cleave::tools {

// Who has how much, one cell for so many units: █ all, ▓▒░ some, · none.

/// Of `total` units those that are kept; no more cells than units.
std::string strip(const std::vector<std::int64_t>& kept, std::int64_t total, int cells);
/// Of an axis of `total` units that is so many cells long, what these ranges of it cover on
/// average.
std::string bar(const std::vector<model::Range>& ranges, std::int64_t total, int cells);

/// A plan of shares in at most so many columns, for each device a line for its layers, for heads
/// and MLP columns of these, for a text model's tokens, and, where they are divided, for the rows
/// of the planned sequence:
///
///     hub  layers       ██████████  0:6 of 6
///          heads        ███▓······  0:2 of 6
std::string drawing(const plan::Plan& plan, int columns);

/// Rows of the planned sequence that each device takes; none where they are not divided, or fewer
/// than devices.
std::vector<model::Range> planned_rows(const plan::Plan& plan);

}  // namespace cleave::tools
