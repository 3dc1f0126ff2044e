#include "infer/executor.hpp"

#include <atomic>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <future>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include <gtest/gtest.h>

#include "infer/paced.hpp"
#include "tests/infer/value_engine.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;
using plan::Instruction;
using plan::Program;

const auto start = Clock::now();
const auto in_a_second = start + 1s;
const auto in_an_hour = start + 1h;

net::Value value_of(float number) {
  net::Value value;
  value.dims = {1};
  value.data = net::Buffer::copy_of(&number, sizeof number);
  return value;
}

float number_in(const net::Value& value) {
  float number = 0;
  std::memcpy(&number, value.data.data(), sizeof number);
  return number;
}

/// Adds up what is present; absent counts as -1. Remembers each call. A negative sum is an error.
class AddingEngine : public ValueEngine {
 public:
  net::Value compute(const Instruction& instruction, const Program&,
                     const std::vector<const net::Value*>& operands, const Sequence&) override {
    float sum = std::holds_alternative<plan::Norm>(instruction) ? 100 : 0;
    for (const net::Value* operand : operands) sum += operand->present ? number_in(*operand) : -1;
    if (sum < 0)
      throw std::runtime_error("[fuse] sum: saw " + std::to_string(sum) + ", needs >= 0");
    results.push_back(sum);
    return value_of(sum);
  }
  std::vector<float> results;
};

plan::ValueInfo info(const std::string& name) {
  plan::ValueInfo value;
  value.name = name;
  value.dims = {1};
  return value;
}

plan::Receive receive(plan::ValueId result, std::int32_t peer, bool may_be_absent = true) {
  return {result, peer, static_cast<std::uint32_t>(peer), may_be_absent};
}

/// Any instruction that computes one value of another.
plan::Norm norm(plan::ValueId result, plan::ValueId x) {
  plan::Norm i;
  i.result = result;
  i.x = x;
  return i;
}

/// x = input; f = norm(x); send(f -> 2)
std::shared_ptr<const Program> agent_program() {
  auto program = std::make_shared<Program>();
  program->values = {info("x"), info("f")};
  program->instructions = {plan::Input{0}, norm(1, 0), plan::Send{1, 2, 7}};
  return program;
}

/// f_p = receive(<- p) for two parts; y = fuse(f_0, f_1); output(y)
std::shared_ptr<const Program> fusion_program(bool may_be_absent = true) {
  auto program = std::make_shared<Program>();
  program->values = {info("f_0"), info("f_1"), info("y")};
  program->instructions = {receive(0, 0, may_be_absent), receive(1, 1, may_be_absent),
                           plan::Fuse{2, {0, 1}}, plan::Output{2}};
  return program;
}

/// An executor over an AddingEngine, and what its hooks were told.
struct Bench {
  AddingEngine engine;
  std::vector<std::string> log;
  RunTimes times;
  Executor executor{engine, hooks()};

  Executor::Hooks hooks() {
    Executor::Hooks hooks;
    hooks.send = [this](auto id, auto peer, auto tag, const net::Value& value, const RunTimes& t) {
      times = t;
      note(id, "send " + std::to_string(peer) + ":" + std::to_string(tag) + " " + text(value));
    };
    hooks.output = [this](auto id, const net::Value& value, const RunTimes& t) {
      times = t;
      note(id, "output " + text(value));
    };
    hooks.failed = [this](auto id, const std::string& error, auto) { note(id, "failed " + error); };
    hooks.finished = [this](auto id, const RunTimes&) { note(id, "finished"); };
    hooks.dropped = [this](auto id) { note(id, "dropped"); };
    return hooks;
  }
  static std::string text(const net::Value& value) {
    return std::to_string(static_cast<int>(number_in(value)));
  }
  void note(Executor::RequestId id, const std::string& what) {
    log.push_back(std::to_string(id) + " " + what);
  }
  int run(Clock::time_point now = start) {
    int steps = 0;
    while (executor.step(now)) ++steps;
    return steps;
  }
};

using Log = std::vector<std::string>;

