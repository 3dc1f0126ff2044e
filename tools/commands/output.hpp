#pragma once

#include <string>
#include <string_view>

#include "tools/options.hpp"

namespace cleave::tools {

/// What a command writes into one file, told by words that every such file has.
enum class OutputKind { plan, profile, trace, table };

/// Called before the work begins. Throws std::runtime_error "[path] exists and is no plan: …" where
/// `option` names a file that holds something else: a slip of the fingers would replace a fleet, a
/// recipe or a model's config.
void expect_output(const Args& args, std::string_view option, OutputKind kind);
/// The same of a file in the folder that `option` names.
void expect_output(const std::string& path, std::string_view option, OutputKind kind);

}  // namespace cleave::tools
