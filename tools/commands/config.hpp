#pragma once

#include <string_view>

#include "model/config/config.hpp"
#include "tools/options.hpp"

namespace cleave::tools {

/// The model that an option names: a model folder, the path of a config.json, or a preset. Throws
/// UsageError where it is none of them.
model::ModelConfig config_of(const Args& args, std::string_view option);

}  // namespace cleave::tools
