// The doors for TOML and JSON: whatever the bytes, a document is read or refused with one
// std::runtime_error.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include <nlohmann/json.hpp>

#include "base/reader.hpp"
#include "calibrate/recipe.hpp"
#include "decompose/slice.hpp"
#include "fuzz/folder.hpp"
#include "model/config/folder_fields.hpp"
#include "model/config/hugging_face.hpp"
#include "optimizer/plan/bundle.hpp"
#include "optimizer/plan/fleet.hpp"
#include "optimizer/plan/plan.hpp"
#include "optimizer/plan/profile.hpp"
#include "tools/commands/measured.hpp"

namespace {

using cleave::base::Reader;

void require(bool holds) {
  if (!holds) std::abort();
}

void read_fleet(const std::string& text) {
  const auto fleet = cleave::plan::fleet_from_toml(text, "fuzz", "/nonexistent");
  require(fleet.aggregator() < fleet.devices.size());
  for (std::size_t from = 0; from < fleet.devices.size(); ++from)
    for (std::size_t to = 0; to < fleet.devices.size(); ++to)
      require(fleet.link(from, to).bytes_per_s > 0);
}

/// What is written again reads as the same.
void read_plan(const std::string& text) {
  const auto json = to_json(cleave::plan::plan_from_json(text, "fuzz"));
  require(to_json(cleave::plan::plan_from_json(json.dump(), "again")) == json);
}

void read_manifest(const std::string& text) {
  for (const auto& [path, file] : cleave::plan::manifest_from_json(text, "fuzz").files)
    require(path.front() != '/' && path.find("..") == std::string::npos &&
            file.sha256.size() == 64);
}

void read_profile(const std::string& text) {
  const auto json = to_json(cleave::plan::profile_from_json(text, "fuzz"));
  require(to_json(cleave::plan::profile_from_json(json.dump(), "again")) == json);
}

void read_config(const std::string& text) {
  const auto config = cleave::model::config_from_json(Reader::json_text(text, "fuzz"));
  const std::string written = cleave::model::config_to_json(config).dump();
  require(cleave::model::config_from_json(Reader::json_text(written, "again")) == config);
}

template <class Get>
void attempt(Get get) {
  try {
    get();
  } catch (const std::runtime_error&) {
  }
}

/// The files beside a config.json, parted by U+001F: what is read is written, and reads as the
/// same.
void read_folder(const std::string& text) {
  namespace fs = std::filesystem;
  static const cleave::fuzz::Folder folder;
  for (const auto& entry : fs::directory_iterator(folder.path)) fs::remove_all(entry.path());
  std::size_t begin = 0;
  for (const char* name :
       {"config.json", "generation_config.json", "modules.json", "1_Pooling/config.json",
        "sentence_bert_config.json", "preprocessor_config.json", "tokenizer_config.json"}) {
    const std::size_t end = std::min(text.find('\x1f', begin), text.size());
    const fs::path path = folder.path / name;
    fs::create_directories(path.parent_path());
    if (end > begin) std::ofstream(path, std::ios::binary) << text.substr(begin, end - begin);
    begin = end + 1;
    if (begin > text.size()) break;
  }
  attempt([&] { cleave::model::folder_notes(folder.path); });
  const auto config = cleave::model::read_config(folder.path);
  const std::string written = cleave::model::config_to_json(config).dump();
  require(cleave::model::config_from_json(Reader::json_text(written, "again")) == config);
}

/// What is read either does not fit a model, or gives one.
void read_keep(const std::string& text) {
  const auto keep = cleave::decompose::keep_from_json(text, "fuzz");
  cleave::model::ModelConfig teacher;
  teacher.width = 64;
  teacher.layers.assign(4, {4, 256});
  try {
    require(kept_config(teacher, keep).layers.size() == keep.layers.size());
  } catch (const std::invalid_argument&) {
  }
}

void read_hosts(const std::string& text) {
  for (const auto& [device, address] : cleave::plan::hosts_from_toml(text, "fuzz"))
    require(!device.empty() && address.find(':') != std::string::npos);
}

void read_measured(const std::string& text) {
  const auto measured = Reader::json_text(text, "fuzz");
  require(!cleave::tools::measured_text(measured, std::string(64, '0')).empty());
  require(cleave::tools::measured_json(measured, "").size() == measured.keys().size());
}

/// What is read passes its own check, or is refused there.
template <class Recipe>
void check(const Recipe& recipe) {
  try {
    recipe.check();
  } catch (const std::invalid_argument&) {
  }
}

/// Every getter on every place, as recipes use them.
void visit(const Reader& reader) {
  attempt([&] { reader.boolean(); });
  attempt([&] { reader.text(); });
  attempt([&] { reader.integer(-5, 5); });
  attempt([&] { reader.number(0, 1); });
  attempt([&] { reader.bytes(); });
  attempt([&] { reader.bytes_per_s(); });
  attempt([&] { reader.seconds(); });
  attempt([&] { reader.one_of({"gelu", "relu"}); });
  attempt([&] { reader.allow({"epochs", "learning_rate", "batch", "warmup_epochs"}); });
  attempt([&] { reader.expect_format(1); });
  attempt([&] {
    for (const Reader& item : reader.items()) visit(item);
  });
  attempt([&] {
    for (const std::string& key : reader.keys())
      if (const auto field = reader.find(key)) visit(*field);
  });
}

void read_document(char kind, const std::string& text) {
  switch (kind) {
    case 'f':
      return read_fleet(text);
    case 'p':
      return read_plan(text);
    case 'm':
      return read_manifest(text);
    case 's':
      return read_profile(text);
    case 'c':
      return read_config(text);
    case 'n':
      return read_folder(text);
    case 'k':
      return read_keep(text);
    case 'h':
      return read_hosts(text);
    case 'd':
      return read_measured(text);
    case 'r':
      return visit(Reader::toml_text(text, "fuzz"));
    case 't':
      return check(cleave::calibrate::train_recipe_from_toml(text, "fuzz"));
    case 'a':
      return check(cleave::calibrate::calibrate_recipe_from_toml(text, "fuzz"));
    case 'j':
      return visit(Reader::json_text(text, "fuzz"));
    default:
      return;
  }
}

}  // namespace

/// The first letter says what the rest is: fleet, plan, manifest, speed profile, config, keep-list,
/// hosts, measured data, neighbours of a config, TOML as such, training, accuracy (calibration),
/// JSON as such.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  attempt([&] { read_document(static_cast<char>(data[0]), text); });
  return 0;
}