TEST(Executor, RunsAnAgentsProgramToItsEnd) {
  Bench bench;
  EXPECT_TRUE(bench.executor.admit(1, agent_program(), {value_of(5)}, in_a_second, in_an_hour));
  EXPECT_EQ(bench.executor.in_flight(), 1u);
  EXPECT_EQ(bench.run(), 2);
  EXPECT_EQ(bench.log, (Log{"1 send 2:7 105", "1 finished"}));
  EXPECT_EQ(bench.executor.in_flight(), 0u);
}

// Both results of one instruction are there when it has run, for whoever reads them.
TEST(Executor, HandsOnEveryResultOfAnInstruction) {
  auto program = std::make_shared<Program>();
  program->values = {info("x"), info("z"), info("g"), info("h")};
  plan::Cluster cluster;
  cluster.x = 0;
  cluster.centres = 1;
  cluster.marks = 2;
  program->instructions = {plan::Input{0},      cluster,
                           norm(3, 2),          plan::Send{1, 2, 7},
                           plan::Send{2, 2, 8}, plan::Send{3, 2, 9}};
  Bench bench;
  bench.executor.admit(1, program, {value_of(5)}, in_a_second, in_an_hour);
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 send 2:7 5", "1 send 2:8 5", "1 send 2:9 105", "1 finished"}));
}

TEST(Executor, FusesWhenEveryFeatureCame) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  EXPECT_EQ(bench.run(), 0);
  EXPECT_EQ(bench.executor.deliver(1, 1, 1, value_of(20)), "");
  EXPECT_EQ(bench.run(), 0);
  EXPECT_EQ(bench.executor.deliver(1, 0, 0, value_of(3)), "");
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 output 23", "1 finished"}));
}

TEST(Executor, TakesTheOldestRequestFirst) {
  Bench bench;
  bench.executor.admit(9, agent_program(), {value_of(1)}, in_a_second, in_an_hour);
  bench.executor.admit(4, agent_program(), {value_of(2)}, in_a_second, in_an_hour);
  bench.run();
  EXPECT_EQ(bench.engine.results, (std::vector<float>{101, 102}));
}

TEST(Executor, LetsAYoungerRequestRunWhileTheOlderWaits) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.admit(2, fusion_program(), {}, in_a_second, in_an_hour);
  for (int peer : {0, 1})
    bench.executor.deliver(2, peer, static_cast<std::uint32_t>(peer), value_of(2));
  bench.run();
  EXPECT_EQ(bench.log, (Log{"2 output 4", "2 finished"}));
  for (int peer : {0, 1})
    bench.executor.deliver(1, peer, static_cast<std::uint32_t>(peer), value_of(1));
  bench.run();
  EXPECT_EQ(bench.log.back(), "1 finished");
}

TEST(Executor, ReturnsToTheOlderRequestBetweenTwoInstructionsOfTheYounger) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.admit(2, agent_program(), {value_of(2)}, in_a_second, in_an_hour);
  EXPECT_TRUE(bench.executor.step(start));  // norm of 2
  for (int peer : {0, 1})
    bench.executor.deliver(1, peer, static_cast<std::uint32_t>(peer), value_of(1));
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 output 2", "1 finished", "2 send 2:7 102", "2 finished"}));
}

TEST(Executor, SendsBeforeItComputesOn) {
  auto program = std::make_shared<Program>();
  program->values = {info("x"), info("a"), info("b")};
  program->instructions = {plan::Input{0}, norm(1, 0), norm(2, 0), plan::Send{1, -1, 0},
                           plan::Send{2, -1, 0}};
  Bench bench;
  bench.executor.admit(1, program, {value_of(1)}, in_a_second, in_an_hour);
  bench.executor.step(start);
  bench.executor.step(start);
  EXPECT_EQ(bench.log.size(), 1u) << "the first result must leave before the second is computed";
  EXPECT_EQ(bench.engine.results.size(), 1u);
}

TEST(Executor, FusesWithWhatIsThereWhenTheOthersAreLate) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.deliver(1, 0, 0, value_of(3));
  EXPECT_EQ(bench.executor.next_timer(), in_a_second);
  EXPECT_EQ(bench.run(in_a_second - 1ns), 0);
  bench.run(in_a_second);
  EXPECT_EQ(bench.log, (Log{"1 output 2", "1 finished"}));
}

