#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.hpp"

namespace cleave::base {

/// What a person should hear of work that is done all the same.
struct Remark {
  std::string what;        // for programs: "other_files"
  std::int64_t count = 0;  // of whatever it is about
  std::string text;        // for people: "[data/test] 3 files are of a kind that is not read"
  bool warning = false;    // the outcome is hardly what was wanted
};
using Remarks = std::vector<Remark>;

/// "warning: …" where it is one.
std::string to_text(const Remark& remark);

/// Says remarks while the work goes on.
void say(const Remarks& remarks, const ProgressCallback& progress);

/// "a, b, c and 4 more".
std::string some_of(const std::vector<std::string>& names, std::size_t most = 5);

}  // namespace cleave::base
