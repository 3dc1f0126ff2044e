#pragma once

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "infer/slots.hpp"

namespace cleave::infer {

/// The first value that an instruction writes.
inline plan::ValueId result_of(const plan::Instruction& instruction) {
  std::vector<plan::ValueId> results;
  plan::for_results(instruction, [&](plan::ValueId value) { results.push_back(value); });
  return results.at(0);
}

/// An engine that computes net::Values from net::Values, an instruction at a time; of one with
/// several results they are all the same.
class ValueEngine : public Engine {
 public:
  virtual net::Value compute(const plan::Instruction& instruction, const plan::Program& program,
                             const std::vector<const net::Value*>& operands,
                             const Sequence& sequence) = 0;
  /// A computed value as it leaves: `info` says what the program promises.
  virtual net::Value leaving(const net::Value& value, const plan::ValueInfo& /*info*/) {
    return value;
  }

  std::unique_ptr<Slots> begin(std::shared_ptr<const plan::Program> program,
                               const Sequence& sequence) override {
    return std::make_unique<Values>(*this, std::move(program), sequence);
  }

 private:
  class Values : public Slots {
   public:
    Values(ValueEngine& engine, std::shared_ptr<const plan::Program> program,
           const Sequence& sequence)
        : engine_(engine),
          program_(std::move(program)),
          sequence_(sequence),
          values_(program_ ? program_->values.size() : 0) {}
    void set(plan::ValueId value, net::Value is) override {
      at(value) = std::move(is);
      given_.insert(value);
    }
    void run(const plan::Instruction& instruction) override {
      operands_.clear();
      plan::for_operands(instruction,
                         [&](plan::ValueId operand) { operands_.push_back(&at(operand)); });
      const net::Value computed = engine_.compute(instruction, *program_, operands_, sequence_);
      plan::for_results(instruction, [&](plan::ValueId result) { at(result) = computed; });
    }
    net::Value get(plan::ValueId value) override {
      if (given_.count(value) != 0) return at(value);
      return engine_.leaving(at(value), program_->values.at(static_cast<std::size_t>(value)));
    }
    void clear(plan::ValueId value) override { at(value) = {}; }

   private:
    net::Value& at(plan::ValueId value) { return values_.at(static_cast<std::size_t>(value)); }
    ValueEngine& engine_;
    std::shared_ptr<const plan::Program> program_;
    Sequence sequence_;
    std::vector<net::Value> values_;
    std::set<plan::ValueId> given_;
    std::vector<const net::Value*> operands_;
  };
};

/// Runs one instruction of a program on operands in their order, in slots of its own.
inline net::Value run_one(Engine& engine, const plan::Instruction& instruction,
                          std::shared_ptr<const plan::Program> program,
                          const std::vector<net::Value>& operands) {
  const auto slots = engine.begin(std::move(program), {});
  auto next = operands.begin();
  plan::for_operands(instruction, [&](plan::ValueId value) { slots->set(value, *next++); });
  slots->run(instruction);
  return slots->get(result_of(instruction));
}

}  // namespace cleave::infer