TEST(Executor, IgnoresAFeatureThatComesAfterItWasGivenUp) {
  Bench bench;
  auto program = std::make_shared<Program>(*fusion_program());
  std::get<plan::Receive>(program->instructions[0]).may_be_absent =
      false;  // keeps the request alive
  bench.executor.admit(1, program, {}, in_a_second, in_an_hour);
  EXPECT_EQ(bench.run(in_a_second), 0);
  EXPECT_EQ(bench.executor.deliver(1, 1, 1, value_of(50)), "");
  bench.executor.deliver(1, 0, 0, value_of(3));
  bench.run(in_a_second);
  EXPECT_EQ(bench.log.front(), "1 output 2");
  EXPECT_EQ(bench.executor.deliver(1, 1, 1, value_of(50)), "") << "unknown by now";
  EXPECT_EQ(bench.run(in_a_second), 0);
}

TEST(Executor, KeepsTheFirstOfTwoDeliveries) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.deliver(1, 0, 0, value_of(3));
  bench.executor.deliver(1, 0, 0, value_of(30));
  bench.executor.deliver(1, 1, 1, value_of(1));
  bench.run();
  EXPECT_EQ(bench.log.front(), "1 output 4");
}

TEST(Executor, IgnoresAnotherPeersOrTagsValue) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.deliver(1, 0, 1, value_of(3));
  bench.executor.deliver(1, 1, 0, value_of(3));
  EXPECT_EQ(bench.run(), 0);
}

TEST(Executor, CountsALostPeerAsAbsentAtOnce) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.deliver(1, 1, 1, value_of(8));
  bench.executor.peer_lost(1, 1);  // what it delivered counts
  EXPECT_EQ(bench.run(), 0);
  bench.executor.peer_lost(1, 0);
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 output 7", "1 finished"}));
}

TEST(Executor, CountsALostPeerAsAbsentInEveryRequest) {
  Bench bench;
  for (const Executor::RequestId id : {1, 2, 3}) {
    bench.executor.admit(id, fusion_program(), {}, in_a_second, in_an_hour);
    bench.executor.deliver(id, 1, 1, value_of(8));
  }
  for (const Executor::RequestId id : {1, 2, 3}) bench.executor.peer_lost(id, 0);
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 output 7", "1 finished", "2 output 7", "2 finished", "3 output 7",
                            "3 finished"}));
}

TEST(Executor, FailsEveryRequestThatNeedsALostPeer) {
  Bench bench;
  for (const Executor::RequestId id : {1, 2})
    bench.executor.admit(id, fusion_program(false), {}, in_a_second, in_an_hour);
  bench.executor.admit(3, agent_program(), {value_of(1)}, in_a_second, in_an_hour);
  for (const Executor::RequestId id : {1, 2, 3, 4}) bench.executor.peer_lost(id, 0);
  bench.run();
  const std::string why =
      " failed [receive] value f_0 from rank 0: saw the connection end, needs the value";
  EXPECT_EQ(bench.log, (Log{"1" + why, "2" + why, "3 send 2:7 101", "3 finished"}));
}

TEST(Executor, FailsARequestWhoseSenderIsLostWhereItsValueMustCome) {
  Bench bench;
  bench.executor.admit(1, fusion_program(false), {}, in_a_second, in_an_hour);
  bench.executor.peer_lost(1, 1);
  EXPECT_TRUE(bench.log.empty()) << "hooks are called from step() alone";
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 failed [receive] value f_1 from rank 1: saw the connection end, "
                            "needs the value"}));
  EXPECT_EQ(bench.executor.in_flight(), 0u);
}

TEST(Executor, DropsARequestAtItsDeadline) {
  Bench bench;
  bench.executor.admit(1, fusion_program(false), {}, in_a_second, in_a_second + 1s);
  EXPECT_EQ(bench.executor.next_timer(), in_a_second + 1s);
  EXPECT_EQ(bench.run(in_a_second), 0);
  bench.run(in_a_second + 1s);
  EXPECT_EQ(bench.log, (Log{"1 dropped"}));
  EXPECT_EQ(bench.executor.next_timer(), std::nullopt);
}

