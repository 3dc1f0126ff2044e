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

/// B of the value that an instruction reads first.
std::int64_t batch_of(const Instruction& instruction, const Program& program) {
  return info(program, instruction.operands.at(0)).dims.at(0);
}

std::vector<std::int64_t> widths_of(const Plan& plan) {
  std::vector<std::int64_t> widths;
  for (const PlanPart& part : plan.parts) widths.push_back(part.config.width);
  return widths;
}

double real(std::int64_t count) { return static_cast<double>(count); }

/// A_p [D, D_p], b_p, m_p and c_p [D] of each part; a classifier for each summary token.
double fusion_bytes(const Plan& plan) {
  const double width = real(plan.teacher.width), classes = real(plan.teacher.classes);
  double numbers = real(plan.teacher.summary_tokens) * classes * (width + 1);
  for (const PlanPart& part : plan.parts) numbers += width * (real(part.config.width) + 3);
  return numbers * 4;
}

/// Alive while fusing: the sum, the next term, what covers it and the answers; and libtorch's code
/// that the first fusion brings into memory (measured as in work.cpp).
double fusion_scratch_bytes(const Plan& plan, std::int64_t batch) {
  constexpr double first_fusion_bytes = 7e6;
  const double tokens = real(batch * plan.teacher.summary_tokens);
  return 4 * tokens * (4 * real(plan.teacher.width) + 2 * real(plan.teacher.classes)) +
         first_fusion_bytes;
}

/// Beside the values: what one instruction allocates while it runs.
double scratch_bytes(const Instruction& instruction, const Program& program, const Plan& plan) {
  if (instruction.op == Op::sub_model)
    return forward_bytes(part_of(instruction, plan).config, batch_of(instruction, program));
  if (instruction.op == Op::fuse) return fusion_scratch_bytes(plan, batch_of(instruction, program));
  return 0;
}

/// Beside the weights while they are loaded: the largest tensor in its file.
double loading_bytes_of(const Instruction& instruction, const Plan& plan) {
  if (instruction.op == Op::sub_model) return loading_bytes(part_of(instruction, plan).config);
  if (instruction.op != Op::fuse) return 0;
  std::int64_t columns = plan.teacher.classes;
  for (const PlanPart& part : plan.parts) columns = std::max(columns, part.config.width);
  return 4 * real(plan.teacher.width) * real(columns);
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

ValueId ProgramBuilder::input(const model::ModelConfig& config, std::int64_t batch) {
  Instruction instruction;
  instruction.op = Op::input;
  instruction.result = value("x", base::Element::u8,
                             {batch, config.channels, config.image_height, config.image_width});
  program_.instructions.push_back(instruction);
  return instruction.result;
}

ValueId ProgramBuilder::sub_model(std::int32_t part, const model::ModelConfig& config,
                                  ValueId pixels, bool with_head) {
  const std::int64_t batch = info(pixels).dims.front();
  Instruction instruction;
  instruction.op = Op::sub_model;
  instruction.operands = {pixels};
  instruction.part = part;
  instruction.with_head = with_head;
  instruction.result = with_head ? value("y", base::Element::f32, {batch, config.classes})
                                 : value("f_" + std::to_string(part), base::Element::f32,
                                         {batch, config.summary_tokens, config.width});
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

ValueId ProgramBuilder::fuse(const model::ModelConfig& teacher, std::vector<ValueId> features,
                             std::int64_t batch) {
  Instruction instruction;
  instruction.op = Op::fuse;
  instruction.operands = std::move(features);
  instruction.result = value("y", base::Element::f32, {batch, teacher.classes});
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

std::vector<Program> compile(const Plan& plan, const RequestShape& shape) {
  if (shape.batch < 1 || shape.batch > max_batch)
    throw std::invalid_argument("[compile] shape.batch: saw " + std::to_string(shape.batch) +
                                ", needs 1.." + std::to_string(max_batch));
  check(plan);
  std::vector<Program> programs = find_strategy(plan.strategy).compile(plan, shape);
  const std::string digest = digest_of(programs);
  for (Program& program : programs) program.digest = digest;
  return programs;
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
      return kernels_of_model(part_of(instruction, plan).config, batch_of(instruction, program),
                              instruction.with_head);
    case Op::fuse:
      return kernels_of_fusion(plan.teacher, widths_of(plan), batch_of(instruction, program));
    case Op::input:
    case Op::send:
    case Op::receive:
    case Op::output:
      return {};
  }
  return {};
}

double working_bytes(const Program& program, const Plan& plan) {
  double values = 0, scratch = 0, loading = 0;
  for (const ValueInfo& value : program.values) values += value.bytes();
  for (const Instruction& instruction : program.instructions) {
    scratch = std::max(scratch, scratch_bytes(instruction, program, plan));
    loading = std::max(loading, loading_bytes_of(instruction, plan));
  }
  return std::max(values + scratch, loading);
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
