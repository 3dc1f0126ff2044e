#include "infer/executor.hpp"

#include <algorithm>
#include <cassert>
#include <exception>
#include <queue>
#include <stdexcept>
#include <utility>

#include "infer/values.hpp"

namespace cleave::infer {
namespace {

using Index = std::size_t;  // of an instruction

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

/// mismatch(), and of which value of whom.
std::string wrong_value(const net::Value& value, const plan::ValueInfo& info,
                        const std::string& whose) {
  const std::string wrong = mismatch(value, info);
  return wrong.empty() ? "" : "value " + info.name + whose + ": " + wrong;
}

std::string from_rank(std::int32_t peer) { return " from rank " + std::to_string(peer); }

/// Instructions, the first of the program in front.
using Queue = std::priority_queue<Index, std::vector<Index>, std::greater<>>;

}  // namespace

/// One request in flight: which of its values are known, what each instruction still misses, and
/// what is ready.
struct Executor::Request {
  /// What is known of a value, beside what the engine keeps in its slot.
  struct Known {
    bool absent = false;
    std::int32_t uses_left = 0;
    Index first_user = 0;  // in `users`; behind the last is the next value's
  };
  /// A receive that has got nothing yet.
  struct Outstanding {
    const plan::Receive* receive;
    Index instruction;
    bool done = false;
  };

  Request(RequestId id_, std::uint64_t order_, std::shared_ptr<const plan::Program> program_,
          std::unique_ptr<Slots> slots_, const Sequence& sequence_)
      : id(id_),
        order(order_),
        program(std::move(program_)),
        slots(std::move(slots_)),
        sequence(sequence_),
        values(program->values.size() + 1),
        missing(program->instructions.size(), 0),
        admitted_at(Clock::now()) {
    connect();
    for (Index i = 0; i < missing.size(); ++i) {
      const auto& instruction = program->instructions[i];
      if (const auto* receive = std::get_if<plan::Receive>(&instruction)) {
        outstanding.push_back({receive, i});
        if (receive->may_be_absent) ++optional_left;
      } else if (missing[i] == 0 && !std::holds_alternative<plan::Input>(instruction)) {
        make_ready(i);
      }
    }
    std::sort(outstanding.begin(), outstanding.end(), [](const auto& a, const auto& b) {
      return std::tie(a.receive->peer, a.receive->tag) < std::tie(b.receive->peer, b.receive->tag);
    });
  }

  /// Who reads which value.
  void connect() {
    const auto& instructions = program->instructions;
    Index uses = 0;
    for (const auto& instruction : instructions)
      plan::for_operands(instruction, [&](plan::ValueId operand) {
        ++value(operand).uses_left;
        ++uses;
      });
    Index next = 0;
    for (auto& value : values) {
      value.first_user = next;
      next += static_cast<Index>(value.uses_left);
    }
    users.resize(uses);
    std::vector<Index> end(values.size());
    for (Index v = 0; v < values.size(); ++v) end[v] = values[v].first_user;
    for (Index i = 0; i < instructions.size(); ++i)
      plan::for_operands(instructions[i], [&](plan::ValueId operand) {
        users[end[static_cast<Index>(operand)]++] = i;
        ++missing[i];
      });
  }

  Known& value(plan::ValueId which) { return values.at(static_cast<Index>(which)); }
  const Known& value(plan::ValueId which) const { return values.at(static_cast<Index>(which)); }
  const plan::ValueInfo& info(plan::ValueId which) const {
    return program->values.at(static_cast<Index>(which));
  }

  void make_ready(Index i) {
    (plan::computes(program->instructions[i]) ? to_compute : to_hand_over).push(i);
  }

  /// From outside.
  void set(plan::ValueId which, net::Value is) {
    value(which).absent = !is.present;
    if (value(which).uses_left > 0) slots->set(which, std::move(is));
    mark_known(which);
  }

  /// Its slot is full.
  void mark_known(plan::ValueId which) {
    const Known& known = value(which);
    if (known.uses_left == 0) slots->clear(which);
    const Index last = values[static_cast<Index>(which) + 1].first_user;
    for (Index user = known.first_user; user < last; ++user)
      if (--missing[users[user]] == 0) make_ready(users[user]);
  }

  void mark_done(Index instruction) {
    ++num_done;
    plan::for_operands(program->instructions[instruction], [this](plan::ValueId operand) {
      if (--value(operand).uses_left == 0) slots->clear(operand);
    });
  }