TEST(Executor, DropsAnExpiredRequestBeforeItComputes) {
  Bench bench;
  bench.executor.admit(1, agent_program(), {value_of(1)}, in_a_second, in_a_second);
  bench.run(in_a_second);
  EXPECT_EQ(bench.log, (Log{"1 dropped"}));
  EXPECT_TRUE(bench.engine.results.empty());
}

TEST(Executor, NamesTheEarliestTimerOfAllRequests) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second + 5s, in_an_hour);
  bench.executor.admit(2, fusion_program(), {}, in_a_second, in_an_hour);
  EXPECT_EQ(bench.executor.next_timer(), in_a_second);
}

TEST(Executor, ForgetsACanceledRequest) {
  Bench bench;
  bench.executor.admit(1, agent_program(), {value_of(1)}, in_a_second, in_an_hour);
  bench.executor.step(start);
  bench.executor.cancel(1);
  bench.executor.cancel(77);
  EXPECT_EQ(bench.run(), 0);
  EXPECT_TRUE(bench.log.empty());
}

TEST(Executor, ForgetsASequenceWhenItsLastRequestHasEnded) {
  class KeepingEngine : public AddingEngine {
   public:
    net::Value compute(const Instruction& instruction, const Program& program,
                       const std::vector<const net::Value*>& operands,
                       const Sequence& sequence) override {
      calls.push_back("run " + std::to_string(sequence.id));
      return AddingEngine::compute(instruction, program, operands, sequence);
    }
    void forget(std::uint64_t sequence) override {
      calls.push_back("forget " + std::to_string(sequence));
    }
    std::vector<std::string> calls;
  };
  KeepingEngine engine;
  Executor executor(engine, {});
  const auto admit = [&](Executor::RequestId id, std::uint64_t sequence) {
    executor.admit(id, agent_program(), {value_of(5)}, in_a_second, in_an_hour, {sequence, 0, 8});
  };
  admit(1, 5);
  admit(2, 5);
  admit(3, 6);
  executor.forget(5);
  executor.forget(7);
  EXPECT_EQ(engine.calls, (Log{"forget 7"}));
  executor.cancel(2);
  while (executor.step(start)) {
  }
  EXPECT_EQ(engine.calls, (Log{"forget 7", "run 5", "forget 5", "run 6"}));
}

TEST(Executor, LetsHooksCancelAndAdmit) {
  Bench bench;
  Executor::Hooks hooks = bench.hooks();
  Executor* executor = nullptr;
  hooks.send = [&](auto id, auto, auto, const net::Value& value, const RunTimes&) {
    executor->cancel(id);
    bench.note(id, "sent " + Bench::text(value));
    if (id < 3) executor->admit(id + 1, agent_program(), {value_of(1)}, in_a_second, in_an_hour);
  };
  Executor nested(bench.engine, hooks);
  executor = &nested;
  nested.admit(1, agent_program(), {value_of(1)}, in_a_second, in_an_hour);
  while (nested.step(start)) {
  }
  EXPECT_EQ(bench.log, (Log{"1 sent 101", "2 sent 101", "3 sent 101"}));
  EXPECT_EQ(nested.in_flight(), 0u);
}

TEST(Executor, ReportsTheEnginesErrorAndGoesOn) {
  Bench bench;
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.admit(2, agent_program(), {value_of(1)}, in_a_second, in_an_hour);
  bench.executor.peer_lost(1, 0);
  bench.executor.peer_lost(1, 1);
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 failed [fuse] sum: saw -2.000000, needs >= 0", "2 send 2:7 101",
                            "2 finished"}));
}

TEST(Executor, RefusesAnIdThatIsInFlight) {
  Bench bench;
  EXPECT_TRUE(bench.executor.admit(1, agent_program(), {value_of(1)}, in_a_second, in_an_hour));
  EXPECT_FALSE(bench.executor.admit(1, agent_program(), {value_of(9)}, in_a_second, in_an_hour));
  bench.run();
  EXPECT_EQ(bench.log.front(), "1 send 2:7 101");
}

