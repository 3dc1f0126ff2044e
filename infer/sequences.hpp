#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "infer/executor.hpp"
#include "infer/served_plan.hpp"

namespace cleave::infer {

/// The texts that an aggregator's clients generate: with which plan each began, which devices are
/// left out for the rest of it because they missed some of its tokens, and when the devices may be
/// told to forget it. No sockets and no clock; the I/O thread only. A text that nobody began is not
/// known; nothing is said or done for it.
class Sequences {
 public:
  using Id = std::uint64_t;         // of a text; 0: none
  using RequestId = std::uint64_t;  // of one of its requests

  /// Why a request with that plan cannot continue the text; empty where it can, begins one, or
  /// belongs to none.
  std::string objection(const Sequence& wanted, const FleetPlan& plan) const;
  /// The request is with us until close(). With no token before it, it begins the text anew, with
  /// all devices of the plan, which must outlive it.
  void open(const Sequence& wanted, const FleetPlan& plan, RequestId request);
  /// True: the text has ended, and this was its last request. It is forgotten, here and, once they
  /// are told, on the devices.
  bool close(Id text, RequestId request);
  /// Nobody continues the text. True as for close(); else its requests are waited for first,
  /// because one that is sent later would begin it again.
  bool end(Id text);

  /// The device misses a part of the text. True: it had not before.
  bool leave(Id text, std::size_t device, const std::string& why);
  /// The same for all texts whose plan has the device; those that it had not left before.
  std::vector<Id> leave_all(std::size_t device, const std::string& why);
  /// It takes part again, from the first tokens.
  void rejoin(Id text, std::size_t device);
  /// Why the device is left out; null where it is not.
  const std::string* why_left(Id text, std::size_t device) const;

 private:
  struct Text {
    const FleetPlan* plan = nullptr;
    std::map<std::size_t, std::string> left;  // why, by device
    std::set<RequestId> open;
    bool ended = false;
  };
  bool forget_if_over(std::map<Id, Text>::iterator text);

  std::map<Id, Text> texts_;
};

}  // namespace cleave::infer