  bool finished() const { return num_done == missing.size(); }
  bool is_runnable() const {
    return !to_hand_over.empty() || !to_compute.empty() || !error.empty() || finished();
  }
  Clock::time_point next_timer() const {
    return optional_left > 0 ? std::min(absent_at, deadline) : deadline;
  }

  /// Takes inputs for the `input` instructions, in order; a mismatch becomes the request's error.
  void take_inputs(std::vector<net::Value> inputs) {
    Index next = 0;
    for (Index i = 0; i < missing.size(); ++i) {
      const auto* input = std::get_if<plan::Input>(&program->instructions[i]);
      if (!input) continue;
      if (next < inputs.size()) {
        const std::string wrong = wrong_value(inputs[next], info(input->result), " as input");
        if (!wrong.empty() && error.empty()) error = "[admit] " + wrong;
        set(input->result, std::move(inputs[next]));
        mark_done(i);
      }
      ++next;
    }
    if (next != inputs.size())
      error = "[admit] inputs: saw " + std::to_string(inputs.size()) + ", needs " +
              std::to_string(next);
  }

  /// The receive of this value, where it still waits, or null.
  Outstanding* waiting_for(std::int32_t peer, std::uint32_t tag) {
    const auto at = std::lower_bound(
        outstanding.begin(), outstanding.end(), std::tie(peer, tag),
        [](const Outstanding& a, const std::tuple<const std::int32_t&, const std::uint32_t&>& key) {
          return std::tie(a.receive->peer, a.receive->tag) < key;
        });
    const bool found = at != outstanding.end() && !at->done && at->receive->peer == peer &&
                       at->receive->tag == tag;
    return found ? &*at : nullptr;
  }

  void receive(Outstanding& at, net::Value value) {
    at.done = true;
    if (at.receive->may_be_absent) --optional_left;
    set(at.receive->result, std::move(value));
    mark_done(at.instruction);
  }

  void give_up(Outstanding& at, const std::string& reason, bool lost = false) {
    if (at.receive->may_be_absent) return receive(at, net::Value::absent());
    if (!error.empty()) return;
    error = "[receive] " + reason;
    if (lost) lost_peer = at.receive->peer;
  }

  /// What can run: sends and outputs before computing, so that transfers start early.
  std::optional<Index> take_ready() {
    Queue& queue = to_hand_over.empty() ? to_compute : to_hand_over;
    if (queue.empty()) return std::nullopt;
    const Index next = queue.top();
    queue.pop();
    return next;
  }

  /// Throws where an operand is absent and the instruction cannot do without.
  void expect_operands(const plan::Instruction& instruction) const {
    if (plan::accepts_absent(instruction)) return;
    plan::for_operands(instruction, [&](plan::ValueId which) {
      if (value(which).absent)
        throw std::runtime_error("[" + std::string(plan::name_of(instruction)) + "] operand " +
                                 info(which).name + ": saw absent, needs a value");
    });
  }

  /// As it travels. Throws where it is not what the program says.
  net::Value take_out(const plan::Instruction& instruction, plan::ValueId which) {
    net::Value is = slots->get(which);
    const std::string wrong = wrong_value(is, info(which), " as computed");
    if (!wrong.empty())
      throw std::runtime_error("[" + std::string(plan::name_of(instruction)) + "] " + wrong);
    return is;
  }

  RunTimes times() const {
    const auto now = Clock::now();
    const double total_s = seconds(now - admitted_at),
                 wait_s = waited_s + (idle_since ? seconds(now - *idle_since) : 0);
    return {std::max(0.0, total_s - compute_s - wait_s), compute_s, wait_s};
  }

  /// From `at` on something is ready, or nothing any more.
  void note_idle(bool idle, Clock::time_point at) {
    if (idle == idle_since.has_value()) return;
    if (idle) {
      idle_since = at;
      return;
    }
    at = std::max(at, *idle_since);
    waited_s += seconds(at - *idle_since);
    if (at > *idle_since) record({Ran::What::idle, num_done, num_done, *idle_since, at});
    idle_since.reset();
  }

  void note_computed(Index instruction, Clock::time_point start, Clock::time_point end) {
    compute_s += seconds(end - start);
    record({Ran::What::instruction, instruction, instruction, start, end});
    if (!stretch) stretch = {Ran::What::stretch, instruction, instruction, start, end};
    stretch->last = std::max(stretch->last, instruction);
    stretch->end = end;
  }

