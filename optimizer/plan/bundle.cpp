#include "optimizer/plan/bundle.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "base/reader.hpp"
#include "base/text.hpp"
#include "model/config/folder_fields.hpp"
#include "optimizer/plan/names.hpp"

namespace cleave::plan {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t manifest_format = 2;
constexpr std::int64_t hosts_format = 1;
constexpr std::int64_t measured_format = 1;
constexpr std::int64_t max_integer = std::numeric_limits<std::int64_t>::max();
constexpr std::array<std::string_view, 4> held_folders = {"plans", "parts", "holdings", "fusion"};
constexpr std::array<std::string_view, 4> calibration_names = {"unfinished", "rejected", "done",
                                                               "fitted"};
constexpr std::array<std::string_view, 8> weights_names = {"exact",
                                                           "random",
                                                           "not calibrated",
                                                           "calibration unfinished",
                                                           "calibration rejected",
                                                           "calibrated",
                                                           "fitted, not calibrated",
                                                           "unknown"};

std::runtime_error failure(const std::string& where, const std::string& what) {
  return std::runtime_error("[" + where + "] " + what);
}

std::vector<std::string_view> components(std::string_view path) {
  std::vector<std::string_view> parts;
  for (std::size_t slash = path.find('/'); slash != std::string_view::npos;
       slash = path.find('/')) {
    parts.push_back(path.substr(0, slash));
    path.remove_prefix(slash + 1);
  }
  parts.push_back(path);
  return parts;
}

/// "plans/…", "parts/…", "holdings/…" or "fusion/…" made of plain names: it cannot lead out of the
/// bundle.
bool is_inside(std::string_view path) {
  const auto parts = components(path);
  if (parts.size() < 2 || parts.size() > 16) return false;
  if (std::find(held_folders.begin(), held_folders.end(), parts.front()) == held_folders.end())
    return false;
  return std::all_of(parts.begin(), parts.end(), is_name);
}

bool is_digest(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string read_digest(const base::Reader& reader) {
  std::string digest = reader.text();
  if (!is_digest(digest))
    throw reader.error("saw " + shown(digest) + ", needs 64 hexadecimal digits");
  return digest;
}

std::map<std::string, ManifestFile> read_files(const base::Reader& reader) {
  std::map<std::string, ManifestFile> files;
  for (const std::string& path : reader.keys()) {
    if (!is_inside(path))
      throw reader.error(
          "saw the path " + shown(path) +
          ", needs one below plans/, parts/, holdings/ or fusion/ inside the bundle");
    const base::Reader entry = reader.at(path);
    entry.allow({"sha256", "bytes"});
    files[path] = {read_digest(entry.at("sha256")),
                   static_cast<std::uint64_t>(entry.at("bytes").integer(0, max_integer))};
  }
  return files;
}

std::map<std::string, CalibrationState> read_calibration(const base::Reader& reader) {
  std::map<std::string, CalibrationState> states;
  for (const std::string& plan : reader.keys()) {
    const std::string name =
        reader.at(plan).one_of({calibration_names.begin(), calibration_names.end()});
    const auto* found = std::find(calibration_names.begin(), calibration_names.end(), name);
    states[plan] = static_cast<CalibrationState>(found - calibration_names.begin());
  }
  return states;
}

std::string plan_file(const std::string& name) { return "plans/" + name + ".json"; }

Manifest read_manifest(const base::Reader& reader) {
  reader.expect_format(manifest_format, "cut the bundle again");
  reader.allow({"format", "default_plan", "teacher_digest", "identity", "calibration", "files"});
  Manifest manifest;
  manifest.files = read_files(reader.at("files"));
  const base::Reader default_plan = reader.at("default_plan");
  manifest.default_plan = default_plan.text();
  if (manifest.files.count(plan_file(manifest.default_plan)) == 0)
    throw default_plan.error("saw " + shown(manifest.default_plan) +
                             ", needs one of the plans in files");
  manifest.teacher_digest = reader.text("teacher_digest", "");
  if (const auto calibration = reader.find("calibration"))
    manifest.calibration = read_calibration(*calibration);
  const base::Reader identity = reader.at("identity");
  if (identity.text() != manifest.identity())
    throw identity.error("saw " + identity.text() + ", teacher and files have " +
                         manifest.identity());
  return manifest;
}

nlohmann::json manifest_to_json(const Manifest& manifest) {
  nlohmann::json json = {{"format", manifest_format},
                         {"default_plan", manifest.default_plan},
                         {"teacher_digest", manifest.teacher_digest},
                         {"identity", manifest.identity()},
                         {"files", nlohmann::json::object()}};
  for (const auto& [path, file] : manifest.files)
    json["files"][path] = {{"sha256", file.sha256}, {"bytes", file.bytes}};
  if (!manifest.calibration) return json;
  json["calibration"] = nlohmann::json::object();
  for (const auto& [plan, state] : *manifest.calibration)
    json["calibration"][plan] = calibration_names[static_cast<std::size_t>(state)];
  return json;
}

/// The folder of one device: "parts/<plan>/<device>" or "holdings/<device>" of a path below it;
/// empty elsewhere.
std::string device_folder(std::string_view path) {
  const auto parts = components(path);
  const std::size_t depth = parts.front() == "parts" ? 3 : parts.front() == "holdings" ? 2 : 0;
  if (depth == 0 || parts.size() <= depth) return {};
  std::string folder;
  for (std::size_t i = 0; i < depth; ++i) folder += (i > 0 ? "/" : "") + std::string(parts[i]);
  return folder;
}

std::string missing_text(const std::string& path) {
  const std::string folder = device_folder(path);
  if (folder.empty()) return "is not here: copy it from where the bundle was made";
  return "the part of " + shown(folder.substr(folder.rfind('/') + 1)) + " is not here: copy " +
         folder;
}

void verify_file(const fs::path& path, const std::string& name, const ManifestFile& needed) {
  const std::uint64_t bytes = fs::file_size(path);
  if (bytes != needed.bytes)
    throw failure(name, "size: saw " + std::to_string(bytes) + " bytes, needs " +
                            std::to_string(needed.bytes));
  const std::string digest = base::sha256_file(path);
  if (digest != needed.sha256)
    throw failure(name, "digest: saw " + digest + ", needs " + needed.sha256);
}

bool is_below(const std::string& path, const std::string& prefix) {
  return prefix.empty() || path == prefix || base::starts_with(path, prefix + "/");
}

std::string trim_slash(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '/') prefix.pop_back();
  return prefix;
}

void write(const Manifest& manifest, const fs::path& folder) {
  base::write_whole(folder / "manifest.json", manifest_to_json(manifest).dump(1) + "\n");
}

/// A part that is the teacher, its head aside.
bool keeps_everything(const PlanPart& part, const model::ModelConfig& teacher) {
  return part.share() || (part.sub_model().config.width == teacher.width &&
                          part.sub_model().config.layers == teacher.layers);
}

bool has_fusion(const Manifest& manifest, const Plan& plan) {
  const std::string folder = "fusion/" + plan.name + "/";
  const auto file = manifest.files.lower_bound(folder);
  return file != manifest.files.end() && base::starts_with(file->first, folder);
}

/// The teacher's random weights aside.
WeightsState calibration_of(const Bundle& bundle, const Plan& plan) {
  const Manifest& manifest = bundle.manifest();
  if (!has_fusion(manifest, plan) ||
      std::all_of(plan.parts.begin(), plan.parts.end(),
                  [&](const PlanPart& part) { return keeps_everything(part, plan.teacher); }))
    return WeightsState::exact;
  if (!manifest.calibration)
    return fs::exists(bundle.folder() / "calibration.jsonl") ? WeightsState::calibrated
                                                             : WeightsState::unknown;
  const auto found = manifest.calibration->find(plan.name);
  if (found == manifest.calibration->end()) return WeightsState::uncalibrated;
  switch (found->second) {
    case CalibrationState::unfinished:
      return WeightsState::unfinished;
    case CalibrationState::rejected:
      return WeightsState::rejected;
    case CalibrationState::done:
      return WeightsState::calibrated;
    case CalibrationState::fitted:
      return WeightsState::fitted;
  }
  return WeightsState::unknown;
}

/// Digests the regular files below `folder`/`top` into `files`.
void digest_below(const fs::path& folder, std::string_view top,
                  std::map<std::string, ManifestFile>& files) {
  if (!fs::exists(folder / top)) return;
  for (const auto& entry : fs::recursive_directory_iterator(folder / top)) {
    if (!entry.is_regular_file()) continue;
    const std::string path = entry.path().lexically_relative(folder).generic_string();
    if (!is_inside(path))
      throw failure(path, "cannot be part of a bundle: a name needs " + std::string(name_needs));
    files[path] = {base::sha256_file(entry.path()), entry.file_size()};
  }
}

bool is_weight_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return path.extension() == ".safetensors" || name == "model.safetensors.index.json";
}

