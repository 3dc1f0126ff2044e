#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "base/reader.hpp"

namespace cleave::tools {

/// measured.json, what `evaluate` and the testbed stored, as tables: gains and costs in one place.
/// What was measured of other weights than those of bundle `identity` says so. Throws
/// std::runtime_error with file and field.
std::string measured_text(const base::Reader& measured, const std::string& identity);

/// The same for programs: each section with "of_this_bundle".
nlohmann::json measured_json(const base::Reader& measured, const std::string& identity);

}  // namespace cleave::tools
