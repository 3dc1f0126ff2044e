#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "infer/executor.hpp"
#include "infer/machine.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::infer {

/// Libtorch on one thread over the parts that this process holds.
struct EngineOptions {
  int threads = 1;
  /// Runs each held part once on zeros in prepare(), so that the first request is not the slow one.
  bool warm_up = true;
};

/// Holds one part of a bundle's plan (agents). Throws std::runtime_error: no such device, part not
/// held, digest wrong.
std::unique_ptr<Engine> part_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                    const std::string& device, const EngineOptions& options = {});
/// Holds the fusion head (aggregator).
std::unique_ptr<Engine> fusion_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                      const EngineOptions& options = {});
/// Holds every part and the fusion head: the reference that the distributed run must equal.
std::unique_ptr<Engine> local_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                     const EngineOptions& options = {});
/// A whole model folder as the only part (strategy `local`; the teacher in benchmarks).
std::unique_ptr<Engine> model_engine(const std::filesystem::path& model,
                                     const EngineOptions& options = {});

/// Plays all ranks' programs in this process, one after the other. Returns what the plan answers;
/// `absent` parts are left out.
net::Value run_locally(Engine& engine, const plan::Plan& plan, const net::Value& input,
                       const std::vector<bool>& absent = {}, const Sequence& sequence = {});

/// Sets one thread pool (ATen, OpenMP, OpenBLAS) to `threads`; call first in main and on the
/// compute thread.
void set_threads(int threads);

}  // namespace cleave::infer