/// Whether some field of the file changes answers. (Sentence Transformers names one after the
/// model's family.)
bool changes_answers(const std::string& file) {
  using model::Fate;
  const std::string_view known =
      base::starts_with(file, "sentence_") ? "sentence_bert_config.json" : std::string_view(file);
  const auto& rows = model::folder_fields();
  return std::any_of(rows.begin(), rows.end(), [&](const model::FolderField& row) {
    return row.file == known && (row.fate == Fate::used || row.fate == Fate::only);
  });
}

/// The weights and what changes their meaning; the modules of Sentence Transformers have folders of
/// their own, which begin with a number.
std::vector<fs::path> model_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && name.find_first_of("0123456789") == 0 &&
        fs::is_regular_file(entry.path() / "config.json"))
      files.push_back(entry.path() / "config.json");
    if (entry.is_regular_file() && (is_weight_file(entry.path()) || changes_answers(name)))
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::map<std::string, std::string> hosts_from(const base::Reader& reader) {
  reader.expect_format(hosts_format);
  reader.allow({"format", "hosts"});
  const base::Reader table = reader.at("hosts");
  std::map<std::string, std::string> hosts;
  for (const std::string& device : table.keys()) {
    const base::Reader address = table.at(device);
    hosts[device] = address.text();
    if (!is_name(device)) throw address.error("a device needs " + std::string(name_needs));
    if (!is_address(hosts[device]))
      throw address.error("saw " + shown(hosts[device]) + ", needs \"host:port\", port 1..65535");
  }
  return hosts;
}

}  // namespace

