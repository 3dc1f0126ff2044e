#include "optimizer/plan/cost.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "model/config/config.hpp"
#include "optimizer/plan/weights.hpp"

namespace cleave::plan {
namespace {

double real(std::int64_t count) { return static_cast<double>(count); }

std::vector<std::int64_t> widths_of(const Plan& plan) {
  std::vector<std::int64_t> widths;
  for (const PlanPart& part : plan.parts) widths.push_back(part.sub_model().config.width);
  return widths;
}

/// Each set's A^S [D, Σ D_p] and b^S [D], or each part's A_p [D, D_p], b_p, m_p and c_p [D] where
/// parts share a head; the teacher's head.
double fusion_bytes(const Plan& plan) {
  const double width = real(plan.teacher.width);
  double numbers = 0;
  for (const model::Parameter& parameter : model::head_parameters(plan.teacher))
    numbers += real(parameter.count());
  double widths = 0;
  for (const PlanPart& part : plan.parts) widths += real(part.sub_model().config.width);
  const std::size_t parts = plan.parts.size();
  if (parts > model::most_parts_with_subsets) {
    numbers += width * (widths + 3 * real(static_cast<std::int64_t>(parts)));
  } else {
    const double half = real(std::int64_t{1} << (parts - 1));  // the sets that a part is in
    numbers += width * (half * widths + 2 * half - 1);
  }
  return numbers * 4;
}

/// What the operations cost, in one place for each; those that compute nothing cost nothing.
class Costs {
 public:
  Costs(const Program& program, const Plan& plan) : program_(program), plan_(plan) {}

  // ---- fuse ----

  std::vector<Kernel> kernels(const Fuse& i) const {
    return kernels_of_fusion(plan_.teacher, widths_of(plan_), load_of(i.features.at(0)));
  }
  /// Alive while fusing: the sum, the next term, what covers it and the answers; and libtorch's
  /// code that the first fusion brings into memory (measured as in work.cpp).
  double scratch_bytes(const Fuse& i) const {
    constexpr double first_fusion_bytes = 7e6;
    const Load load = load_of(i.features.at(0));
    const double rows = real(load.batch * feature_rows(plan_.teacher, load.tokens));
    return 4 * rows * (4 * real(plan_.teacher.width) + 2 * real(plan_.teacher.classes)) +
           first_fusion_bytes;
  }
  /// The largest tensor in its file.
  double loading_bytes(const Fuse&) const {
    double largest = 0;
    for (const model::Parameter& parameter : model::head_parameters(plan_.teacher))
      largest = std::max(largest, real(parameter.count()));
    for (const PlanPart& part : plan_.parts)
      largest = std::max(largest, real(plan_.teacher.width) * real(part.sub_model().config.width));
    return 4 * largest;
  }
  double weight_bytes(const Fuse&) const { return fusion_bytes(plan_); }

  // ---- pieces of a forward pass ----

