#include "tools/commands/config.hpp"

#include <filesystem>

#include "decompose/decompose.hpp"
#include "model/config/hugging_face.hpp"

namespace cleave::tools {

model::ModelConfig config_of(const Args& args, std::string_view option) {
  const std::string name = args.text(option);
  if (std::filesystem::is_directory(name)) return model::read_config(name);
  if (std::filesystem::exists(name)) return model::config_from_json(base::Reader::json_file(name));
  try {
    return decompose::preset(name);
  } catch (const std::invalid_argument& error) {
    throw UsageError("[--" + std::string(option) + "] no such file or folder; " + error.what());
  }
}

}  // namespace cleave::tools
