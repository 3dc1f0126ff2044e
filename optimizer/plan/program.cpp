#include "optimizer/plan/program.hpp"

#include <algorithm>
#include <stdexcept>

#include "base/digest.hpp"
#include "optimizer/plan/names.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {
namespace {

/// A request larger than this is a mistake, and products of dimensions stay far from overflow.
constexpr std::int64_t max_batch = 1 << 16;

const ValueInfo& info(const Program& program, ValueId value) {
  return program.values.at(static_cast<std::size_t>(value));
}

const PlanPart& part_of(const Instruction& instruction, const Plan& plan) {
  return plan.parts.at(static_cast<std::size_t>(instruction.part));
}

/// What an instruction is over, by the value that it reads first: ids [B, N] or features [B, T, D].
Load load_of(const Instruction& instruction, const Program& program, const Plan& plan) {
  const auto& dims = info(program, instruction.operands.at(0)).dims;
  Load load{dims.at(0), dims.at(1), 0};
  if (plan.teacher.causal) load.past = planned_load(plan.shape).past;
  return load;
}

/// What answers are shaped like, of features of T rows.
std::vector<std::int64_t> answer_dims(const model::ModelConfig& config, std::int64_t batch,
                                      std::int64_t rows) {
  if (config.task == model::Task::embedding) return {batch, config.width};
  if (config.reads_every_token()) return {batch, rows, config.classes};
  return {batch, config.classes};
}

std::vector<std::int64_t> widths_of(const Plan& plan) {
  std::vector<std::int64_t> widths;
  for (const PlanPart& part : plan.parts) widths.push_back(part.config.width);
  return widths;
}

double real(std::int64_t count) { return static_cast<double>(count); }

/// Each set's A^S [D, Σ D_p] and b^S [D], or each part's A_p [D, D_p], b_p, m_p and c_p [D] where
/// parts share a head; the teacher's head.
double fusion_bytes(const Plan& plan) {
  const double width = real(plan.teacher.width);
  double numbers = 0;
  for (const model::Parameter& parameter : model::head_parameters(plan.teacher))
    numbers += real(parameter.count());
  double widths = 0;
  for (const PlanPart& part : plan.parts) widths += real(part.config.width);
  const std::size_t parts = plan.parts.size();
  if (parts > model::most_parts_with_subsets) {
    numbers += width * (widths + 3 * real(static_cast<std::int64_t>(parts)));
  } else {
    const double half = real(std::int64_t{1} << (parts - 1));  // the sets that a part is in
    numbers += width * (half * widths + 2 * half - 1);
  }
  return numbers * 4;
}

/// Alive while fusing: the sum, the next term, what covers it and the answers; and libtorch's code
/// that the first fusion brings into memory (measured as in work.cpp).
double fusion_scratch_bytes(const Plan& plan, const Load& load) {
  constexpr double first_fusion_bytes = 7e6;
  const double rows = real(load.batch * feature_rows(plan.teacher, load.tokens));
  return 4 * rows * (4 * real(plan.teacher.width) + 2 * real(plan.teacher.classes)) +
         first_fusion_bytes;
}

/// Beside the values: what one instruction allocates while it runs. Where texts are generated, the
/// prompt's pass is the larger one, and the cache stays.
double scratch_bytes(const Instruction& instruction, const Program& program, const Plan& plan) {
  Load load{};
  if (instruction.op == Op::sub_model || instruction.op == Op::fuse)
    load = load_of(instruction, program, plan);
  if (instruction.op == Op::fuse) return fusion_scratch_bytes(plan, load);
  if (instruction.op != Op::sub_model) return 0;
  const model::ModelConfig& config = part_of(instruction, plan).config;
  const RequestShape& shape = plan.shape;
  if (shape.generate == 0) return forward_bytes(config, load);
  return forward_bytes(config, Load{load.batch, shape.tokens, 0}) +
         cache_bytes(config, load.batch, shape.tokens + shape.generate);
}

/// Beside the weights while they are loaded: the largest tensor in its file.
double loading_bytes_of(const Instruction& instruction, const Plan& plan) {
  if (instruction.op == Op::sub_model) return loading_bytes(part_of(instruction, plan).config);
  if (instruction.op != Op::fuse) return 0;
  double largest = 0;
  for (const model::Parameter& parameter : model::head_parameters(plan.teacher))
    largest = std::max(largest, real(parameter.count()));
  for (const PlanPart& part : plan.parts)
    largest = std::max(largest, real(plan.teacher.width) * real(part.config.width));
  return 4 * largest;
}

std::string dims_text(const std::vector<std::int64_t>& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims[i]);
  }
  return text + "]";
}

