#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "optimizer/plan/plan.hpp"

namespace cleave::plan {

/// Layout of a bundle: the folder where steps meet.
///
///   manifest.json                  format 2: {path: {sha256, bytes}} of all below plans/, parts/,
///                                  holdings/ and fusion/; default plan, identity, the teacher's
///                                  digest, how far each plan is calibrated
///   plans/<plan>.json              one is the default; outside the identity, so that a plan may
///                                  come that needs no other weights
///   parts/<plan>/<device>/         a model folder
///   holdings/<device>/             what a device keeps of the teacher for plans that share it:
///   holding.json,
///                                  model.safetensors; of text, the tokenizer's files
///   fusion/<plan>/                 fusion.json, model.safetensors; of text, the tokenizer's files
///   hosts.toml, calibration.jsonl, measured.json, .work/     outside the identity

/// How far the calibration of a plan came. `rejected`: it ended worse than it began, so the weights
/// are those that it began with.
enum class CalibrationState { unfinished, rejected, done, fitted };

struct ManifestFile {
  std::string sha256;
  std::uint64_t bytes = 0;
};
struct Manifest {
  std::map<std::string, ManifestFile> files;  // by path relative to the bundle, '/' between
  std::string default_plan;
  std::string teacher_digest;
  /// By plan, outside the identity; a plan that was never calibrated is not in it. None where an
  /// older program wrote the manifest: then nothing is known.
  std::optional<std::map<std::string, CalibrationState>> calibration;
  /// SHA-256 of "teacher digest\n" and the list of files but those of plans ("path sha256 bytes\n",
  /// sorted): what agents hold.
  std::string identity() const;
  /// Names of the plans, the default one first.
  std::vector<std::string> plans() const;
};

/// Throws std::runtime_error with file and field, also where a path leads out of the bundle or the
/// identity is not that of the list.
Manifest manifest_from_json(const std::string& text, const std::string& name);

class Bundle {
 public:
  /// Reads the manifest. Throws std::runtime_error: missing, wrong format, path outside the bundle.
  explicit Bundle(const std::filesystem::path& folder);
  const std::filesystem::path& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  std::string identity() const { return manifest_.identity(); }

  /// The default plan, or the named one.
  Plan plan(const std::string& name = {}) const;
  std::filesystem::path plan_path(const std::string& plan) const;
  /// The device's sub-model or, where the plan shares the teacher, its holding.
  std::filesystem::path part_path(const Plan& plan, const std::string& device) const;
  std::filesystem::path fusion_path(const Plan& plan) const;
  /// The largest |feature| of each part in calibration, by rank, as the fusion head remembers it.
  /// 0: never calibrated. Throws std::runtime_error where fusion.json is there and wrong.
  std::vector<double> largest_features(const Plan& plan) const;
  /// Where the tokenizer's files lie: with whoever answers.
  std::filesystem::path tokenizer_path(const Plan& plan) const;
  std::filesystem::path work_path() const { return folder_ / ".work"; }

  /// Checks size and SHA-256 of every file below `prefix` ("parts/default/hub", "" = all that is
  /// there must match). Throws std::runtime_error "[parts/…/model.safetensors] digest: saw …, needs
  /// …", or that the part is not held here.
  void verify(const std::string& prefix) const;

 private:
  std::filesystem::path folder_;
  Manifest manifest_;
};

/// Digests every file below plans/, parts/, holdings/, fusion/ of `folder` and writes manifest.json
/// there, last and whole.
Manifest write_manifest(const std::filesystem::path& folder, const std::string& default_plan,
                        const std::string& teacher_digest,
                        const std::map<std::string, CalibrationState>& calibration = {});

/// Writes a plan, or another of its name, into a bundle, which holds its weights (weights.hpp has
/// expect_held).
Manifest add_plan(const std::filesystem::path& folder, const Plan& plan);

/// Notes in the manifest how far the calibration of a plan came; what else it says stays.
void write_calibration(const std::filesystem::path& folder, const std::string& plan,
                       CalibrationState state);

/// What the weights are that a plan of a bundle answers with. `exact`: nothing was cut away, so the
/// answers are the teacher's; `random`: no calibration is missing, but the teacher's weights are
/// random; `unknown`: an older program's bundle.
enum class WeightsState {
  exact,
  random,
  uncalibrated,
  unfinished,
  rejected,
  calibrated,
  fitted,  // to the teacher's activations when it was cut
  unknown
};
/// "not calibrated", "calibration unfinished" …, as programs read it.
std::string_view name_of(WeightsState state);
std::optional<WeightsState> weights_state_named(std::string_view name);
/// From manifest and plan alone: every device has those.
WeightsState weights_state(const Bundle& bundle, const Plan& plan);

/// SHA-256 over a model folder's weights and every file beside them that changes its answers:
/// config.json, the tokenizer's files and the others of model/config/folder_fields.hpp.
std::string digest_model(const std::filesystem::path& folder);

/// Throws std::invalid_argument where the model in `folder` is not what the bundle was cut from.
void expect_teacher(const Bundle& bundle, const std::filesystem::path& folder);

/// hosts.toml: device -> "host:port".
std::map<std::string, std::string> read_hosts(const std::filesystem::path& path);
std::map<std::string, std::string> hosts_from_toml(const std::string& text,
                                                   const std::string& name);
void write_hosts(const std::map<std::string, std::string>& hosts,
                 const std::filesystem::path& path);

/// measured.json, format 1: what was measured of this bundle, a section for each command that
/// measures ("accuracy", "testbed"); in each "bundle", the identity of what was measured, since the
/// parts may be replaced later. An empty object where there is none yet.
nlohmann::json read_measured(const std::filesystem::path& bundle);
/// Replaces one section and keeps the others; whole or not at all.
void write_measured(const std::filesystem::path& bundle, const std::string& section,
                    const nlohmann::json& value);

/// Whether the folder is a bundle, and not a model. Throws std::runtime_error where it is not
/// there.
bool is_bundle(const std::filesystem::path& folder);

}  // namespace cleave::plan
