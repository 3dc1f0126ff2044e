#pragma once

#include <string>
#include <utility>
#include <vector>

#include "optimizer/plan/program.hpp"

namespace cleave::plan {

/// Writes one rank's program: each call appends an instruction and gives the value it writes.
class ProgramBuilder {
 public:
  /// `element`: of what is computed, f32 or f64.
  explicit ProgramBuilder(std::int32_t rank, base::Element element = base::Element::f32)
      : element_(element) {
    program_.rank = rank;
  }

  /// What the request gives: pixels, uint8 [B, c, h, w], or token ids, int32 [B, N].
  ValueId input(const model::ModelConfig& config, const RequestShape& shape);
  /// How the next token of each of B texts is chosen.
  ValueId sampling(std::int64_t batch);
  // The pieces of a forward pass: see instruction.hpp. `config` is that of `part`.
  ValueId lengths(ValueId ids, std::int32_t part);
  ValueId embed(const model::ModelConfig& config, std::int32_t part, ValueId given, ValueId lengths,
                model::Range vocabulary, bool positions, model::Range rows = {});
  ValueId norm(std::int32_t part, std::int32_t layer, model::NormOf which, ValueId x);
  ValueId project(const model::ModelConfig& config, std::int32_t part, std::int32_t layer,
                  model::Projection which, model::Range heads, ValueId x);
  /// Of rows that are the texts `texts` of what `lengths` counts.
  ValueId attend(std::int32_t part, std::int32_t layer, model::Range heads, model::Range texts,
                 ValueId query, ValueId key, ValueId value, ValueId lengths, model::Range rows = {},
                 model::Range kept = {}, ValueId marks = -1);
  ValueId attend_inputs(std::int32_t part, std::int32_t layer, model::Range heads, ValueId query,
                        ValueId x, ValueId lengths, model::Range rows);
  ValueId project_out(const model::ModelConfig& config, std::int32_t part, std::int32_t layer,
                      model::Range heads, bool with_bias, ValueId context);
  ValueId mlp_up(std::int32_t part, std::int32_t layer, model::Range columns, ValueId x);
  ValueId mlp_down(const model::ModelConfig& config, std::int32_t part, std::int32_t layer,
                   model::Range columns, bool with_bias, ValueId activations, ValueId after = -1);
  ValueId add_bias(std::int32_t part, std::int32_t layer, model::Half half, ValueId x);
  ValueId add(ValueId a, ValueId b);
  /// The value itself where nothing is left out.
  ValueId slice(ValueId x, std::int32_t axis, model::Range range);
  /// The value itself where it is one.
  ValueId concat(std::vector<ValueId> pieces, std::int32_t axis);
  /// The value itself where it is of that element.
  ValueId cast(ValueId x, base::Element to);
  ValueId read_out(const model::ModelConfig& config, std::int32_t part, ValueId x, ValueId lengths,
                   model::Range rows = {});
  ValueId head(const model::ModelConfig& config, std::int32_t part, model::Range vocabulary,
               ValueId feature);

  /// Of B sequences. `lengths`: −1 of images.
  ValueId marks(std::int64_t batch, ValueId lengths, model::Range rows, std::int64_t segments);
  /// The rows themselves where there is a segment for each.
  ValueId segment_means(ValueId x, ValueId lengths, model::Range rows, std::int64_t segments);
  /// Centres and their marks.
  std::pair<ValueId, ValueId> cluster(ValueId x, ValueId lengths, model::Range rows,
                                      std::int64_t segments);

  ValueId keep_ids(ValueId ids);
  /// At most k, as many as there are tokens. `kept`: −1 where the logits are penalised.
  ValueId best(ValueId logits, ValueId sampling, ValueId kept, model::Range vocabulary,
               std::int64_t k);
  ValueId sample(std::vector<ValueId> best, ValueId sampling);
  ValueId kept_logits(std::int64_t batch, model::Range vocabulary);

  void send(ValueId value, std::int32_t peer, std::uint32_t tag);
  /// What `peer` sends under `tag`: shape and element of `like`; it is called `name`.
  ValueId receive(std::string name, const ValueInfo& like, std::int32_t peer, std::uint32_t tag,
                  bool may_be_absent);
  /// Features of the parts, absent ones too -> what the teacher's head answers.
  ValueId fuse(const model::ModelConfig& teacher, std::vector<ValueId> features);
  void output(ValueId value);

  /// What is computed.
  base::Element element() const { return element_; }
  ValueInfo info(ValueId value) const { return program_.values[static_cast<std::size_t>(value)]; }
  Program take() { return std::move(program_); }

 private:
  ValueId value(std::string name, base::Element element, std::vector<std::int64_t> dims);
  /// A computed value named after what made it and how many there are: "h12".
  ValueId computed(const char* letter, std::vector<std::int64_t> dims);
  template <class Operation>
  ValueId append(Operation operation) {
    program_.instructions.emplace_back(operation);
    return operation.result;
  }
  Program program_;
  base::Element element_;
};

}  // namespace cleave::plan
