#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "infer/machine.hpp"
#include "infer/play.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::model {
struct Transformer;
}

namespace cleave::infer {

/// Libtorch on one thread over the parts that this process holds.
struct EngineOptions {
  int threads = 1;
  /// Runs each held part once on zeros in prepare(), so that the first request is not the slow one.
  bool warm_up = true;
  /// What is computed in, f32 or f64: the reference of tests. Programs have to be of the same.
  base::Element element = base::Element::f32;
};

/// Holds what a device has of these plans of a bundle (agents): its sub-models and its holding,
/// which serves whatever later plan it is enough for. Throws std::runtime_error: not held, digest
/// wrong; std::invalid_argument: no such device.
std::unique_ptr<Engine> device_engine(const plan::Bundle& bundle,
                                      const std::vector<plan::Plan>& plans,
                                      const std::string& device, const EngineOptions& options = {});
/// Holds the fusion heads of these plans (aggregator).
std::unique_ptr<Engine> fusion_engine(const plan::Bundle& bundle,
                                      const std::vector<plan::Plan>& plans,
                                      const EngineOptions& options = {});
/// Holds every part of a plan and its fusion head: the reference that the distributed run must
/// equal.
std::unique_ptr<Engine> local_engine(const plan::Bundle& bundle, const plan::Plan& plan,
                                     const EngineOptions& options = {});
/// A whole model folder as the only part (strategy `local`; the teacher in benchmarks), and as the
/// teacher of exact strategies.
std::unique_ptr<Engine> model_engine(const std::filesystem::path& model,
                                     const EngineOptions& options = {});

/// The same over a model in memory, which may have only the weights that its programs read
/// (plan::weights_of).
std::unique_ptr<Engine> model_engine(model::Transformer model, const EngineOptions& options = {});

/// Sets one thread pool (ATen, OpenMP, OpenBLAS) to `threads`; call first in main and on the
/// compute thread.
void set_threads(int threads);

}  // namespace cleave::infer
