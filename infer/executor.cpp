#include "infer/executor.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <ctime>
#include <exception>
#include <fcntl.h>
#include <stdexcept>
#include <sys/file.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include "base/element.hpp"
#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace cleave::infer {
namespace {

using plan::Op;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

Clock::duration thread_cpu_time() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// A sleeping thread wakes tens of microseconds late; the end of the pause is spent looking at the
// clock.
void pause_until(Clock::time_point end) {
  constexpr auto spin = std::chrono::microseconds(60);
  if (end - Clock::now() > spin) std::this_thread::sleep_until(end - spin);
  while (Clock::now() < end) {
  }
}

/// A file that one process at a time holds; the kernel takes it back from one that dies.
class TurnsFile {
 public:
  /// Empty: everybody's turn always.
  explicit TurnsFile(const std::string& path) {
    if (path.empty()) return;
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "[paced] " + path);
  }
  ~TurnsFile() {
    if (fd_ >= 0) close(fd_);
  }
  TurnsFile(const TurnsFile&) = delete;
  TurnsFile& operator=(const TurnsFile&) = delete;

  void take() const {
    while (fd_ >= 0 && flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  void give() const {
    if (fd_ >= 0) flock(fd_, LOCK_UN);
  }

 private:
  int fd_ = -1;
};

class Turn {
 public:
  explicit Turn(const TurnsFile& file) : file_(file) { file_.take(); }
  ~Turn() { file_.give(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  const TurnsFile& file_;
};

class PacedEngine : public Engine {
 public:
  PacedEngine(std::unique_ptr<Engine> engine, double factor, const std::string& turns)
      : engine_(std::move(engine)), factor_(factor), turns_(turns) {}

  void prepare() override {
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1UL);  // else every sleep ends up to 50 us late
#endif
    engine_->prepare();
  }
  void forget(std::uint64_t sequence) override { engine_->forget(sequence); }

  net::Value run(const plan::Instruction& instruction, const plan::Program& program,
                 const std::vector<const net::Value*>& operands,
                 const Sequence& sequence) override {
    const auto start = Clock::now();
    net::Value result;
    std::chrono::duration<double, std::nano> used{};
    {
      const Turn turn(turns_);
      const auto cpu_start = thread_cpu_time();
      result = engine_->run(instruction, program, operands, sequence);
      used = thread_cpu_time() - cpu_start;
    }
    pause_until(start + std::chrono::duration_cast<Clock::duration>(used * factor_));
    return result;
  }

 private:
  std::unique_ptr<Engine> engine_;
  double factor_;
  TurnsFile turns_;
};

class DelayedEngine : public Engine {
 public:
  DelayedEngine(std::unique_ptr<Engine> engine, std::chrono::microseconds delay)
      : engine_(std::move(engine)), delay_(delay) {}

  void prepare() override { engine_->prepare(); }
  void forget(std::uint64_t sequence) override { engine_->forget(sequence); }

  net::Value run(const plan::Instruction& instruction, const plan::Program& program,
                 const std::vector<const net::Value*>& operands,
                 const Sequence& sequence) override {
    net::Value result = engine_->run(instruction, program, operands, sequence);
    std::this_thread::sleep_for(delay_);
    return result;
  }

 private:
  std::unique_ptr<Engine> engine_;
  std::chrono::microseconds delay_;
};

bool is_compute(Op op) { return op == Op::sub_model || op == Op::fuse; }

std::string shape_text(base::Element element, const std::vector<std::int64_t>& dims) {
  std::string text = std::string(base::name_of(element)) + " [";
  for (std::size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

/// Empty where the value is what the program says.
std::string mismatch(const net::Value& value, const plan::ValueInfo& info,
                     const std::string& whose) {
  if (value.element != info.element || value.dims != info.dims)
    return "value " + info.name + whose + ": saw " + shape_text(value.element, value.dims) +
           ", needs " + shape_text(info.element, info.dims);
  if (static_cast<std::int64_t>(value.data.size()) != value.bytes())
    return "value " + info.name + whose + ": saw " + std::to_string(value.data.size()) +
           " bytes, needs " + std::to_string(value.bytes());
  return {};
}

std::string from_rank(std::int32_t peer) { return " from rank " + std::to_string(peer); }

}  // namespace

std::unique_ptr<Engine> paced(std::unique_ptr<Engine> engine, double factor,
                              const std::string& turns) {
  if (!(factor >= 1))
    throw std::invalid_argument("[paced] factor: saw " + std::to_string(factor) +
                                ", needs at least 1");
  return std::make_unique<PacedEngine>(std::move(engine), factor, turns);
}

std::unique_ptr<Engine> with_delay(std::unique_ptr<Engine> engine,
                                   std::chrono::microseconds delay) {
  return std::make_unique<DelayedEngine>(std::move(engine), delay);
}

/// One request in flight: its values as they become known, and which instructions have run.
struct Executor::Request {
  struct Slot {
    net::Value value;
    bool known = false;
    Clock::time_point known_at;
    int uses_left = 0;
  };

  Request(RequestId id_, std::shared_ptr<const plan::Program> program_)
      : id(id_),
        program(std::move(program_)),
        slots(program->values.size()),
        done(program->instructions.size()),
        admitted_at(Clock::now()) {
    for (const auto& instruction : program->instructions)
      for (const plan::ValueId operand : instruction.operands) ++slot(operand).uses_left;
  }

  Slot& slot(plan::ValueId value) { return slots.at(static_cast<std::size_t>(value)); }
  const Slot& slot(plan::ValueId value) const { return slots.at(static_cast<std::size_t>(value)); }
  const plan::ValueInfo& info(plan::ValueId value) const {
    return program->values.at(static_cast<std::size_t>(value));
  }

  void set(plan::ValueId id_of_value, net::Value value) {
    Slot& target = slot(id_of_value);
    target.known = true;
    target.known_at = Clock::now();
    if (target.uses_left > 0) target.value = std::move(value);
  }

  /// Takes inputs for the `input` instructions, in order; a mismatch becomes the request's error.
  void take_inputs(std::vector<net::Value> inputs) {
    std::size_t next = 0;
    for (std::size_t i = 0; i < done.size(); ++i) {
      const auto& instruction = program->instructions[i];
      if (instruction.op != Op::input) continue;
      if (next < inputs.size()) {
        const std::string wrong = mismatch(inputs[next], info(instruction.result), " as input");
        if (!wrong.empty() && error.empty()) error = "[admit] " + wrong;
        set(instruction.result, std::move(inputs[next]));
        mark_done(i);
      }
      ++next;
    }
    if (next != inputs.size())
      error = "[admit] inputs: saw " + std::to_string(inputs.size()) + ", needs " +
              std::to_string(next);
  }

  void mark_done(std::size_t instruction) {
    assert(!done[instruction]);
    done[instruction] = true;
    ++num_done;
    for (const plan::ValueId operand : program->instructions[instruction].operands)
      if (--slot(operand).uses_left == 0) slot(operand).value = {};
  }

  bool finished() const { return num_done == done.size(); }

  /// Every receive that has got nothing yet, and passes `wanted`.
  template <typename Wanted, typename Action>
  void for_outstanding(const Wanted& wanted, const Action& action) {
    for (std::size_t i = 0; i < done.size(); ++i) {
      const auto& instruction = program->instructions[i];
      if (!done[i] && instruction.op == Op::receive && wanted(instruction)) action(i, instruction);
    }
  }

  void give_up(std::size_t i, const plan::Instruction& receive, const std::string& reason) {
    if (receive.may_be_absent) {
      set(receive.result, net::Value::absent());
      mark_done(i);
    } else if (error.empty()) {
      error = "[receive] " + reason;
    }
  }

  bool waits_for_optional() const {
    for (std::size_t i = 0; i < done.size(); ++i)
      if (!done[i] && program->instructions[i].op == Op::receive &&
          program->instructions[i].may_be_absent)
        return true;
    return false;
  }

  bool ready(std::size_t i) const {
    const auto& instruction = program->instructions[i];
    if (done[i] || instruction.op == Op::receive || instruction.op == Op::input) return false;
    return std::all_of(instruction.operands.begin(), instruction.operands.end(),
                       [this](plan::ValueId operand) { return slot(operand).known; });
  }

  /// What can run: sends and outputs before computing, so that transfers start early.
  std::optional<std::size_t> next_ready() const {
    std::optional<std::size_t> compute;
    for (std::size_t i = 0; i < done.size(); ++i) {
      if (!ready(i)) continue;
      if (!is_compute(program->instructions[i].op)) return i;
      if (!compute) compute = i;
    }
    return compute;
  }

  /// Throws where it is absent and the instruction cannot do without.
  const net::Value& operand(const plan::Instruction& instruction, plan::ValueId which) const {
    const net::Value& value = slot(which).value;
    if (!value.present && instruction.op != Op::fuse)
      throw std::runtime_error("[" + std::string(plan::name_of(instruction.op)) + "] operand " +
                               info(which).name + ": saw absent, needs a value");
    return value;
  }

  Clock::time_point ready_since(const plan::Instruction& instruction) const {
    auto since = admitted_at;
    for (const plan::ValueId operand : instruction.operands)
      since = std::max(since, slot(operand).known_at);
    return since;
  }

  RunTimes times() const {
    const double total_s = seconds(Clock::now() - admitted_at);
    return {queued_s, compute_s, std::max(0.0, total_s - queued_s - compute_s)};
  }

  RequestId id;
  std::shared_ptr<const plan::Program> program;
  std::vector<Slot> slots;
  std::vector<bool> done;
  std::size_t num_done = 0;
  Clock::time_point admitted_at, absent_at, deadline;
  Sequence sequence;
  double queued_s = 0, compute_s = 0;
  std::string error;
};

Executor::Executor(Engine& engine, Hooks hooks) : engine_(engine), hooks_(std::move(hooks)) {}
Executor::~Executor() = default;

bool Executor::admit(RequestId id, std::shared_ptr<const plan::Program> program,
                     std::vector<net::Value> inputs, Clock::time_point absent_at,
                     Clock::time_point deadline, const Sequence& sequence) {
  if (find(id)) return false;
  auto request = std::make_unique<Request>(id, std::move(program));
  request->absent_at = absent_at;
  request->deadline = deadline;
  request->sequence = sequence;
  request->take_inputs(std::move(inputs));
  requests_.push_back(std::move(request));
  return true;
}

std::string Executor::deliver(RequestId id, std::int32_t peer, std::uint32_t tag,
                              net::Value value) {
  Request* request = find(id);
  if (!request) return {};
  std::string wrong;
  const auto wanted = [&](const plan::Instruction& receive) {
    return receive.peer == peer && receive.tag == tag;
  };
  request->for_outstanding(wanted, [&](std::size_t i, const plan::Instruction& receive) {
    wrong = mismatch(value, request->info(receive.result), from_rank(peer));
    if (!wrong.empty()) return request->give_up(i, receive, wrong);
    request->set(receive.result, std::move(value));
    request->mark_done(i);
  });
  return wrong;
}

void Executor::peer_lost(std::int32_t peer) {
  const auto wanted = [peer](const plan::Instruction& receive) { return receive.peer == peer; };
  for (auto& request : requests_)
    request->for_outstanding(wanted, [&](std::size_t i, const plan::Instruction& receive) {
      request->give_up(i, receive,
                       "value " + request->info(receive.result).name + from_rank(peer) +
                           ": saw the connection end, needs the value");
    });
}

void Executor::cancel(RequestId id) { take(id); }

bool Executor::step(Clock::time_point now) {
  for (auto& request : requests_)
    if (step_request(*request, now)) return true;  // hooks may have changed requests_: start anew
  return false;
}

bool Executor::step_request(Request& request, Clock::time_point now) {
  if (now >= request.deadline) {
    const auto ended = take(request.id);
    if (hooks_.dropped) hooks_.dropped(ended->id);
    return true;
  }
  if (!request.error.empty()) {
    fail(request, request.error);
    return true;
  }
  if (now >= request.absent_at)
    request.for_outstanding([](const plan::Instruction& receive) { return receive.may_be_absent; },
                            [&](std::size_t i, const plan::Instruction& receive) {
                              request.give_up(i, receive, "late");
                            });
  if (const auto next = request.next_ready()) {
    run(request, *next);
    return true;
  }
  if (!request.finished()) return false;
  finish(request);  // its last instruction was a receive
  return true;
}

void Executor::run(Request& request, std::size_t index) {
  const RequestId id = request.id;
  const auto program = request.program;  // outlives a request that a hook cancels
  const plan::Instruction& instruction = program->instructions[index];
  try {
    if (is_compute(instruction.op))
      compute(request, instruction);
    else
      hand_over(request, instruction);
  } catch (const std::exception& error) {
    if (Request* failed = find(id)) fail(*failed, error.what());
    return;
  }
  Request* still = find(id);
  if (!still) return;
  still->mark_done(index);
  if (still->finished()) finish(*still);
}

void Executor::finish(Request& request) {
  const auto ended = take(request.id);
  if (hooks_.finished) hooks_.finished(ended->id);
}

void Executor::compute(Request& request, const plan::Instruction& instruction) {
  std::vector<const net::Value*> operands;
  for (const plan::ValueId operand : instruction.operands)
    operands.push_back(&request.operand(instruction, operand));
  const auto start = Clock::now();
  request.queued_s += seconds(start - request.ready_since(instruction));
  net::Value result = engine_.run(instruction, *request.program, operands, request.sequence);
  request.compute_s += seconds(Clock::now() - start);
  const std::string wrong = mismatch(result, request.info(instruction.result), " as computed");
  if (!wrong.empty())
    throw std::runtime_error("[" + std::string(plan::name_of(instruction.op)) + "] " + wrong);
  request.set(instruction.result, std::move(result));
}

void Executor::hand_over(Request& request, const plan::Instruction& instruction) {
  // A copy of the handle: the hook may cancel the request.
  const net::Value value = request.operand(instruction, instruction.operands.at(0));
  const RunTimes times = request.times();
  if (instruction.op == Op::send && hooks_.send)
    hooks_.send(request.id, instruction.peer, instruction.tag, value, times);
  if (instruction.op == Op::output && hooks_.output) hooks_.output(request.id, value, times);
}

void Executor::fail(Request& request, const std::string& error) {
  const std::string text = error;  // may lie in the request
  const auto ended = take(request.id);
  if (hooks_.failed) hooks_.failed(ended->id, text);
}

std::optional<Clock::time_point> Executor::next_timer() const {
  std::optional<Clock::time_point> next;
  for (const auto& request : requests_) {
    const auto timer = request->waits_for_optional()
                           ? std::min(request->absent_at, request->deadline)
                           : request->deadline;
    next = next ? std::min(*next, timer) : timer;
  }
  return next;
}

bool Executor::computes(std::uint64_t sequence) const {
  return std::any_of(requests_.begin(), requests_.end(),
                     [sequence](const auto& request) { return request->sequence.id == sequence; });
}

void Executor::forget(std::uint64_t sequence) {
  if (computes(sequence))
    ended_.insert(sequence);
  else
    engine_.forget(sequence);
}

std::size_t Executor::in_flight() const { return requests_.size(); }

Executor::Request* Executor::find(RequestId id) const {
  for (const auto& request : requests_)
    if (request->id == id) return request.get();
  return nullptr;
}

std::unique_ptr<Executor::Request> Executor::take(RequestId id) {
  const auto at = std::find_if(requests_.begin(), requests_.end(),
                               [id](const auto& request) { return request->id == id; });
  if (at == requests_.end()) return nullptr;
  auto taken = std::move(*at);
  requests_.erase(at);
  const auto sequence = taken->sequence.id;
  if (ended_.count(sequence) != 0 && !computes(sequence)) {
    ended_.erase(sequence);
    engine_.forget(sequence);
  }
  return taken;
}

}  // namespace cleave::infer
