#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "infer/service.hpp"
#include "optimizer/plan/plan.hpp"
#include "tools/commands/workload.hpp"
#include "tools/print.hpp"

namespace cleave::tools {

/// One of several plans that are asked in turn, and what was seen of it.
struct Side {
  std::string what;  // what the tables call it
  plan::Plan plan;
  infer::Service* service = nullptr;
  /// The prediction is of what is asked, where it is asked.
  bool is_predicted = true;
  Workload::Stream stream = {};
  std::vector<double> latency_s = {}, overhead_s = {}, fuse_s = {};
  std::map<std::string, std::vector<double>> compute_s = {}, round_trip_s = {};  // by device
  std::map<std::string, std::vector<net::Account>> accounts = {};  // by process, where told
  double bytes_on_wire = 0;
  std::size_t partial = 0, failed = 0;
  std::string last_failure = {};
};

/// One request that counts, behind the prompt that it needs. Waits for the answer.
infer::Response ask_once(Side& side, const Workload& workload, std::chrono::milliseconds deadline,
                         net::Observe observe);
/// Asks each side once in every round, observed; the first `warmup` rounds do not count. Returns
/// early where the callback says so.
void ask_in_turn(std::vector<Side>& sides, const Workload& workload,
                 std::chrono::milliseconds deadline, std::int64_t warmup, std::int64_t requests,
                 const base::ProgressCallback& progress);

/// What a table compares with though nobody ran it.
struct Bound {
  std::string what;
  double latency_s = 0;  // 0: there is none
};

/// A row for each side: latency and its spread, predicted latency, and the median beside that of
/// the first; and one for each bound.
Table sides_table(const std::vector<Side>& sides, const std::vector<Bound>& bounds = {});
/// A row for each process of each side: what it did for a request, medians, as it told itself; what
/// is predicted beside it. Computing, waiting (nothing of it was ready) and queued (something was)
/// are together the time that it was there; transferring goes on beside them. Of the memory the
/// largest, with the weights of all plans that the process serves.
Table devices_table(const std::vector<Side>& sides);
/// Both, a number a row: "what,plan,device,median,MAD,predicted", in SI units.
Table numbers_table(const std::vector<Side>& sides, const std::vector<Bound>& bounds = {});
/// {"plans": […], "bounds": […]}.
nlohmann::json to_json(const std::vector<Side>& sides, const std::vector<Bound>& bounds = {});

}  // namespace cleave::tools
