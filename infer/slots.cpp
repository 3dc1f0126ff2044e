#include "infer/slots.hpp"

#include <utility>

namespace cleave::infer {

class EngineAround::SlotsAround : public Slots {
 public:
  SlotsAround(EngineAround& engine, std::int32_t rank, std::unique_ptr<Slots> inner)
      : engine_(engine), rank_(rank), inner_(std::move(inner)) {}
  void set(plan::ValueId value, net::Value is) override { inner_->set(value, std::move(is)); }
  void run(const plan::Instruction& instruction) override {
    engine_.around(rank_, instruction, [&] { inner_->run(instruction); });
  }
  net::Value get(plan::ValueId value) override { return inner_->get(value); }
  void clear(plan::ValueId value) override { inner_->clear(value); }

 private:
  EngineAround& engine_;
  std::int32_t rank_;
  std::unique_ptr<Slots> inner_;
};

std::unique_ptr<Slots> EngineAround::begin(std::shared_ptr<const plan::Program> program,
                                           const Sequence& sequence) {
  const std::int32_t rank = program ? program->rank : -1;
  return std::make_unique<SlotsAround>(*this, rank, inner_->begin(std::move(program), sequence));
}

}  // namespace cleave::infer