  std::vector<Kernel> kernels(const Embed& i) const {
    return kernels_of_embedding(config_of(i.part), load_of(i.given), i.rows);
  }
  /// Of images: what is normalised, its patches as rows, and their products.
  double scratch_bytes(const Embed& i) const {
    const model::ModelConfig& config = config_of(i.part);
    if (config.is_text()) return 0;
    const double pixels = real(rows_of(i.given) * last_of(i.given));
    const double patches = real(dims_of(i.given).at(0) * config.num_patches() * config.width);
    return 4 * (2 * pixels + patches);
  }
  std::vector<Kernel> kernels(const Norm& i) const {
    return {{KernelKind::norm, rows_of(i.x), 0, last_of(i.x)}};
  }
  std::vector<Kernel> kernels(const Project& i) const {
    return {{KernelKind::matmul, rows_of(i.x), last_of(i.x), last_of(i.result)}};
  }
  std::vector<Kernel> kernels(const Attend& i) const {
    const model::ModelConfig& config = config_of(i.part);
    const std::int64_t rows = rows_of(i.query), seen = dims_of(i.key).at(1) + past();
    std::vector<Kernel> kernels;
    if (config.rotary_base > 0)
      kernels.push_back({KernelKind::elementwise, 2 * rows, 0, last_of(i.query) + last_of(i.key)});
    kernels.push_back({KernelKind::attention, last_of(i.query) / config.head_width * rows,
                       config.head_width, seen});
    return kernels;
  }
  /// The scores before and behind the softmax; of several texts copies of the permuted operands.
  double scratch_bytes(const Attend& i) const {
    const model::ModelConfig& config = config_of(i.part);
    const double seen = real(dims_of(i.key).at(1) + past());
    const double scores = real(last_of(i.query) / config.head_width * rows_of(i.query)) * seen;
    const double copies = dims_of(i.query).at(0) > 1 ? 2 * real(rows_of(i.query)) : 0;
    // What marks say of every pair of keys.
    const double bias = i.marks < 0 ? 0 : real(rows_of(i.key)) * (config.causal ? seen : 1);
    return 4 * (2 * scores + copies * real(last_of(i.query)) + bias);
  }
  /// Of its own texts, where the batch is cut.
  double cache_bytes(const Attend& i, std::int64_t, std::int64_t tokens) const {
    const model::ModelConfig& config = config_of(i.part);
    const std::int64_t heads = i.rows.size() > 0 ? i.kept.size() : i.heads.size();
    return config.causal ? 4 * 2 * real(i.texts.size() * tokens * heads * config.head_width) : 0;
  }
  std::vector<Kernel> kernels(const AttendInputs& i) const {
    const std::int64_t rows = rows_of(i.query), width = last_of(i.x),
                       heads_width = last_of(i.query);
    return {{KernelKind::matmul, rows, heads_width, width},
            {KernelKind::attention, heads_width / config_of(i.part).head_width * rows, width,
             dims_of(i.x).at(1)},
            {KernelKind::matmul, rows, width, heads_width}};
  }
  /// Queries and contexts as wide as x for each head, and the scores before and behind the softmax.
  double scratch_bytes(const AttendInputs& i) const {
    const double rows = real(last_of(i.query) / config_of(i.part).head_width * rows_of(i.query));
    return 4 * 2 * rows * real(last_of(i.x) + dims_of(i.x).at(1));
  }
  std::vector<Kernel> kernels(const ProjectOut& i) const {
    return {{KernelKind::matmul, rows_of(i.context), last_of(i.context), last_of(i.result)}};
  }
  std::vector<Kernel> kernels(const MlpUp& i) const {
    const std::int64_t rows = rows_of(i.x), width = last_of(i.x), columns = i.columns.size();
    std::vector<Kernel> kernels = {{KernelKind::matmul, rows, width, columns}};
    if (config_of(i.part).gated) {
      kernels.push_back({KernelKind::matmul, rows, width, columns});
      kernels.push_back({KernelKind::elementwise, rows, 0, columns});
    }
    kernels.push_back({KernelKind::activation, rows, 0, columns});
    return kernels;
  }
  /// The columns before the activation, and the gate.
  double scratch_bytes(const MlpUp& i) const {
    return 4 * real(rows_of(i.x) * i.columns.size()) * (config_of(i.part).gated ? 2 : 1);
  }
  std::vector<Kernel> kernels(const MlpDown& i) const {
    return {
        {KernelKind::matmul, rows_of(i.activations), last_of(i.activations), last_of(i.result)}};
  }
  std::vector<Kernel> kernels(const AddBias& i) const { return elementwise(i.result); }
  std::vector<Kernel> kernels(const Add& i) const { return elementwise(i.result); }
  std::vector<Kernel> kernels(const Concat& i) const { return elementwise(i.result); }
  std::vector<Kernel> kernels(const Cast& i) const { return elementwise(i.result); }
  /// Rows of a slice are copied next to each other first.
  double scratch_bytes(const Cast& i) const {
    return 4 * real(rows_of(i.result) * last_of(i.result));
  }
  std::vector<Kernel> kernels(const ReadOut& i) const {
    std::vector<Kernel> kernels;
    const bool some_rows = i.rows.size() > 0;
    if (config_of(i.part).norm_placement == model::NormPlacement::before)
      kernels.push_back({KernelKind::norm, rows_of(some_rows ? i.x : i.result), 0, last_of(i.x)});
    if (some_rows)
      kernels.push_back({KernelKind::matmul, rows_of(i.result), i.rows.size(), last_of(i.x)});
    return kernels;
  }
  std::vector<Kernel> kernels(const Head& i) const {
    return kernels_of_head(config_of(i.part), load_of(i.feature), last_of(i.result));
  }