TEST(Executor, SaysWhatIsWrongWithAnInput) {
  Bench bench;
  net::Value wide = value_of(1);
  wide.dims = {2, 3};
  bench.executor.admit(1, agent_program(), {wide}, in_a_second, in_an_hour);
  bench.executor.admit(2, agent_program(), {}, in_a_second, in_an_hour);
  net::Value bytes = value_of(1);
  bytes.element = base::Element::u8;
  bench.executor.admit(3, agent_program(), {bytes}, in_a_second, in_an_hour);
  net::Value cut = value_of(1);
  cut.data = net::Buffer::copy_of("ab", 2);
  bench.executor.admit(4, agent_program(), {cut}, in_a_second, in_an_hour);
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 failed [admit] value x as input: saw f32 [2, 3], needs f32 [1]",
                            "2 failed [admit] inputs: saw 0, needs 1",
                            "3 failed [admit] value x as input: saw u8 [1], needs f32 [1]",
                            "4 failed [admit] value x as input: saw 2 bytes, needs 4"}));
  EXPECT_TRUE(bench.engine.results.empty());
}

TEST(Executor, TreatsAWrongValueAsAbsentWhereItMayBe) {
  Bench bench;
  net::Value wide = value_of(1);
  wide.dims = {2};
  const std::string wrong = "value f_1 from rank 1: saw f32 [2], needs f32 [1]";
  bench.executor.admit(1, fusion_program(), {}, in_a_second, in_an_hour);
  bench.executor.deliver(1, 0, 0, value_of(3));
  EXPECT_EQ(bench.executor.deliver(1, 1, 1, wide), wrong);
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 output 2", "1 finished"}));

  bench.executor.admit(2, fusion_program(false), {}, in_a_second, in_an_hour);
  EXPECT_EQ(bench.executor.deliver(2, 1, 1, wide), wrong);
  bench.run();
  EXPECT_EQ(bench.log.back(), "2 failed [receive] " + wrong);
}

TEST(Executor, RefusesAResultThatIsNotWhatTheProgramSays) {
  auto program = std::make_shared<Program>(*agent_program());
  program->values[1].dims = {1, 96};
  Bench bench;
  bench.executor.admit(1, program, {value_of(1)}, in_a_second, in_an_hour);
  bench.run();
  EXPECT_EQ(bench.log,
            (Log{"1 failed [send] value f as computed: saw f32 [1], needs f32 [1, 96]"}));
}

TEST(Executor, OnlyFuseAcceptsAbsentOperands) {
  auto program = std::make_shared<Program>(*fusion_program());
  program->instructions[2] = norm(2, 0);
  Bench bench;
  bench.executor.admit(1, program, {}, in_a_second, in_an_hour);
  bench.executor.peer_lost(1, 0);
  bench.executor.peer_lost(1, 1);
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 failed [norm] operand f_0: saw absent, needs a value"}));
}

TEST(Executor, FreesAValueAfterItsLastUse) {
  Bench bench;
  net::Value input = value_of(1);
  std::weak_ptr<const void> owner = input.data.owner();
  bench.executor.admit(1, agent_program(), {std::move(input)}, in_a_second, in_an_hour);
  EXPECT_FALSE(owner.expired());
  bench.executor.step(start);
  EXPECT_TRUE(owner.expired()) << "the input is not needed after norm";
}

TEST(Executor, EndsAProgramWhoseLastInstructionIsAReceive) {
  auto program = std::make_shared<Program>();
  program->values = {info("f_0")};
  program->instructions = {receive(0, 0)};
  Bench bench;
  bench.executor.admit(1, program, {}, in_a_second, in_an_hour);
  EXPECT_EQ(bench.run(), 0);
  bench.executor.deliver(1, 0, 0, value_of(1));
  bench.run();
  EXPECT_EQ(bench.log, (Log{"1 finished"}));
}

