#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "optimizer/plan/forward_builder.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::plan {

// What strategies have in common that divide each block among devices.

/// Heads, columns and vocabulary of every layer for `devices` devices, equal up to one unit.
std::vector<Share> equal_shares(const model::ModelConfig& teacher, std::size_t devices);
/// The same by weight: heads of keys and values, columns, tokens (ranges_by_weight).
std::vector<Share> shares_by_weight(const model::ModelConfig& teacher,
                                    const std::vector<std::int64_t>& weights);
/// Of what is divided by its weights, and of the rest all.
std::vector<Share> shares_by_weight(const model::ModelConfig& teacher, const Division& division,
                                    const Weights& weights);

/// One forward pass that ranks compute together. What each of them has whole is not divided.
struct SharedPass {
  std::vector<Share> shares;  // of the ranks that compute, the first ones
  /// Rows of the stream by rank; none: each keeps all of it.
  std::vector<model::Range> rows;
  bool overlap = false;  // see RowSplit
  Gathered gathered = Gathered::rows;
  bool reordered = false;
  /// Who takes which heads in the steps that continue a text whose queries are divided by rows.
  std::vector<Share> steps;
  AllReduce all_reduce = AllReduce::ring;
  base::Element wire = base::Element::f32;  // see Plan
};

/// Programs of `ranks` ranks and of the aggregator, which is rank `ranks`. A language model's
/// answer comes from each rank that has some of its tokens, or some of its rows; any other from the
/// first.
std::vector<Program> compile_shared(const model::ModelConfig& teacher, const SharedPass& pass,
                                    std::int32_t ranks, const RequestShape& shape,
                                    base::Element element);

/// The shares of a plan as they are, each rank with the whole stream.
std::vector<Program> compile_whole_stream(const Plan& plan, const RequestShape& shape,
                                          base::Element element);
/// Each rank with rows keeps those of the stream: what is left over goes to the largest remainders,
/// and who would have none takes one of the most. A sequence of fewer rows than devices, as a step
/// of a generated text is, is divided by heads, columns and tokens; of what every device has, by
/// their rows.
std::vector<Program> compile_by_rows(const Plan& plan, const RequestShape& shape,
                                     base::Element element);

/// Speeds beside the fastest one's, as whole numbers above 0.
std::vector<std::int64_t> weights_by_speed(const std::vector<Capacity>& devices);
/// Shares of devices that each have all weights: rows by speed, or by weight.
std::vector<Share> propose_rows(const model::ModelConfig& teacher,
                                const std::vector<Capacity>& devices);
std::vector<Share> divide_rows(const model::ModelConfig& teacher,
                               const std::vector<std::int64_t>& weights);
/// Rows of a request's sequences: tokens of a text, or an image's.
std::int64_t rows_in(const model::ModelConfig& config, const RequestShape& shape);
/// Rows of a sequence for each device whose share has some: at least one, where there are as many.
std::vector<model::Range> rows_of(const Plan& plan, std::int64_t rows);

// Checks of a plan; each throws std::invalid_argument.

/// Each part is a share, of a teacher that answers.
void expect_shares(const Plan& plan);
/// Of what is divided the shares are consecutive ranges by rank, all together all there is, and
/// each has rows; of what is not, each is all, and none has rows. Where rows alone are divided, the
/// last devices may have none.
void expect_division(const Plan& plan, const Division& division);

}  // namespace cleave::plan