  // ---- rows that stand for several ----

  std::vector<Kernel> kernels(const Marks& i) const { return elementwise(i.result); }
  std::vector<Kernel> kernels(const SegmentMeans& i) const { return elementwise(i.x); }
  /// First from each row to each of those that centres begin at, one after the other; then the
  /// distance of each row to each centre, and the mean of each centre's rows.
  std::vector<Kernel> kernels(const Cluster& i) const {
    const std::int64_t rows = rows_of(i.x), width = last_of(i.x);
    std::vector<Kernel> kernels(static_cast<std::size_t>(i.segments),
                                {KernelKind::matmul, rows, width, 1});
    for (int step = 0; step < Cluster::steps; ++step) {
      kernels.push_back({KernelKind::matmul, rows, width, i.segments});
      kernels.push_back({KernelKind::elementwise, rows, 0, i.segments});
      kernels.push_back({KernelKind::matmul, rows_of(i.centres), i.rows.size(), width});
    }
    return kernels;
  }
  double scratch_bytes(const Cluster& i) const {
    return 4 * (3 * real(rows_of(i.x) * i.segments) + 2 * real(rows_of(i.centres) * last_of(i.x)));
  }

  // ---- the next token ----

  /// Penalising, comparing, and what the noise is added to.
  std::vector<Kernel> kernels(const Best& i) const {
    return {{KernelKind::elementwise, 3 * rows_of(i.logits), 0, last_of(i.logits)}};
  }
  /// The logits of one text in double precision.
  double scratch_bytes(const Best& i) const { return 8 * real(last_of(i.logits)); }
  /// Penalised logits.
  double cache_bytes(const Best& i, std::int64_t batch, std::int64_t) const {
    return i.kept < 0 ? 0 : 8 * real(batch * last_of(i.logits));
  }
  std::vector<Kernel> kernels(const SampleToken& i) const {
    std::vector<Kernel> kernels;
    for (const ValueId best : i.best) kernels.push_back(elementwise(best).front());
    return kernels;
  }
  double cache_bytes(const KeepIds&, std::int64_t batch, std::int64_t tokens) const {
    return 8 * real(batch * tokens);
  }
  std::vector<Kernel> kernels(const KeptLogits& i) const { return elementwise(i.result); }

  // ---- the others ----

  template <class Operation>
  std::vector<Kernel> kernels(const Operation&) const {
    return {};
  }
  template <class Operation>
  double scratch_bytes(const Operation&) const {
    return 0;
  }
  template <class Operation>
  double loading_bytes(const Operation&) const {
    return 0;
  }
  template <class Operation>
  double cache_bytes(const Operation&, std::int64_t, std::int64_t) const {
    return 0;
  }
  template <class Operation>
  double weight_bytes(const Operation&) const {
    return 0;
  }

