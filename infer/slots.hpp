#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "net/buffer.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::infer {

/// Where a request stands in a text that is generated: every device keeps the keys and values of
/// the tokens before it.
struct Sequence {
  /// 0: the request stands for itself, nothing is kept.
  std::uint64_t id = 0;
  /// Tokens before this request (of the longest text of the batch). 0 begins the sequence, anew
  /// where there is one of this id.
  std::int64_t past = 0;
  /// Tokens there must be room for, said when it begins.
  std::int64_t capacity = 0;
};

/// The values of one request as its engine keeps them, a slot for each. What travels has the form
/// of net::Value; what does not is the engine's own affair.
class Slots {
 public:
  virtual ~Slots() = default;
  /// What the request gives or a peer sent, as the program says it or absent.
  virtual void set(plan::ValueId value, net::Value is) = 0;
  /// Runs an instruction that computes: its operands' slots are full, its result's is then. Throws
  /// std::runtime_error.
  virtual void run(const plan::Instruction& instruction) = 0;
  /// A full slot's value as it travels. Its bytes are never written again, also when the slot is
  /// cleared.
  virtual net::Value get(plan::ValueId value) = 0;
  /// Nobody reads it any more.
  virtual void clear(plan::ValueId value) = 0;
};

/// Runs compute instructions. Called on the compute thread only; a handful of methods, so that
/// tests and testbed can stand around it (paced, delayed, plain C++).
class Engine {
 public:
  virtual ~Engine() = default;
  /// Empty slots for one request. They end before their engine does.
  virtual std::unique_ptr<Slots> begin(std::shared_ptr<const plan::Program> program,
                                       const Sequence& sequence) = 0;
  /// Called before a value leaves, and where nothing is ready: an engine that owes time pays it.
  virtual void settle() {}
  /// Frees what is kept of a sequence; one that is not known is no error.
  virtual void forget(std::uint64_t /*sequence*/) {}
  /// Called once on the compute thread before the first run: thread count, warm-up.
  virtual void prepare() {}
};

/// An engine around another one, which sees each instruction run.
class EngineAround : public Engine {
 public:
  explicit EngineAround(std::unique_ptr<Engine> inner) : inner_(std::move(inner)) {}
  std::unique_ptr<Slots> begin(std::shared_ptr<const plan::Program> program,
                               const Sequence& sequence) override;
  void settle() override { inner_->settle(); }
  void forget(std::uint64_t sequence) override { inner_->forget(sequence); }
  void prepare() override { inner_->prepare(); }

 protected:
  using Run = std::function<void()>;
  /// Calls `run` once. `rank`: whose program it is of.
  virtual void around(std::int32_t rank, const plan::Instruction& instruction, const Run& run) = 0;

 private:
  class SlotsAround;
  std::unique_ptr<Engine> inner_;
};

}  // namespace cleave::infer
