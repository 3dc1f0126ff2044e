#include "base/remark.hpp"

#include <algorithm>

namespace cleave::base {

std::string to_text(const Remark& remark) {
  return (remark.warning ? "warning: " : "") + remark.text;
}

void say(const Remarks& remarks, const ProgressCallback& progress) {
  for (const Remark& remark : remarks)
    if (progress) progress({remark.what, 0, 0, to_text(remark)});
}

std::string some_of(const std::vector<std::string>& names, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), most); ++i)
    text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > most) text += " and " + std::to_string(names.size() - most) + " more";
  return text;
}

}  // namespace cleave::base
