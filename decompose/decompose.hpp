#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/progress.hpp"
#include "decompose/fit/fit.hpp"
#include "decompose/importance.hpp"
#include "decompose/slice.hpp"
#include "model/config/safetensors.hpp"
#include "optimizer/plan/bundle.hpp"

namespace cleave::decompose {

/// Complementary selection: which units each part keeps, so that parts differ.
struct SelectOptions {
  /// A unit's score is its importance times this for each part that already holds it. 1: every part
  /// takes the most important units; 0: a unit is taken again only when none is left that nobody
  /// holds (so it is for plans that partition).
  /// A weak choice: on two half-trained Fashion-MNIST teachers cut to 28, 18 and 10 % (1000 images,
  /// before calibration) values from 0 to 0.7 ranked differently each time, by less than they
  /// scatter.
  double overlap_discount = 0.3;
  /// Throws std::invalid_argument.
  void check() const;
};
/// Devices take in turn (rank order), as many units of each kind as the plan says. The same plan
/// and importance give the same lists. Throws std::invalid_argument where the importance is not of
/// the plan's teacher.
std::vector<KeepList> select(const plan::Plan& plan, const Importance& importance,
                             const SelectOptions& options = {});

/// Throws std::invalid_argument "[out] holds …, which decompose would replace: …" where `out` is a
/// bundle with what took long: a calibration, whole or begun.
void expect_nothing_lost(const std::filesystem::path& out);

/// Parts are fitted to the teacher's activations on `data`, and fusion heads in closed form.
struct Fitting {
  const model::Dataset& data;
  FitOptions options;
};

struct DecomposeSummary {
  plan::Manifest manifest;
  std::vector<KeepList> keeps;  // of the default plan
  /// Share of the teacher's channels and heads held by at least one part, and by more than one.
  double covered = 0, shared = 0;
  /// Rows that parts were fitted on; 0: they were only cut.
  std::int64_t fitted_rows = 0;
  base::Remarks remarks;  // of the fit
};

/// Cuts the teacher as the plans say, of which the first is the default, and writes the bundle
/// (plans/, parts/ with their keep.json, fusion/ where the strategy fuses; for plans that share the
/// teacher holdings/, one for all of them, and importance and options count for nothing; manifest
/// last): whole or not at all. An existing bundle at
/// `out` is replaced only when it is one; its hosts.toml stays, its checkpoints and measurements
/// go; while it is being calibrated it is refused (base/lock.hpp). Memory as slice() needs it.
/// `progress` counts tensors, and layers with `fitting` (null: weights are cut, nothing is fitted).
/// Throws std::invalid_argument where a plan does not fit the teacher or two have one name,
/// std::runtime_error where a file fails.
DecomposeSummary decompose(const std::filesystem::path& teacher, std::vector<plan::Plan> plans,
                           const Importance& importance, const std::filesystem::path& out,
                           const base::ProgressCallback& progress = {},
                           const SelectOptions& options = {}, const Fitting* fitting = nullptr);

/// A randomly initialised model folder from a config, streamed (peak memory: below a megabyte);
/// marked in its config; in shards of `shard_bytes`. Same seed: same bytes, on every machine.
/// `progress` counts tensors.
void init(const model::ModelConfig& config, std::uint64_t seed, const std::filesystem::path& out,
          const base::ProgressCallback& progress = {},
          std::uint64_t shard_bytes = model::shard_bytes);
/// Shapes of published models, by the names that preset_names() lists ("vit-base", "gpt2-xl" …).
model::ModelConfig preset(const std::string& name);
std::vector<std::string> preset_names();

}  // namespace cleave::decompose
