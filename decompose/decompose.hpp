#pragma once

#include <filesystem>
#include <vector>

#include "base/progress.hpp"
#include "decompose/importance.hpp"
#include "decompose/slice.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::decompose {

/// Complementary selection: which units each part keeps, so that parts differ. Devices take in turn
/// (rank order); a unit's score is its importance, discounted by `overlap_discount` for each part
/// that already holds it. Counts come from the plan.
struct SelectOptions {
  double overlap_discount = 0.5;
};
std::vector<KeepList> select(const plan::Plan& plan, const Importance& importance,
                             const SelectOptions& options = {});

struct DecomposeSummary {
  plan::Manifest manifest;
  std::vector<KeepList> keeps;
  /// Share of the teacher's channels and heads held by at least one part, and by more than one.
  double covered = 0, shared = 0;
};

/// Cuts the teacher as the plan says and writes the bundle (plans/, parts/, fusion/, manifest
/// last): whole or not at all. An existing bundle at `out` is replaced only when it is one. Throws
/// std::invalid_argument where the plan does not fit.
DecomposeSummary decompose(const std::filesystem::path& teacher, plan::Plan plan,
                           const Importance& importance, const std::filesystem::path& out,
                           const base::ProgressCallback& progress = {});

/// A randomly initialised model folder from a config, streamed (peak memory: the largest tensor);
/// marked in its config.
void init(const model::ModelConfig& config, std::uint64_t seed, const std::filesystem::path& out,
          const base::ProgressCallback& progress = {});
/// "vit-base", "vit-large", "deit-tiny", "deit-small", "deit-base": shapes of published models.
model::ModelConfig preset(const std::string& name);
std::vector<std::string> preset_names();

}  // namespace cleave::decompose
