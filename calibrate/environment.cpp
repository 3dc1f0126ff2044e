#include "calibrate/environment.hpp"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace cleave::calibrate {

std::int64_t environment_number(const char* variable, std::int64_t least, std::int64_t most) {
  const char* text = std::getenv(variable);
  const std::string needs = ", needs " + std::to_string(least) + " … " + std::to_string(most);
  if (text == nullptr)
    throw std::invalid_argument(std::string("[environment] ") + variable + ": is not set" + needs);
  std::int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end || value < least || value > most)
    throw std::invalid_argument(std::string("[environment] ") + variable + ": saw '" + text + "'" +
                                needs);
  return value;
}

}  // namespace cleave::calibrate