std::string Manifest::identity() const {
  std::string list = "teacher " + teacher_digest + "\n";
  for (const auto& [path, file] : files)
    if (!is_below(path, "plans"))
      list += path + " " + file.sha256 + " " + std::to_string(file.bytes) + "\n";
  return base::sha256(list);
}

std::vector<std::string> Manifest::plans() const {
  std::vector<std::string> names{default_plan};
  for (const auto& [path, file] : files) {
    if (!is_below(path, "plans")) continue;
    const std::string name = fs::path(path).stem().string();
    if (path == plan_file(name) && name != default_plan) names.push_back(name);
  }
  return names;
}

Manifest manifest_from_json(const std::string& text, const std::string& name) {
  return read_manifest(base::Reader::json_text(text, name));
}

Bundle::Bundle(const fs::path& folder) : folder_(folder) {
  const fs::path path = folder / "manifest.json";
  if (!fs::exists(path)) throw failure(folder.string(), "is not a bundle: saw no manifest.json");
  manifest_ = read_manifest(base::Reader::json_file(path));
}

Plan Bundle::plan(const std::string& name) const {
  const std::string chosen = name.empty() ? manifest_.default_plan : name;
  const auto file = manifest_.files.find(plan_file(chosen));
  if (file == manifest_.files.end())
    throw failure(folder_.string(), "saw no plan " + shown(chosen) + ", needs one of " +
                                        base::joined(manifest_.plans()));
  verify(file->first);
  Plan plan = read_plan(plan_path(chosen));
  if (plan.name != chosen)
    throw failure(plan_path(chosen).string(), "name: saw " + shown(plan.name) + ", needs '" +
                                                  chosen + "' as the file is called");
  return plan;
}

fs::path Bundle::plan_path(const std::string& plan) const { return folder_ / plan_file(plan); }

fs::path Bundle::part_path(const Plan& plan, const std::string& device) const {
  const std::vector<std::string> devices = devices_of(plan);
  if (std::find(devices.begin(), devices.end(), device) == devices.end())
    throw failure(folder_.string(), "saw no device " + shown(device) + " in plan '" + plan.name +
                                        "', needs one of " + base::joined(devices));
  const auto at = std::find(devices.begin(), devices.end(), device) - devices.begin();
  if (plan.parts[static_cast<std::size_t>(at)].share()) return folder_ / "holdings" / device;
  return folder_ / "parts" / plan.name / device;
}

fs::path Bundle::fusion_path(const Plan& plan) const { return folder_ / "fusion" / plan.name; }

std::vector<double> Bundle::largest_features(const Plan& plan) const {
  std::vector<double> largest(plan.parts.size(), 0);
  const fs::path file = fusion_path(plan) / "fusion.json";
  if (!fs::exists(file)) return largest;
  const base::Reader fusion = base::Reader::json_file(file);
  const auto parts = fusion.at("parts").items();
  for (std::size_t p = 0; p < std::min(parts.size(), largest.size()); ++p)
    largest[p] = parts[p].number("largest_feature", 0, 1e30, 0);
  return largest;
}

fs::path Bundle::tokenizer_path(const Plan& plan) const {
  const fs::path fusion = fusion_path(plan);
  return fs::exists(fusion) ? fusion : part_path(plan, plan.parts.at(0).device);
}

void Bundle::verify(const std::string& prefix) const {
  const std::string below = trim_slash(prefix);
  bool any = false;
  for (const auto& [path, file] : manifest_.files) {
    if (!is_below(path, below)) continue;
    any = true;
    const bool here = fs::is_regular_file(folder_ / path);
    // Without a prefix the other devices' parts may be elsewhere.
    if (!here && below.empty()) continue;
    if (!here) throw failure(path, missing_text(path));
    verify_file(folder_ / path, path, file);
  }
  if (!any) throw failure(below, "is not in the manifest of " + folder_.string());
}