std::string arguments_text(const Instruction& instruction, const Program& program) {
  std::string text;
  const auto append = [&text](const std::string& argument) {
    if (!text.empty()) text += ", ";
    text += argument;
  };
  for (const ValueId operand : instruction.operands) append(info(program, operand).name);
  if (instruction.part >= 0) append("part " + std::to_string(instruction.part));
  if (instruction.with_head) append("with head");
  const std::string peer = std::to_string(instruction.peer);
  if (instruction.op == Op::send) text += " -> " + peer;
  if (instruction.op == Op::receive) append("<- " + peer);
  if (instruction.op == Op::send || instruction.op == Op::receive)
    append("tag " + std::to_string(instruction.tag));
  if (instruction.may_be_absent) append("may be absent");
  return text;
}

std::string line_text(const Instruction& instruction, const Program& program) {
  std::string text =
      std::string(name_of(instruction.op)) + "(" + arguments_text(instruction, program) + ")";
  if (instruction.result < 0) return text + "\n";
  const ValueInfo& result = info(program, instruction.result);
  return result.name + " = " + text + "  # " + std::string(base::name_of(result.element)) + " " +
         dims_text(result.dims) + "\n";
}

/// The same text on every machine: integers and names only.
std::string digest_of(const std::vector<Program>& programs) {
  std::string text;
  for (const Program& program : programs) text += to_text(program);
  return base::sha256(text);
}

}  // namespace

double ValueInfo::bytes() const {
  double count = static_cast<double>(base::size_of(element));
  for (const std::int64_t dim : dims) count *= real(dim);
  return count;
}

ValueId ProgramBuilder::value(std::string name, base::Element element,
                              std::vector<std::int64_t> dims) {
  program_.values.push_back({std::move(name), element, std::move(dims)});
  return static_cast<ValueId>(program_.values.size() - 1);
}

ValueId ProgramBuilder::input(const model::ModelConfig& config, const RequestShape& shape) {
  Instruction instruction;
  instruction.op = Op::input;
  instruction.result =
      config.is_text()
          ? value("x", base::Element::i32, {shape.batch, shape.tokens})
          : value("x", base::Element::u8,
                  {shape.batch, config.channels, config.image_height, config.image_width});
  program_.instructions.push_back(instruction);
  return instruction.result;
}

ValueId ProgramBuilder::sub_model(std::int32_t part, const model::ModelConfig& config,
                                  ValueId given, bool with_head) {
  const std::int64_t batch = info(given).dims.at(0);
  const std::int64_t rows = feature_rows(config, info(given).dims.at(1));
  Instruction instruction;
  instruction.op = Op::sub_model;
  instruction.operands = {given};
  instruction.part = part;
  instruction.with_head = with_head;
  instruction.result = with_head ? value("y", base::Element::f32, answer_dims(config, batch, rows))
                                 : value("f_" + std::to_string(part), base::Element::f32,
                                         {batch, rows, config.width});
  program_.instructions.push_back(instruction);
  return instruction.result;
}

void ProgramBuilder::send(ValueId value, std::int32_t peer, std::uint32_t tag) {
  Instruction instruction;
  instruction.op = Op::send;
  instruction.operands = {value};
  instruction.peer = peer;
  instruction.tag = tag;
  program_.instructions.push_back(instruction);
}

ValueId ProgramBuilder::receive(const ValueInfo& like, std::int32_t peer, std::uint32_t tag,
                                bool may_be_absent) {
  Instruction instruction;
  instruction.op = Op::receive;
  instruction.peer = peer;
  instruction.tag = tag;
  instruction.may_be_absent = may_be_absent;
  instruction.result = value(like.name, like.element, like.dims);
  program_.instructions.push_back(instruction);
  return instruction.result;
}

