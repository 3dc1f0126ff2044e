#include "tools/commands/output.hpp"

#include <array>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "base/file.hpp"

namespace cleave::tools {
namespace {

struct Mark {
  std::string_view name, begins, has;
};
constexpr std::array<Mark, 4> marks = {{{"plan", "{", "\"strategy\":"},
                                        {"profile", "{", "\"samples\":"},
                                        {"trace", "{", "\"traceEvents\":"},
                                        {"table as CSV", "what,", ""}}};

}  // namespace

void expect_output(const Args& args, std::string_view option, OutputKind kind) {
  if (args.has(option)) expect_output(args.text(option), option, kind);
}

void expect_output(const std::string& path, std::string_view option, OutputKind kind) {
  // A pipe or a terminal holds nothing.
  if (!std::filesystem::is_regular_file(path) || std::filesystem::file_size(path) == 0) return;
  const Mark& mark = marks[static_cast<std::size_t>(kind)];
  const std::string text = base::read_text(path);
  if (text.compare(0, mark.begins.size(), mark.begins) == 0 &&
      text.find(mark.has) != std::string::npos)
    return;
  throw std::runtime_error("[" + path + "] exists and is no " + std::string(mark.name) + ": --" +
                           std::string(option) + " needs a new file or such a one");
}

}  // namespace cleave::tools