 private:
  const model::ModelConfig& config_of(std::int32_t part) const {
    return plan::config_of(part, plan_);
  }
  const std::vector<std::int64_t>& dims_of(ValueId value) const {
    return program_.values.at(static_cast<std::size_t>(value)).dims;
  }
  /// [.., rows, last].
  std::int64_t last_of(ValueId value) const { return dims_of(value).back(); }
  std::int64_t rows_of(ValueId value) const {
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < dims_of(value).size(); ++i) rows *= dims_of(value)[i];
    return rows;
  }
  std::vector<Kernel> elementwise(ValueId value) const {
    return {{KernelKind::elementwise, rows_of(value), 0, last_of(value)}};
  }
  /// Tokens that are cached before those of a planned step.
  std::int64_t past() const { return plan_.teacher.causal ? planned_load(plan_.shape).past : 0; }
  /// What an instruction is over, by a value that it reads: ids [B, N] or features [B, T, D].
  Load load_of(ValueId value) const {
    const auto& dims = program_.values.at(static_cast<std::size_t>(value)).dims;
    Load load{dims.at(0), dims.at(1), 0};
    if (plan_.teacher.causal) load.past = planned_load(plan_.shape).past;
    return load;
  }

  const Program& program_;
  const Plan& plan_;
};

/// The most bytes of values that are alive, each from the instruction that writes it to the last
/// that reads it, and of what the instruction allocates beside them.
template <class Scratch>
double peak_of(const Program& program, const Scratch& scratch_of) {
  const auto at = [](ValueId value) { return static_cast<std::size_t>(value); };
  std::vector<std::size_t> last(program.values.size(), 0);
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    for_results(program.instructions[i], [&](ValueId result) { last.at(at(result)) = i; });
    for_operands(program.instructions[i], [&](ValueId operand) { last.at(at(operand)) = i; });
  }
  std::vector<double> ending(program.instructions.size(), 0);
  double alive = 0, peak = 0;
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    for_results(program.instructions[i], [&](ValueId result) {
      const double bytes = program.values[at(result)].bytes();
      alive += bytes;
      ending[last[at(result)]] += bytes;
    });
    peak = std::max(peak, alive + scratch_of(program.instructions[i]));
    alive -= ending[i];
  }
  return peak;
}

/// Rows of the stream that pieces of a forward pass compute; 0: the program has none.
std::int64_t rows_of_pieces(const Program& program) {
  std::int64_t most = 0;
  for (const Instruction& instruction : program.instructions)
    if (const auto* project = std::get_if<Project>(&instruction)) {
      const auto& dims = program.values.at(static_cast<std::size_t>(project->x)).dims;
      most = std::max(most, dims.at(0) * dims.at(1));
    }
  return most;
}

/// What a rank has of weights: all of a part's, or those of the teacher that its pieces read.
struct Weights {
  double bytes = 0;
  double loading_bytes = 0;  // more for a moment
};
/// Of a plan whose texts are generated: the plan of a prompt, and the rank's program of it. A
/// strategy may divide a prompt in another way than a step.
Plan prompt_plan(const Plan& plan) {
  Plan prompt = plan;
  prompt.shape.generate = 0;
  return prompt;
}
Program prompt_of(const Program& program, const Plan& prompt) {
  return drafts(prompt, prompt.shape).at(static_cast<std::size_t>(program.rank));
}

Weights weights_on(const Program& program, const Plan& plan) {
  Weights on;
  std::vector<const Program*> programs = {&program};
  Program prompt;
  if (plan.shape.generate > 0) {
    prompt = prompt_of(program, prompt_plan(plan));
    programs.push_back(&prompt);
  }
  std::set<std::int32_t> parts;
  for (const WeightRange& weights : weights_of(programs, plan)) {
    if (weights.part != teacher_part) {
      parts.insert(weights.part);
      continue;
    }
    const double bytes = 4 * real(model::count_of(weights.held, plan.teacher));
    on.bytes += bytes;
    on.loading_bytes = std::max(on.loading_bytes, bytes);
  }
  for (const std::int32_t part : parts) {
    const model::ModelConfig& config = config_of(part, plan);
    on.bytes += weight_bytes(config);
    on.loading_bytes = std::max(on.loading_bytes, loading_bytes(config));
  }
  return on;
}