// While another request computes nobody looks at what comes.
TEST(Executor, CountsFromWhenAValueArrivedAsQueued) {
  Bench bench;
  AddingEngine engine;
  Executor executor(engine, bench.hooks());
  executor.admit(1, fusion_program(), {}, in_an_hour, in_an_hour);
  const auto arrived = Clock::now();
  std::this_thread::sleep_for(30ms);
  for (int peer : {0, 1})
    executor.deliver(1, peer, static_cast<std::uint32_t>(peer), value_of(1), arrived);
  while (executor.step(start)) {
  }
  EXPECT_GE(bench.times.queued_s, 0.029);
}

TEST(Executor, TellsComputingFromWaiting) {
  class SlowEngine : public AddingEngine {
    net::Value compute(const Instruction& instruction, const Program& program,
                       const std::vector<const net::Value*>& operands,
                       const Sequence& sequence) override {
      std::this_thread::sleep_for(20ms);
      return AddingEngine::compute(instruction, program, operands, sequence);
    }
  };
  Bench bench;
  SlowEngine engine;
  Executor executor(engine, bench.hooks());
  const auto begin = std::chrono::steady_clock::now();
  executor.admit(1, fusion_program(), {}, in_an_hour, in_an_hour);
  std::this_thread::sleep_for(30ms);
  for (int peer : {0, 1}) executor.deliver(1, peer, static_cast<std::uint32_t>(peer), value_of(1));
  std::this_thread::sleep_for(10ms);
  while (executor.step(start)) {
  }
  EXPECT_GE(bench.times.compute_s, 0.019);
  EXPECT_GE(bench.times.wait_s, 0.029);
  EXPECT_GE(bench.times.queued_s, 0.009);
  const std::chrono::duration<double> all = std::chrono::steady_clock::now() - begin;
  EXPECT_LE(bench.times.compute_s + bench.times.wait_s + bench.times.queued_s, all.count())
      << "no moment counts twice";
}

// What is ready behind its own request's other instructions does not wait for a peer.
TEST(Executor, CountsNoWaitingWhileSomethingRuns) {
  class SlowEngine : public AddingEngine {
    net::Value compute(const Instruction& instruction, const Program& program,
                       const std::vector<const net::Value*>& operands,
                       const Sequence& sequence) override {
      std::this_thread::sleep_for(10ms);
      return AddingEngine::compute(instruction, program, operands, sequence);
    }
  };
  auto program = std::make_shared<Program>();
  program->values = {info("x"), info("a"), info("b"), info("c")};
  program->instructions = {receive(0, 0, false), norm(1, 0), norm(2, 0), norm(3, 0),
                           plan::Send{3, 2, 7}};
  Bench bench;
  SlowEngine engine;
  Executor executor(engine, bench.hooks());
  executor.admit(1, program, {}, in_an_hour, in_an_hour);
  std::this_thread::sleep_for(20ms);
  executor.deliver(1, 0, 0, value_of(1));
  while (executor.step(start)) {
  }
  EXPECT_GE(bench.times.compute_s, 0.029);
  EXPECT_GE(bench.times.wait_s, 0.019);
  EXPECT_LT(bench.times.queued_s, 0.009);
}

TEST(Executor, RecordsWhatRanWhereItIsAskedTo) {
  std::vector<Ran> ran;
  Bench bench;
  auto hooks = bench.hooks();
  hooks.ran = [&](auto, std::vector<Ran> all) { ran = std::move(all); };
  Executor executor(bench.engine, hooks);
  const auto run = [&](std::size_t most) {
    executor.admit(1, fusion_program(), {}, in_an_hour, in_an_hour, {}, most);
    std::this_thread::sleep_for(5ms);
    for (int peer : {0, 1})
      executor.deliver(1, peer, static_cast<std::uint32_t>(peer), value_of(1));
    while (executor.step(start)) {
    }
    return std::exchange(ran, {});
  };
  const auto all = run(100);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].what, Ran::What::idle);
  EXPECT_GE(all[0].end - all[0].start, 5ms);
  EXPECT_EQ(all[1].what, Ran::What::instruction);
  EXPECT_EQ(all[1].instruction, 2u);
  EXPECT_EQ(all[2].what, Ran::What::stretch);
  EXPECT_EQ(all[2].instruction, 2u);
  EXPECT_LE(all[2].start, all[1].start);
  EXPECT_GE(all[2].end, all[1].end);
  EXPECT_EQ(run(1).size(), 1u) << "no more than there is room for";
  EXPECT_TRUE(run(0).empty());
}

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Uses up CPU time of its thread.
class BusyEngine : public AddingEngine {
 public:
  explicit BusyEngine(std::chrono::microseconds busy) : busy_(busy) {}
  net::Value compute(const Instruction& instruction, const Program& program,
                     const std::vector<const net::Value*>& operands,
                     const Sequence& sequence) override {
    for (const double end = thread_seconds() + std::chrono::duration<double>(busy_).count();
         thread_seconds() < end;) {
    }
    return AddingEngine::compute(instruction, program, operands, sequence);
  }