Manifest write_manifest(const fs::path& folder, const std::string& default_plan,
                        const std::string& teacher_digest,
                        const std::map<std::string, CalibrationState>& calibration) {
  Manifest manifest;
  manifest.calibration = calibration;
  manifest.default_plan = default_plan;
  manifest.teacher_digest = teacher_digest;
  for (const std::string_view top : held_folders) digest_below(folder, top, manifest.files);
  if (manifest.files.count(plan_file(default_plan)) == 0)
    throw failure(folder.string(),
                  "saw no " + plan_file(default_plan) + ", a bundle needs its default plan");
  write(manifest, folder);
  return manifest;
}

Manifest add_plan(const fs::path& folder, const Plan& plan) {
  const base::FolderLock lock(folder);
  const std::string name = plan_file(plan.name);
  write_plan(plan, folder / name);
  Manifest manifest = Bundle(folder).manifest();
  manifest.files[name] = {base::sha256_file(folder / name), fs::file_size(folder / name)};
  write(manifest, folder);
  return manifest;
}

void write_calibration(const fs::path& folder, const std::string& plan, CalibrationState state) {
  Manifest manifest = Bundle(folder).manifest();
  if (!manifest.calibration) manifest.calibration.emplace();
  (*manifest.calibration)[plan] = state;
  write(manifest, folder);
}

std::string_view name_of(WeightsState state) {
  return weights_names[static_cast<std::size_t>(state)];
}

std::optional<WeightsState> weights_state_named(std::string_view name) {
  const auto* found = std::find(weights_names.begin(), weights_names.end(), name);
  if (found == weights_names.end()) return std::nullopt;
  return static_cast<WeightsState>(found - weights_names.begin());
}

WeightsState weights_state(const Bundle& bundle, const Plan& plan) {
  const WeightsState state = calibration_of(bundle, plan);
  const bool wants_calibration = state == WeightsState::uncalibrated ||
                                 state == WeightsState::unfinished ||
                                 state == WeightsState::rejected || state == WeightsState::fitted;
  return plan.teacher.random_weights && !wants_calibration ? WeightsState::random : state;
}

std::string digest_model(const fs::path& folder) {
  if (!fs::is_directory(folder)) throw failure(folder.string(), "is not a model folder");
  std::string list;
  bool has_weights = false;
  for (const fs::path& path : model_files(folder)) {
    has_weights = has_weights || path.extension() == ".safetensors";
    list += path.lexically_relative(folder).generic_string() + " " + base::sha256_file(path) + "\n";
  }
  if (!has_weights) throw failure(folder.string(), "saw no .safetensors file, needs the weights");
  return base::sha256(list);
}

void expect_teacher(const Bundle& bundle, const fs::path& folder) {
  const std::string digest = digest_model(folder), &needed = bundle.manifest().teacher_digest;
  if (digest != needed)
    throw std::invalid_argument("[" + folder.string() + "] teacher: saw digest " +
                                digest.substr(0, 12) + ", " + bundle.folder().string() +
                                " was cut from " +
                                (needed.empty() ? "an unknown one" : needed.substr(0, 12)));
}

std::map<std::string, std::string> read_hosts(const fs::path& path) {
  return hosts_from(base::Reader::toml_file(path));
}

std::map<std::string, std::string> hosts_from_toml(const std::string& text,
                                                   const std::string& name) {
  return hosts_from(base::Reader::toml_text(text, name));
}

void write_hosts(const std::map<std::string, std::string>& hosts, const fs::path& path) {
  std::string text = "format = " + std::to_string(hosts_format) + "\n\n[hosts]\n";
  for (const auto& [device, address] : hosts) {
    if (!is_name(device) || !is_address(address))
      throw std::invalid_argument("[hosts] saw " + shown(device) + " at '" + address +
                                  "', needs a device's name and \"host:port\"");
    text += "\"" + device + "\" = \"" + address + "\"\n";
  }
  base::write_whole(path, text);
}

nlohmann::json read_measured(const fs::path& bundle) {
  const fs::path path = bundle / "measured.json";
  if (!fs::exists(path)) return nlohmann::json::object();
  const base::Reader reader = base::Reader::json_file(path);
  reader.expect_format(measured_format);
  return reader.json();
}

void write_measured(const fs::path& bundle, const std::string& section,
                    const nlohmann::json& value) {
  const base::FolderLock lock(bundle);  // two that measure at once keep both
  nlohmann::json all = read_measured(bundle);
  all["format"] = measured_format;
  all[section] = value;
  base::write_whole(bundle / "measured.json", all.dump(2) + "\n");
}

bool is_bundle(const fs::path& folder) {
  if (!fs::exists(folder))
    throw std::runtime_error("[" + folder.string() + "] saw nothing there, needs a folder");
  return fs::exists(folder / "manifest.json");
}

}  // namespace cleave::plan
