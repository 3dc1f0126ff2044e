#include "optimizer/plan/program.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <variant>

#include "base/digest.hpp"
#include "optimizer/plan/builder.hpp"
#include "optimizer/plan/names.hpp"
#include "optimizer/plan/strategies/shared_pass.hpp"
#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {
namespace {

/// A request larger than this is a mistake, and products of dimensions stay far from overflow.
constexpr std::int64_t max_batch = 1 << 16;
constexpr std::int64_t most_best = 1 << 12;

/// Of a plan whose texts are generated, a step.
RequestShape requested(const Plan& plan, const RequestShape& planned) {
  if (planned.generate == 0) return planned;
  return {planned.batch, 1, 0, generates(plan.teacher) ? usual_best : 0};
}

/// Throws std::invalid_argument.
void expect_chooses(const Plan& plan, const RequestShape& shape) {
  if (shape.best == 0 && !shape.from_kept) return;
  if (!generates(plan.teacher))
    throw std::invalid_argument(
        "[compile] shape.best: saw a model that does not generate, needs a causal language model "
        "with its head");
  if (shape.best < 2 || shape.best > most_best)
    throw std::invalid_argument("[compile] shape.best: saw " + std::to_string(shape.best) +
                                ", needs 2.." + std::to_string(most_best));
}

/// The token of a step before, by programs of one: all logits go to the last rank.
std::vector<Program> from_kept(const std::vector<Program>& steps, const RequestShape& shape,
                               base::Element element) {
  const auto ranks = static_cast<std::int32_t>(steps.size()) - 1;
  ProgramBuilder aggregator(ranks, element);
  const ValueId sampling = aggregator.sampling(shape.batch);
  std::vector<Program> programs;
  std::vector<ValueId> pieces;
  std::int64_t tokens = 0;
  for (std::int32_t rank = 0; rank <= ranks; ++rank) {
    ProgramBuilder agent(rank, element);
    if (const Best* best = find_first<Best>(steps[static_cast<std::size_t>(rank)])) {
      ProgramBuilder& program = rank < ranks ? agent : aggregator;
      ValueId kept = program.kept_logits(shape.batch, best->vocabulary);
      if (rank < ranks) {
        agent.send(kept, ranks, 0);
        kept = aggregator.receive("y_" + std::to_string(rank), agent.info(kept), rank, 0, false);
      }
      pieces.push_back(kept);
      tokens += best->vocabulary.size();
    }
    if (rank < ranks) programs.push_back(agent.take());
  }
  const ValueId best =
      aggregator.best(aggregator.concat(std::move(pieces), 2), sampling, -1, {0, tokens}, tokens);
  aggregator.output(aggregator.sample({best}, sampling));
  programs.push_back(aggregator.take());
  return programs;
}

/// Fields of instructions as bytes, the same on every machine.
class Bytes {
 public:
  void result(ValueId value) { integer(value); }
  void operand(ValueId value) { integer(value); }
  void optional_operand(ValueId value) { integer(value); }
  void to(std::int32_t rank) { integer(rank); }
  void part(std::int32_t part) { integer(part); }
  void layer(std::int32_t layer) { integer(layer); }
  void range(std::string_view, const model::Range& range) {
    integer(range.begin);
    integer(range.end);
  }
  template <class Name>
  void name(Name which) {
    integer(static_cast<std::int64_t>(which));
  }
  template <class Number>
  void number(std::string_view, Number number) {
    integer(static_cast<std::int64_t>(number));
  }
  void flag(std::string_view, bool set) { integer(set ? 1 : 0); }