 private:
  std::chrono::microseconds busy_;
};

double seconds_of_run(Engine& engine) {
  const auto program = agent_program();
  const net::Value input = value_of(1);
  const auto before = Clock::now();
  run_one(engine, program->instructions[1], program, {input});
  engine.settle();
  return std::chrono::duration<double>(Clock::now() - before).count();
}

/// Of a machine whose cores others may hold: they only add.
double best_of(int runs, Engine& engine) {
  double best = 1;
  for (int i = 0; i < runs; ++i) best = std::min(best, seconds_of_run(engine));
  return best;
}

TEST(Paced, StretchesComputingByItsFactor) {
  const auto engine = paced(std::make_unique<BusyEngine>(2ms), 4);
  engine->prepare();
  const double best = best_of(15, *engine);
  EXPECT_GE(best, 0.008);
  EXPECT_LT(best, 0.016);
}

TEST(Paced, SleepsOffALongInstructionAtOnceAndGivesItsTurnBack) {
  const auto file =
      std::filesystem::temp_directory_path() / ("cleave-turn-" + std::to_string(::getpid()));
  const auto one = paced(std::make_unique<BusyEngine>(2ms), 20, file.string(), 20ms);
  const auto program = agent_program();
  const net::Value input = value_of(1);
  const auto before = Clock::now();
  run_one(*one, program->instructions[1], program, {input});  // nobody calls settle()
  EXPECT_GE(Clock::now() - before, 40ms);
  auto other = std::async(std::launch::async, [&] {
    const auto engine = paced(std::make_unique<BusyEngine>(1us), 1, file.string());
    run_one(*engine, program->instructions[1], program, {input});
  });
  EXPECT_EQ(other.wait_for(10s), std::future_status::ready);
  one->settle();
  std::filesystem::remove(file);
}

TEST(Paced, SlowsShortRequestsToo) {
  const auto engine = paced(std::make_unique<BusyEngine>(100us), 5);
  engine->prepare();
  const double best = best_of(30, *engine);
  EXPECT_GE(best, 0.0005);
  EXPECT_LT(best, 0.001);
}

// To end each of them at its own time would be to spin through all of it.
TEST(Paced, SleepsOffWhatManySmallInstructionsOweTogether) {
  const auto engine = paced(std::make_unique<BusyEngine>(5us), 10);
  engine->prepare();
  const auto program = agent_program();
  const net::Value input = value_of(1);
  const double cpu_before = thread_seconds();
  const auto before = Clock::now();
  for (int i = 0; i < 400; ++i) run_one(*engine, program->instructions[1], program, {input});
  engine->settle();
  const double elapsed = std::chrono::duration<double>(Clock::now() - before).count();
  const double used = thread_seconds() - cpu_before;
  EXPECT_GE(elapsed, 400 * 5e-6 * 10);
  EXPECT_LT(used, 0.7 * elapsed);
}