  /// What was computed is done with, at `end`, after the engine took from `start` on to say so.
  void end_stretch(Clock::time_point start, Clock::time_point end) {
    if (!stretch) return;
    compute_s += seconds(end - start);
    stretch->end = end;
    close_stretch();
    if (idle_since) idle_since = std::max(*idle_since, end);
  }

  void close_stretch() {
    if (stretch) record(*stretch);
    stretch.reset();
  }

  void record(const Ran& entry) {
    if (ran.size() < most_recorded) ran.push_back(entry);
  }

  RequestId id;
  std::uint64_t order;  // of admission
  std::shared_ptr<const plan::Program> program;
  std::unique_ptr<Slots> slots;
  Sequence sequence;
  std::vector<Known> values;             // one more, behind the last
  std::vector<Index> users;              // instructions, by the value that they read
  std::vector<std::int32_t> missing;     // operands that are not known yet, by instruction
  std::vector<Outstanding> outstanding;  // by peer and tag
  std::int64_t optional_left = 0;        // outstanding ones that may be absent
  Queue to_hand_over, to_compute;        // ready
  Index num_done = 0;
  Clock::time_point admitted_at, absent_at, deadline;
  double compute_s = 0, waited_s = 0;
  std::optional<Clock::time_point> idle_since;  // nothing is ready
  std::optional<Ran> stretch;                   // under way
  std::size_t most_recorded = 0;
  std::vector<Ran> ran;
  std::string error;
  std::int32_t lost_peer = -1;             // whose loss it is
  std::optional<Clock::time_point> timer;  // as it stands among the executor's
};

bool Executor::ByAge::operator()(const Request* a, const Request* b) const {
  return a->order < b->order;
}

Executor::Executor(Engine& engine, Hooks hooks) : engine_(engine), hooks_(std::move(hooks)) {}
Executor::~Executor() = default;

bool Executor::admit(RequestId id, std::shared_ptr<const plan::Program> program,
                     std::vector<net::Value> inputs, Clock::time_point absent_at,
                     Clock::time_point deadline, const Sequence& sequence,
                     std::size_t most_recorded) {
  if (find(id)) return false;
  auto slots = engine_.begin(program, sequence);
  auto request =
      std::make_unique<Request>(id, ++admitted_, std::move(program), std::move(slots), sequence);
  request->absent_at = absent_at;
  request->deadline = deadline;
  request->most_recorded = most_recorded;
  request->take_inputs(std::move(inputs));
  sort_in(*request);
  requests_.emplace(id, std::move(request));
  return true;
}

std::string Executor::deliver(RequestId id, std::int32_t peer, std::uint32_t tag, net::Value value,
                              Clock::time_point arrived) {
  Request* request = find(id);
  if (!request) return {};
  auto* at = request->waiting_for(peer, tag);
  if (!at) return {};
  std::string wrong = wrong_value(value, request->info(at->receive->result), from_rank(peer));
  if (wrong.empty())
    request->receive(*at, std::move(value));
  else
    request->give_up(*at, wrong);
  sort_in(*request, arrived);
  return wrong;
}

void Executor::peer_lost(RequestId id, std::int32_t peer) {
  Request* request = find(id);
  if (!request) return;
  for (auto& at : request->outstanding)
    if (!at.done && at.receive->peer == peer)
      request->give_up(at,
                       "value " + request->info(at.receive->result).name + from_rank(peer) +
                           ": saw the connection end, needs the value",
                       true);
  sort_in(*request);
}

void Executor::cancel(RequestId id) {
  if (Request* request = find(id)) take(*request);
}

bool Executor::step(Clock::time_point now) {
  while (!timers_.empty() && std::get<0>(*timers_.begin()) <= now) {
    Request& request = *std::get<2>(*timers_.begin());
    if (now >= request.deadline) {
      const auto ended = take(request);
      if (hooks_.dropped) hooks_.dropped(ended->id);
      return true;
    }
    for (auto& at : request.outstanding)
      if (!at.done && at.receive->may_be_absent) request.give_up(at, "late");
    sort_in(request);
  }
  if (runnable_.empty()) {
    settle();
    return false;
  }
  Request& request = **runnable_.begin();
  if (!request.error.empty())
    fail(request, request.error, request.lost_peer);
  else if (const auto next = request.take_ready())
    run(request, *next);
  else
    finish(request);  // its last instruction was a receive
  return true;
}

void Executor::run(Request& request, Index index) {
  const RequestId id = request.id;
  const auto order = request.order;
  const auto program = request.program;  // outlives a request that a hook cancels
  const plan::Instruction& instruction = program->instructions[index];
  const auto still_there = [&]() -> Request* {
    Request* found = find(id);
    return found && found->order == order ? found : nullptr;
  };
  try {
    request.expect_operands(instruction);
    if (plan::computes(instruction))
      compute(request, index);
    else
      hand_over(request, instruction);
  } catch (const std::exception& error) {
    if (Request* failed = still_there()) fail(*failed, error.what());
    return;
  }
  Request* still = still_there();
  if (!still) return;
  still->mark_done(index);
  if (still->finished())
    finish(*still);
  else
    sort_in(*still);
}

void Executor::finish(Request& request) {
  if (request.stretch) settle();  // its last instruction was no send
  const auto ended = take(request);
  if (hooks_.ran && ended->most_recorded > 0) hooks_.ran(ended->id, std::move(ended->ran));
  if (hooks_.finished) hooks_.finished(ended->id, ended->times());
}

void Executor::compute(Request& request, Index index) {
  const plan::Instruction& instruction = request.program->instructions[index];
  const auto start = Clock::now();
  request.slots->run(instruction);
  request.note_computed(index, start, Clock::now());
  if (Request* last = find(computed_last_); last && last != &request) last->close_stretch();
  computed_last_ = request.id;
  plan::for_results(instruction, [&](plan::ValueId result) { request.mark_known(result); });
}

/// Whoever computed last waits for the engine to be done; the stretches of others end with it.
void Executor::settle() {
  const auto start = Clock::now();
  engine_.settle();
  const auto end = Clock::now();
  if (Request* last = find(computed_last_)) last->end_stretch(start, end);
}

void Executor::hand_over(Request& request, const plan::Instruction& instruction) {
  settle();
  const RunTimes times = request.times();
  // Values of their own: the hook may cancel the request.
  if (const auto* send = std::get_if<plan::Send>(&instruction)) {
    const net::Value value = request.take_out(instruction, send->value);
    if (hooks_.send) hooks_.send(request.id, send->peer, send->tag, value, times);
  } else if (const auto* output = std::get_if<plan::Output>(&instruction)) {
    const net::Value value = request.take_out(instruction, output->value);
    if (hooks_.output) hooks_.output(request.id, value, times);
  }
}

void Executor::fail(Request& request, const std::string& error, std::int32_t lost) {
  const std::string text = error;  // may lie in the request
  const auto ended = take(request);
  if (hooks_.failed) hooks_.failed(ended->id, text, lost);
}

std::optional<Clock::time_point> Executor::next_timer() const {
  if (timers_.empty()) return std::nullopt;
  return std::get<0>(*timers_.begin());
}

bool Executor::computes(std::uint64_t sequence) const {
  return std::any_of(requests_.begin(), requests_.end(), [sequence](const auto& request) {
    return request.second->sequence.id == sequence;
  });
}

void Executor::forget(std::uint64_t sequence) {
  if (computes(sequence))
    ended_.insert(sequence);
  else
    engine_.forget(sequence);
}

std::size_t Executor::in_flight() const { return requests_.size(); }

Executor::Request* Executor::find(RequestId id) const {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second.get();
}

/// Where a request stands among those that can run, and among the timers.
void Executor::sort_in(Request& request, Clock::time_point changed_at) {
  request.note_idle(!request.is_runnable(), changed_at);
  if (request.is_runnable())
    runnable_.insert(&request);
  else
    runnable_.erase(&request);
  const auto timer = request.next_timer();
  if (request.timer == timer) return;
  if (request.timer) timers_.erase({*request.timer, request.order, &request});
  timers_.emplace(timer, request.order, &request);
  request.timer = timer;
}

void Executor::take_out(Request& request) {
  runnable_.erase(&request);
  if (request.timer) timers_.erase({*request.timer, request.order, &request});
}

std::unique_ptr<Executor::Request> Executor::take(Request& request) {
  take_out(request);
  const auto at = requests_.find(request.id);
  auto taken = std::move(at->second);
  requests_.erase(at);
  const auto sequence = taken->sequence.id;
  if (ended_.count(sequence) != 0 && !computes(sequence)) {
    ended_.erase(sequence);
    engine_.forget(sequence);
  }
  return taken;
}

}  // namespace cleave::infer
