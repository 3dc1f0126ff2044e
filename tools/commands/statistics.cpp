#include "tools/commands/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "base/file.hpp"

namespace cleave::tools {
namespace {

double nearest_rank(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::min(std::max<std::size_t>(rank, 1), sorted.size()) - 1];
}

}  // namespace

double median_of(std::vector<double> values) {
  if (values.empty()) throw std::invalid_argument("[median] saw no values, needs one");
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Spread spread_of(std::vector<double> values) {
  Spread spread;
  spread.median = median_of(values);
  std::vector<double> deviations;
  deviations.reserve(values.size());
  for (double value : values) deviations.push_back(std::abs(value - spread.median));
  spread.mad = median_of(std::move(deviations));
  std::sort(values.begin(), values.end());
  spread.p90 = nearest_rank(values, 0.90);
  spread.p99 = nearest_rank(values, 0.99);
  spread.minimum = values.front();
  spread.maximum = values.back();
  return spread;
}

void write_csv(const Args& args, const Table& table) {
  if (!args.has("csv")) return;
  if (args.flag("dry-run"))
    std::fprintf(stderr, "would write %s\n", args.text("csv").c_str());
  else
    base::write_whole(args.text("csv"), table.csv());
}

}  // namespace cleave::tools
