#include "infer/play.hpp"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "infer/draws.hpp"

namespace cleave::infer {

net::Value play(const std::vector<Engine*>& engines, const std::vector<plan::Program>& programs,
                const std::vector<net::Value>& inputs, const std::vector<bool>& absent,
                const Sequence& sequence, const OnSend& on_send) {
  constexpr Executor::RequestId request = 1;
  net::Value answer;
  std::string failure;
  std::vector<std::unique_ptr<Executor>> ranks;
  for (const plan::Program& program : programs) {
    Executor::Hooks hooks;
    hooks.send = [&, from = program.rank](auto, auto to, auto tag, const net::Value& value,
                                          const RunTimes&) {
      if (on_send) on_send(from, to, value);
      const std::string wrong =
          ranks.at(static_cast<std::size_t>(to))->deliver(request, from, tag, value);
      if (failure.empty()) failure = wrong;
    };
    hooks.output = [&](auto, const net::Value& value, const RunTimes&) { answer = value; };
    hooks.failed = [&](auto, const std::string& error, auto) {
      if (failure.empty()) failure = error;
    };
    ranks.push_back(std::make_unique<Executor>(*engines.at(ranks.size()), hooks));
  }
  const auto is_absent = [&](std::size_t rank) { return rank < absent.size() && absent[rank]; };
  const auto never = Clock::time_point::max();
  for (std::size_t rank = 0; rank < programs.size(); ++rank) {
    if (is_absent(rank)) continue;
    const bool takes_inputs = plan::find_first<plan::Input>(programs[rank]) != nullptr;
    ranks[rank]->admit(request, std::make_shared<const plan::Program>(programs[rank]),
                       takes_inputs ? inputs : std::vector<net::Value>(), never, never, sequence);
  }
  for (std::size_t rank = 0; rank < programs.size(); ++rank)
    if (is_absent(rank))
      for (const auto& other : ranks) other->peer_lost(request, static_cast<std::int32_t>(rank));
  for (bool busy = true; busy;) {
    busy = false;
    for (const auto& rank : ranks) busy = rank->step(Clock::now()) || busy;
  }
  if (!failure.empty()) throw std::runtime_error(failure);
  return answer;
}

namespace {

plan::RequestShape shape_of(const plan::Plan& plan, const net::Value& input) {
  plan::RequestShape shape;
  shape.batch = input.dims.empty() ? 1 : input.dims[0];
  if (plan.teacher.is_text()) shape.tokens = input.dims.size() < 2 ? 1 : input.dims[1];
  return shape;
}

}  // namespace

net::Value run_locally(Engine& engine, const plan::Plan& plan, const net::Value& input,
                       const std::vector<bool>& absent, const Sequence& sequence,
                       const std::optional<Sampling>& sampling) {
  plan::RequestShape shape = shape_of(plan, input);
  shape.continues = sequence.past > 0;
  const auto play_all = [&](const std::vector<net::Value>& inputs) {
    const auto programs = plan::compile(plan, shape);
    return play(std::vector<Engine*>(programs.size(), &engine), programs, inputs, absent, sequence);
  };
  if (!sampling) return play_all({input});
  sampling->check();
  const net::Value options = value_of(*sampling, shape.batch);
  shape.best = plan::usual_best;
  net::Value choices = play_all({input, options});
  if (!needs_logits(choices)) return choices;
  shape.from_kept = true;
  return play_all({options});
}

net::Value run_every_token(Engine& engine, const plan::Plan& plan, const net::Value& input) {
  plan::RequestShape shape = shape_of(plan, input);
  shape.every_token = true;
  const auto programs = plan::compile(plan, shape);
  return play(std::vector<Engine*>(programs.size(), &engine), programs, {input});
}

}  // namespace cleave::infer
