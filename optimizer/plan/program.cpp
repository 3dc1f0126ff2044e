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

/// The same text on every machine: integers and names only.
std::string digest_of(const std::vector<Program>& programs) {
  std::string text;
  for (const Program& program : programs) text += to_text(program);
  return base::sha256(text);
}

}  // namespace

double ValueInfo::bytes() const {
  double count = static_cast<double>(base::size_of(element));
  for (const std::int64_t dim : dims) count *= static_cast<double>(dim);
  return count;
}

std::set<std::int32_t> peers_of(const Program& program) {
  std::set<std::int32_t> peers;
  for (const Instruction& instruction : program.instructions) {
    if (const auto* send = std::get_if<Send>(&instruction)) peers.insert(send->peer);
    if (const auto* receive = std::get_if<Receive>(&instruction)) peers.insert(receive->peer);
  }
  return peers;
}

const std::vector<Strategy>& strategies() {
  static const std::vector<Strategy> table = {
      {"local", "the best single device runs everything", PartKind::teacher, compile_local,
       check_local},
      {"decomposed", "a sub-model on each device, features fused at the end", PartKind::sub_model,
       compile_decomposed, check_decomposed},
      {"pipeline", "consecutive layers on each device, one after the other", PartKind::share,
       compile_pipeline, check_pipeline, propose_pipeline},
      {"tensor", "heads, MLP columns and vocabulary of every layer on each device, two all-reduces",
       PartKind::share, compile_tensor, check_tensor, propose_tensor},
  };
  return table;
}

const Strategy& strategy_of(PartKind parts) {
  return *std::find_if(strategies().begin(), strategies().end(),
                       [parts](const Strategy& strategy) { return strategy.parts == parts; });
}

std::string usual_strategy() { return std::string(strategy_of(PartKind::sub_model).name); }

const Strategy& find_strategy(const std::string& name) {
  std::string known;
  for (const Strategy& strategy : strategies()) {
    if (strategy.name == name) return strategy;
    known += (known.empty() ? "" : ", ") + std::string(strategy.name);
  }
  throw std::invalid_argument("[strategy] saw " + shown(name) + ", needs one of " + known);
}

std::vector<Program> compile(const Plan& plan, const RequestShape& planned, base::Element element) {
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
  std::vector<Program> programs = find_strategy(plan.strategy).compile(plan, shape, element);
  const std::string digest = digest_of(programs);
  for (Program& program : programs) program.digest = digest;
  return programs;
}

Load planned_load(const RequestShape& shape) {
  if (shape.generate == 0) return {shape.batch, shape.tokens, 0};
  return {shape.batch, 1, shape.tokens + shape.generate / 2};
}

}  // namespace cleave::plan
