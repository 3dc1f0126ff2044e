#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

/// Heads, columns and vocabulary of every layer for `devices` devices, equal up to one unit.
std::vector<Share> equal_shares(const model::ModelConfig& teacher, std::size_t devices);

/// Megatron-LM (Shoeybi and others 2019): each device computes its heads and columns on the whole
/// stream, and two all-reduces a layer add up what they bring. A language model's answer comes from
/// all of them, each with its tokens; any other from the first. Programs of all the plan's ranks,
/// of which the first compute, one of `shares` each.
std::vector<Program> by_heads_and_columns(const Plan& plan, const std::vector<Share>& shares,
                                          AllReduce all_reduce, const RequestShape& shape,
                                          base::Element element);

}  // namespace cleave::plan
