#pragma once

#include <vector>

#include "tools/options.hpp"
#include "tools/print.hpp"

namespace cleave::tools {

/// Where --csv asks for it; a dry run says so instead.
void write_csv(const Args& args, const Table& table);

/// Spread of repeated measurements, seconds.
struct Spread {
  double median = 0;
  /// Median absolute deviation from the median.
  double mad = 0;
  double p90 = 0, p99 = 0, minimum = 0, maximum = 0;
};

/// Of at least one value; percentiles by nearest rank.
Spread spread_of(std::vector<double> values);
double median_of(std::vector<double> values);

}  // namespace cleave::tools
