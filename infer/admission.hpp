#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <vector>

#include "infer/executor.hpp"
#include "optimizer/plan/plan.hpp"

namespace cleave::infer {

/// What a request holds on a device while it is admitted. One instruction runs at a time, so the
/// room for computing is shared; the values are each request's own.
struct Room {
  double values_bytes = 0;
  double computing_bytes = 0;
  double bytes() const { return values_bytes + computing_bytes; }
};
Room room_of(const plan::Program& program, const plan::Plan& plan);

/// What a device's memory holds: which requests fit in, and which resting texts go for them. No
/// sockets and no clock: the caller says what time it is. Requests and texts have the caller's
/// numbers.
class Admission {
 public:
  using Id = std::uint64_t;

  struct Options {
    double memory_bytes = 0;    // 0: no limit
    double resident_bytes = 0;  // with the weights, before computing
    std::size_t max_requests = 1;
    /// A text without a token for so long may go for another one.
    std::chrono::milliseconds rest{0};
  };

  /// What a request needs beside what is kept and admitted.
  struct Wanted {
    Room room;
    double cache_bytes = 0, step_bytes = 0;  // of a text that begins
    Id text = 0;                             // that goes on
  };

  enum class Fit {
    now,
    later,  // once requests that are admitted have ended
    never,
  };
  struct Answer {
    Fit fit = Fit::now;
    std::vector<Id> gone;  // texts that were forgotten for it, the longest unused first
  };

  explicit Admission(const Options& options) : options_(options) {}

  /// Whether a program has room at all.
  bool could_fit(const Room& room) const;
  /// As many requests are admitted as may be.
  bool is_full() const { return requests_.size() >= options_.max_requests; }
  std::size_t admitted() const { return requests_.size(); }

  /// Forgets resting texts, the longest unused first, until `wanted` fits beside all that is kept
  /// and admitted, and each kept text can still take its next step; none where that would not do.
  Answer make_room(const Wanted& wanted, Clock::time_point now);

  // ---- requests ----

  /// `text`: 0 where it belongs to none.
  void begin(Id request, const Room& room, Id text, Clock::time_point now);
  void end(Id request, Clock::time_point now);

  // ---- texts: keys and values of what is being generated ----

  void keep(Id text, double cache_bytes, double step_bytes, Clock::time_point now);
  void use(Id text, Clock::time_point now);
  void forget(Id text) { texts_.erase(text); }
  bool keeps_texts() const { return !texts_.empty(); }
  /// Those that no request has used for so long.
  std::vector<Id> unused_for(std::chrono::milliseconds idle, Clock::time_point now) const;

 private:
  struct Request {
    Room room;
    Id text = 0;
  };
  struct Text {
    double cache_bytes = 0;
    double step_bytes = 0;  // what its next token computes in
    int running = 0;
    Clock::time_point used_at;
  };
  Room beside_admitted(Room more) const;

  Options options_;
  std::map<Id, Request> requests_;
  std::map<Id, Text> texts_;
};

}  // namespace cleave::infer
