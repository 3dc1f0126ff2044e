#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "infer/executor.hpp"
#include "infer/lot.hpp"
#include "net/message.hpp"

namespace cleave::infer {

/// What is noted of one request that is observed: what ran, and which of its values came and went.
/// It is complete when all instructions have run and nothing is being written any more. No sockets;
/// one thread.
class Observation {
 public:
  using Time = Clock::time_point;
  /// A value on its way out, until whoever writes it lets go of it.
  struct Sending {
    std::weak_ptr<Observation> of;
    std::int32_t rank = 0;
    std::string peer;
    std::uint32_t tag = 0;
    std::uint64_t bytes = 0;  // set by the caller, once known
    Time queued_at;
    ~Sending();
  };

  /// `on_complete` is called once, and may end the observation's life.
  Observation(net::Observe observe, std::shared_ptr<const plan::Program> program,
              std::function<void()> on_complete);

  /// For Executor::admit().
  std::size_t most_recorded() const;
  /// A value is handed to the link to a rank, whose device `peer` is.
  static std::shared_ptr<Sending> send(const std::shared_ptr<Observation>& of, std::int32_t rank,
                                       const std::string& peer, std::uint32_t tag, Time now);
  void received(std::int32_t rank, const std::string& peer, std::uint32_t tag,
                const Arrival& arrival);
  void finished(const RunTimes& times, std::vector<Ran> ran);
  bool is_complete() const { return finished_ && under_way_ == 0; }

  const plan::Program& program() const { return *program_; }
  /// Without what a program and a process cost: flops and peak memory are the caller's to add.
  /// Happenings stand on this machine's clock; those beyond most_happenings are left out.
  net::Account account() const;

 private:
  struct Transfer {
    bool out = false;
    std::int32_t rank = 0;
    std::string peer;
    std::uint32_t tag = 0;
    std::uint64_t bytes = 0;
    Time start, end;
  };
  void add(Transfer transfer);
  void end(const Sending& sending, Time now);
  void look();
  std::string value_name(const Transfer& transfer) const;

  net::Observe observe_;
  std::shared_ptr<const plan::Program> program_;
  std::function<void()> on_complete_;
  RunTimes times_;
  std::vector<Ran> ran_;
  std::vector<Transfer> transfers_;
  std::size_t under_way_ = 0;
  std::uint64_t left_out_ = 0;
  bool finished_ = false;
};

/// A clock's seconds.
double seconds_of(Clock::time_point time);

/// So many seconds later.
void move_clock(net::Account& account, double by_s);

/// What another device told of itself, made credible: numbers from 0 on that stay numbers when they
/// are added, names of bounded length, no more happenings than are kept.
net::Account credible(net::Account account);

}  // namespace cleave::infer