TEST(Executor, LetsTheEngineSettleBeforeAValueLeavesAndWhereNothingIsReady) {
  class SettlingEngine : public AddingEngine {
   public:
    explicit SettlingEngine(std::vector<std::string>& log) : log_(log) {}
    net::Value compute(const Instruction& instruction, const Program& program,
                       const std::vector<const net::Value*>& operands,
                       const Sequence& sequence) override {
      log_.push_back("run");
      return AddingEngine::compute(instruction, program, operands, sequence);
    }
    void settle() override { log_.push_back("settle"); }

   private:
    std::vector<std::string>& log_;
  };
  Bench bench;
  SettlingEngine engine(bench.log);
  Executor executor(engine, bench.hooks());
  executor.admit(1, agent_program(), {value_of(1)}, in_an_hour, in_an_hour);
  while (executor.step(start)) {
  }
  EXPECT_EQ(bench.log, (Log{"run", "settle", "1 send 2:7 101", "1 finished", "settle"}));
}

TEST(Paced, DoesNotCountTimeAsleep) {
  const auto engine = paced(with_delay(std::make_unique<AddingEngine>(), 5ms), 100);
  engine->prepare();
  const double best = best_of(5, *engine);
  EXPECT_LT(best, 0.1);
  EXPECT_GE(best, 0.005);
}

TEST(Paced, ThoseWithOneFileComputeOneAtATime) {
  const auto file =
      std::filesystem::temp_directory_path() / ("cleave-turns-" + std::to_string(::getpid()));
  class WatchingEngine : public ValueEngine {
   public:
    explicit WatchingEngine(std::atomic<int>& inside, std::atomic<int>& most)
        : inside_(inside), most_(most) {}
    net::Value compute(const plan::Instruction&, const plan::Program&,
                       const std::vector<const net::Value*>&, const Sequence&) override {
      const int now = ++inside_;
      for (int seen = most_; now > seen && !most_.compare_exchange_weak(seen, now);) {
      }
      std::this_thread::sleep_for(2ms);
      --inside_;
      return {};
    }

   private:
    std::atomic<int>&inside_, &most_;
  };
  const auto most_at_once = [](const std::string& turns) {
    std::atomic<int> inside{0}, most{0};
    std::vector<std::thread> devices;
    for (int i = 0; i < 4; ++i)
      devices.emplace_back([&] {
        const auto engine = paced(std::make_unique<WatchingEngine>(inside, most), 1, turns);
        for (int k = 0; k < 10; ++k) {
          run_one(*engine, norm(1, 0), agent_program(), {value_of(1)});
          engine->settle();
        }
      });
    for (auto& device : devices) device.join();
    return most.load();
  };
  EXPECT_EQ(most_at_once(file.string()), 1);
  EXPECT_GT(most_at_once({}), 1);
  std::filesystem::remove(file);
  EXPECT_THROW(paced(std::make_unique<AddingEngine>(), 1, "/nowhere/turns"), std::system_error);
}

TEST(Paced, RefusesToMakeADeviceFaster) {
  try {
    paced(std::make_unique<AddingEngine>(), 0.5);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "[paced] factor: saw 0.500000, needs at least 1");
  }
}

TEST(WithDelay, DelaysEachRun) {
  const auto engine = with_delay(std::make_unique<AddingEngine>(), 20ms);
  EXPECT_GE(seconds_of_run(*engine), 0.02);
}

/// The only thing that may happen on another thread is freeing a sent value.
TEST(Executor, LetsAnotherThreadFreeWhatItSent) {
  Bench bench;
  Executor::Hooks hooks = bench.hooks();
  std::vector<std::thread> io;
  std::atomic<int> sum{0};
  hooks.send = [&](auto, auto, auto, const net::Value& value, const RunTimes&) {
    io.emplace_back([sent = net::Value(value), &sum]() mutable {
      sum += static_cast<int>(number_in(sent));
      sent = {};
    });
  };
  Executor executor(bench.engine, hooks);
  for (std::uint64_t id = 0; id < 8; ++id)
    executor.admit(id, agent_program(), {value_of(static_cast<float>(id))}, in_an_hour, in_an_hour);
  while (executor.step(start)) {
  }
  for (auto& thread : io) thread.join();
  EXPECT_EQ(sum, 8 * 100 + 28);
}

}  // namespace
}  // namespace cleave::infer
