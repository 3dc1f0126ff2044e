// What the executor itself costs: a program of thousands of instructions over an engine that
// computes nothing, from admission to the end, clock reads included. Usage: executor_bench [ROUNDS]
// (default: 200 of each size)

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "infer/executor.hpp"
#include "tests/infer/value_engine.hpp"

namespace cleave::infer {
namespace {

class NullEngine : public ValueEngine {
 public:
  explicit NullEngine(net::Value value) : value_(std::move(value)) {}
  net::Value compute(const plan::Instruction&, const plan::Program&,
                     const std::vector<const net::Value*>&, const Sequence&) override {
    return value_;
  }

 private:
  net::Value value_;
};

net::Value one_number() {
  const float number = 1;
  net::Value value;
  value.dims = {1};
  value.data = net::Buffer::copy_of(&number, sizeof number);
  return value;
}

/// As an exact strategy's: a chain where every third value goes to a peer and another comes from
/// there.
std::shared_ptr<const plan::Program> chain(std::size_t instructions) {
  auto program = std::make_shared<plan::Program>();
  const auto value = [&] {
    program->values.push_back({"v", base::Element::f32, {1}});
    return static_cast<plan::ValueId>(program->values.size() - 1);
  };
  plan::ValueId last = value();
  program->instructions.emplace_back(plan::Input{last});
  for (std::uint32_t tag = 0; program->instructions.size() + 1 < instructions; ++tag) {
    const plan::ValueId computed = value(), received = value(), sum = value();
    plan::Norm norm;
    norm.result = computed;
    norm.x = last;
    program->instructions.emplace_back(norm);
    program->instructions.emplace_back(plan::Send{computed, 1, tag});
    program->instructions.emplace_back(plan::Receive{received, 1, tag, false});
    program->instructions.emplace_back(plan::Fuse{sum, {computed, received}});
    last = sum;
  }
  program->instructions.emplace_back(plan::Output{last});
  return program;
}

double seconds_of_one(const std::shared_ptr<const plan::Program>& program) {
  NullEngine engine(one_number());
  Executor* self = nullptr;
  Executor::Hooks hooks;
  // What is sent comes back at once, as from a peer that is never late.
  hooks.send = [&](auto id, auto peer, auto tag, const net::Value& value, const RunTimes&) {
    self->deliver(id, peer, tag, value);
  };
  Executor executor(engine, hooks);
  self = &executor;
  const auto start = Clock::now();
  executor.admit(1, program, {one_number()}, start + std::chrono::hours(1),
                 start + std::chrono::hours(1));
  while (executor.step(Clock::now())) {
  }
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int main(int rounds) {
  std::printf("instructions  whole request, median  an instruction\n");
  for (const std::size_t size : {5, 54, 533, 5333, 53333}) {
    const auto program = chain(size);
    std::vector<double> seconds;
    for (int round = 0; round < rounds; ++round) seconds.push_back(seconds_of_one(program));
    std::nth_element(seconds.begin(), seconds.begin() + rounds / 2, seconds.end());
    const double median = seconds[static_cast<std::size_t>(rounds / 2)];
    std::printf("%12zu  %18.1f us  %11.3f us\n", program->instructions.size(), median * 1e6,
                median * 1e6 / static_cast<double>(program->instructions.size()));
  }
  return 0;
}

}  // namespace
}  // namespace cleave::infer

int main(int argc, char** argv) {
  return cleave::infer::main(argc > 1 ? std::max(1, std::atoi(argv[1])) : 200);
}
