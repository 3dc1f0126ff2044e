#include "optimizer/plan/strategies/row_shares.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "optimizer/plan/strategies/strategies.hpp"

namespace cleave::plan {

std::size_t computing_rows(const Plan& plan) {
  return static_cast<std::size_t>(
      std::count_if(plan.parts.begin(), plan.parts.end(),
                    [](const PlanPart& part) { return part.share()->rows > 0; }));
}

std::vector<model::Range> divided_rows(const Plan& plan, std::int64_t rows) {
  const std::size_t devices = computing_rows(plan);
  std::int64_t all = 0;
  for (std::size_t p = 0; p < devices; ++p) all += plan.parts[p].share()->rows;
  std::vector<std::int64_t> counts, remainders;
  for (std::size_t p = 0; p < devices; ++p) {
    counts.push_back(rows * plan.parts[p].share()->rows / all);
    remainders.push_back(rows * plan.parts[p].share()->rows % all);
  }
  std::vector<std::size_t> order(devices);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainders[a] > remainders[b]; });
  std::int64_t left = rows - std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  for (std::size_t i = 0; left > 0; ++i, --left) ++counts[order[i]];
  for (std::int64_t& count : counts)
    if (count == 0) {
      --*std::max_element(counts.begin(), counts.end());
      ++count;
    }
  std::vector<model::Range> ranges;
  std::int64_t begin = 0;
  for (const std::int64_t count : counts) {
    ranges.push_back({begin, begin + count});
    begin += count;
  }
  return ranges;
}

void check_row_shares(const Plan& plan) {
  const std::string strategy = "the strategy '" + plan.strategy + "'";
  if (!plan.teacher.answers())
    refuse("teacher", "no head", "one: " + strategy + " answers as the teacher does");
  const Share all = whole_share(plan.teacher);
  for (std::size_t p = 0; p < plan.parts.size(); ++p) {
    const std::string where = "parts[" + std::to_string(p) + "]";
    const Share* share = plan.parts[p].share();
    if (!share) refuse(where, "a sub-model", "a share: " + strategy + " divides the teacher");
    if (!(share->layers == all.layers) || !(share->vocabulary == all.vocabulary))
      refuse(where + ".share", "some of the weights", "all of them: " + strategy + " divides rows");
    if (p == 0 && share->rows == 0)
      refuse(where + ".share.rows", "0", "at least 1: the first device answers");
    if (share->rows > 0 && p > 0 && plan.parts[p - 1].share()->rows == 0)
      refuse(where + ".share.rows", std::to_string(share->rows) + " behind a device without rows",
             "those without to be the last");
  }
}

std::vector<Share> propose_row_shares(const model::ModelConfig& teacher,
                                      const std::vector<Capacity>& devices) {
  constexpr double grain = 1000;
  double fastest = 0;
  for (const Capacity& device : devices) fastest = std::max(fastest, device.speed);
  std::vector<Share> shares(devices.size(), whole_share(teacher));
  for (std::size_t p = 0; p < devices.size(); ++p)
    shares[p].rows = std::max<std::int64_t>(1, std::llround(grain * devices[p].speed / fastest));
  return shares;
}

}  // namespace cleave::plan