ValueId ProgramBuilder::fuse(const model::ModelConfig& teacher, std::vector<ValueId> features) {
  Instruction instruction;
  instruction.op = Op::fuse;
  const auto& dims = info(features.at(0)).dims;
  instruction.result = value("y", base::Element::f32, answer_dims(teacher, dims.at(0), dims.at(1)));
  instruction.operands = std::move(features);
  program_.instructions.push_back(instruction);
  return instruction.result;
}

void ProgramBuilder::output(ValueId value) {
  Instruction instruction;
  instruction.op = Op::output;
  instruction.operands = {value};
  program_.instructions.push_back(instruction);
}

const std::vector<Strategy>& strategies() {
  static const std::vector<Strategy> table = {
      {"local", "the best single device runs everything", compile_local, check_local},
      {"decomposed", "a sub-model on each device, features fused at the end", compile_decomposed,
       check_decomposed},
  };
  return table;
}

const Strategy& find_strategy(const std::string& name) {
  std::string known;
  for (const Strategy& strategy : strategies()) {
    if (strategy.name == name) return strategy;
    known += (known.empty() ? "" : ", ") + std::string(strategy.name);
  }
  throw std::invalid_argument("[strategy] saw " + shown(name) + ", needs one of " + known);
}

std::vector<Program> compile(const Plan& plan, const RequestShape& planned) {
  RequestShape shape = planned;
  if (shape.generate > 0) shape = {shape.batch, 1, 0};  // a step
  if (plan.teacher.is_text() && (shape.tokens < 1 || shape.tokens > plan.teacher.context))
    throw std::invalid_argument("[compile] shape.tokens: saw " + std::to_string(shape.tokens) +
                                ", needs 1.." + std::to_string(plan.teacher.context) + ", " +
                                plan.teacher.context_name());
  if (shape.batch < 1 || shape.batch > max_batch)
    throw std::invalid_argument("[compile] shape.batch: saw " + std::to_string(shape.batch) +
                                ", needs 1.." + std::to_string(max_batch));
  check(plan);
  std::vector<Program> programs = find_strategy(plan.strategy).compile(plan, shape);
  const std::string digest = digest_of(programs);
  for (Program& program : programs) program.digest = digest;
  return programs;
}

Load planned_load(const RequestShape& shape) {
  if (shape.generate == 0) return {shape.batch, shape.tokens, 0};
  return {shape.batch, 1, shape.tokens + shape.generate / 2};
}

std::string to_text(const Program& program) {
  std::string text = "rank " + std::to_string(program.rank) + ":\n";
  for (const Instruction& instruction : program.instructions)
    text += "  " + line_text(instruction, program);
  return text;
}

std::string_view name_of(Op op) {
  switch (op) {
    case Op::input:
      return "input";
    case Op::sub_model:
      return "sub_model";
    case Op::send:
      return "send";
    case Op::receive:
      return "receive";
    case Op::fuse:
      return "fuse";
    case Op::output:
      return "output";
  }
  return "?";
}

std::vector<Kernel> kernels_of(const Instruction& instruction, const Program& program,
                               const Plan& plan) {
  switch (instruction.op) {
    case Op::sub_model:
      return kernels_of_model(part_of(instruction, plan).config,
                              load_of(instruction, program, plan), instruction.with_head);
    case Op::fuse:
      return kernels_of_fusion(plan.teacher, widths_of(plan), load_of(instruction, program, plan));
    case Op::input:
    case Op::send:
    case Op::receive:
    case Op::output:
      return {};
  }
  return {};
}

double running_bytes(const Program& program, const Plan& plan) {
  double values = 0, scratch = 0;
  for (const ValueInfo& value : program.values) values += value.bytes();
  for (const Instruction& instruction : program.instructions)
    scratch = std::max(scratch, scratch_bytes(instruction, program, plan));
  return values + scratch;
}

double working_bytes(const Program& program, const Plan& plan) {
  double loading = 0;
  for (const Instruction& instruction : program.instructions)
    loading = std::max(loading, loading_bytes_of(instruction, plan));
  return std::max(running_bytes(program, plan), loading);
}

double resident_bytes(const Program& program, const Plan& plan) {
  double bytes = serving_bytes;
  for (const Instruction& instruction : program.instructions) {
    if (instruction.op == Op::sub_model) bytes += weight_bytes(part_of(instruction, plan).config);
    if (instruction.op == Op::fuse) bytes += fusion_bytes(plan);
  }
  return bytes;
}

}  // namespace cleave::plan
