#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "infer/executor.hpp"
#include "infer/sampler.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::infer {

/// A value that one rank hands to another.
using OnSend = std::function<void(std::int32_t from, std::int32_t to, const net::Value& value)>;
/// Plays the programs of all ranks in this process, each on its engine (which may be the same), and
/// returns the output. `inputs` feed the one program that has `input` instructions, in order. Ranks
/// that are `absent` are left out. Throws std::runtime_error.
net::Value play(const std::vector<Engine*>& engines, const std::vector<plan::Program>& programs,
                const std::vector<net::Value>& inputs, const std::vector<bool>& absent = {},
                const Sequence& sequence = {}, const OnSend& on_send = {});

/// Compiles the plan for the input and plays it on one engine. `sampling`: the next token of each
/// text is wanted (choices_of), else what the model answers. Throws std::invalid_argument too.
net::Value run_locally(Engine& engine, const plan::Plan& plan, const net::Value& input,
                       const std::vector<bool>& absent = {}, const Sequence& sequence = {},
                       const std::optional<Sampling>& sampling = {});
/// The same of a causal language model that answers for every token: [B, N, V].
net::Value run_every_token(Engine& engine, const plan::Plan& plan, const net::Value& input);

}  // namespace cleave::infer