/// What is sent is kept until it is written, whatever is computed meanwhile: one value for each
/// link, the largest; one that goes over several links is kept once.
double bytes_under_way(const Program& program) {
  const auto bytes_of = [&](ValueId value) {
    return program.values.at(static_cast<std::size_t>(value)).bytes();
  };
  std::map<std::int32_t, ValueId> largest;  // by link
  for (const Instruction& instruction : program.instructions)
    if (const auto* send = std::get_if<Send>(&instruction)) {
      ValueId& value = largest.emplace(send->peer, send->value).first->second;
      if (bytes_of(send->value) > bytes_of(value)) value = send->value;
    }
  std::set<ValueId> kept;
  for (const auto& [peer, value] : largest) kept.insert(value);
  double sum = 0;
  for (const ValueId value : kept) sum += bytes_of(value);
  return sum;
}

}  // namespace

std::vector<Kernel> kernels_of(const Instruction& instruction, const Program& program,
                               const Plan& plan) {
  const Costs costs(program, plan);
  return std::visit([&costs](const auto& i) { return costs.kernels(i); }, instruction);
}

double flops_of(const Program& program, const Plan& plan, std::int64_t past) {
  Plan asked = plan;  // whose planned step stands behind so many tokens
  asked.shape.tokens = past;
  asked.shape.generate = past > 0 ? 1 : 0;
  double sum = 0;
  for (const Instruction& instruction : program.instructions)
    for (const Kernel& kernel : kernels_of(instruction, program, asked)) sum += kernel.flops();
  return sum;
}

double values_bytes(const Program& program) {
  return peak_of(program, [](const Instruction&) { return 0.0; }) + bytes_under_way(program);
}

double running_bytes(const Program& program, const Plan& plan) {
  const Costs costs(program, plan);
  const double peak = peak_of(program, [&costs](const Instruction& instruction) {
    return std::visit([&costs](const auto& i) { return costs.scratch_bytes(i); }, instruction);
  });
  const RequestShape& shape = plan.shape;
  double kept = 0;
  if (shape.generate > 0) {
    kept = cache_bytes(program, plan, shape.batch, shape.tokens + shape.generate);
    // A program of pieces is a forward pass: of a text that is generated, its prompt's.
    const Plan prompt = prompt_plan(plan);
    const Program first = prompt_of(program, prompt);
    if (rows_of_pieces(first) > 0 || rows_of_pieces(program) > 0)
      return running_bytes(first, prompt) + kept;
  }
  const std::int64_t rows = rows_of_pieces(program);
  const double tensors = peak + bytes_under_way(program) + kept;
  return rows == 0 ? tensors : process_bytes(tensors, rows);
}

double cache_bytes(const Program& program, const Plan& plan, std::int64_t batch,
                   std::int64_t tokens) {
  const Costs costs(program, plan);
  double bytes = 0;
  for (const Instruction& instruction : program.instructions)
    bytes +=
        std::visit([&](const auto& i) { return costs.cache_bytes(i, batch, tokens); }, instruction);
  return bytes;
}

double working_bytes(const Program& program, const Plan& plan) {
  const Costs costs(program, plan);
  double loading = 0;
  for (const Instruction& instruction : program.instructions)
    loading = std::max(
        loading,
        std::visit([&costs](const auto& i) { return costs.loading_bytes(i); }, instruction));
  loading = std::max(loading, weights_on(program, plan).loading_bytes);
  return std::max(running_bytes(program, plan), loading);
}

double weight_bytes(const Program& program, const Plan& plan) {
  return weights_on(program, plan).bytes;
}

double resident_bytes(const Program& program, const Plan& plan) {
  const Costs costs(program, plan);
  double bytes = serving_bytes;
  for (const Instruction& instruction : program.instructions)
    bytes += std::visit([&costs](const auto& i) { return costs.weight_bytes(i); }, instruction);
  bytes += weights_on(program, plan).bytes;
  return bytes;
}

}  // namespace cleave::plan