  /// Little-endian.
  void integer(std::int64_t number) {
    char eight[8];
    for (int i = 0; i < 8; ++i) eight[i] = static_cast<char>(number >> 8 * i);
    bytes_.append(eight, sizeof eight);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// Of what the programs do; how their values are called is for people.
std::string digest_of(const std::vector<Program>& programs) {
  Bytes bytes;
  for (const Program& program : programs) {
    bytes.integer(program.rank);
    for (const ValueInfo& value : program.values) {
      bytes.integer(static_cast<std::int64_t>(value.element));
      bytes.integer(static_cast<std::int64_t>(value.dims.size()));
      for (const std::int64_t dim : value.dims) bytes.integer(dim);
    }
    for (const Instruction& instruction : program.instructions) {
      bytes.integer(static_cast<std::int64_t>(instruction.index()));
      std::visit([&bytes](const auto& i) { i.fields(i, bytes); }, instruction);
      bytes.integer(static_cast<std::int64_t>(bytes.bytes().size()));  // operands may be many
    }
  }
  return base::sha256(bytes.bytes());
}

}  // namespace

double ValueInfo::bytes() const {
  const double columns = dims.empty() ? 1 : static_cast<double>(dims.back());
  double bytes = columns * static_cast<double>(base::size_of(element)) +
                 static_cast<double>(base::scale_bytes_of(element));
  for (std::size_t i = 0; i + 1 < dims.size(); ++i) bytes *= static_cast<double>(dims[i]);
  return bytes;
}

std::set<std::int32_t> peers_of(const Program& program) {
  std::set<std::int32_t> peers;
  for (const Instruction& instruction : program.instructions) {
    if (const auto* send = std::get_if<Send>(&instruction)) peers.insert(send->peer);
    if (const auto* receive = std::get_if<Receive>(&instruction)) peers.insert(receive->peer);
  }
  return peers;
}

namespace {

/// Of shares that follow from speed and memory.
Strategy proposing(std::string_view name, std::string_view summary, decltype(Strategy::compile) run,
                   decltype(Strategy::check) check, decltype(Strategy::propose) propose,
                   decltype(Strategy::divide) divide = nullptr) {
  Strategy strategy{name, summary, PartKind::share, run, check};
  strategy.propose = propose;
  strategy.divide = divide;
  return strategy;
}

/// Of shares that whoever plans finds.
Strategy searched(std::string_view name, std::string_view summary, decltype(Strategy::compile) run,
                  decltype(Strategy::check) check, decltype(Strategy::divisions) divisions) {
  Strategy strategy{name, summary, PartKind::share, run, check};
  strategy.divisions = divisions;
  return strategy;
}

Strategy voltage() {
  Strategy strategy = searched(
      "voltage", "rows of the sequence on each device with all weights, one all-gather a layer",
      compile_by_rows, check_voltage, divisions_voltage);
  strategy.divide = divide_rows;
  strategy.reorders = true;
  return strategy;
}

Strategy hepti() {
  Strategy strategy = searched(
      "hepti", "rows, rows and columns, or heads and columns on each device, as memory allows",
      compile_hepti, check_hepti, divisions_hepti);
  strategy.gathers_keys = true;
  return strategy;
}

Strategy prism() {
  Strategy strategy = proposing(
      "prism",
      "rows of the sequence on each device with all weights, which the others see as segments",
      compile_prism, check_prism, propose_rows, divide_rows);
  strategy.has_segments = true;
  return strategy;
}

}  // namespace

const std::vector<Strategy>& strategies() {
  static const std::vector<Strategy> table = {
      {"local", "the best single device runs everything", PartKind::teacher, compile_local,
       check_local},
      {"decomposed", "a sub-model on each device, features fused at the end", PartKind::sub_model,
       compile_decomposed, check_decomposed},
      proposing("pipeline", "consecutive layers on each device, one after the other",
                compile_pipeline, check_pipeline, propose_pipeline, divide_pipeline),
      proposing("tensor",
                "heads, MLP columns and vocabulary of every layer on each device, two all-reduces",
                compile_whole_stream, check_tensor, propose_tensor),
      voltage(),
      hepti(),
      searched("galaxy",
               "heads and columns on each device, the stream by rows, exchange beside products",
               compile_by_rows, check_galaxy, divisions_galaxy),
      prism(),
  };
  return table;
}

bool reorders(const model::ModelConfig& config) {
  return !config.causal && config.rotary_base == 0;
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

std::vector<Program> drafts(const Plan& plan, const RequestShape& planned, base::Element element) {
  const RequestShape shape = requested(plan, planned);
  auto programs = find_strategy(plan.strategy).compile(plan, shape, element);
  return shape.from_kept ? from_kept(programs, shape, element) : programs;
}

std::vector<Program> compile(const Plan& plan, const RequestShape& planned, base::Element element) {
  const RequestShape shape = requested(plan, planned);
  if (plan.teacher.is_text() && (shape.tokens < 1 || shape.tokens > plan.teacher.context))
    throw std::invalid_argument("[compile] shape.tokens: saw " + std::to_string(shape.tokens) +
                                ", needs 1.." + std::to_string(plan.teacher.context) + ", " +
                                plan.teacher.context_name());
  if (shape.batch < 1 || shape.batch > max_batch)
    throw std::invalid_argument("[compile] shape.batch: saw " + std::to_string(shape.batch) +
                                ", needs 1.." + std::to_string(max_batch));
  expect_chooses(plan, shape);
  if (shape.every_token && (plan.teacher.task != model::Task::causal_lm ||
                            find_strategy(plan.strategy).parts == PartKind::sub_model))
    throw std::invalid_argument("[compile] shape.every_token: saw it of the strategy '" +
                                plan.strategy + "', needs a causal language model that is not cut");
  check(plan);
  std::vector<Program> programs = drafts(plan, shape, element);
  const std::string digest = digest_of(programs);
  for (Program& program : programs) {
    program.plan = plan.name;
    program.digest = digest;
  }
  return programs;
}

bool generates(const model::ModelConfig& config) {
  return config.task == model::Task::causal_lm && config.answers();
}

Load planned_load(const RequestShape& shape) {
  if (shape.generate == 0) return {shape.batch, shape.tokens, 0};
  return {shape.batch, 1, shape.tokens + shape.generate / 2};
}

}  // namespace cleave::plan
