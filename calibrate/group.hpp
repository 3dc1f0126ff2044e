#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/lock.hpp"
#include "model/lanes.hpp"

namespace cleave::calibrate {

/// The processes that train one model together, data-parallel: all hold the same weights, each
/// differentiates its pieces of every batch, and the sums of their gradients move the weights of
/// all. c10d's Gloo carries the sums.
///
/// What lies on an accelerator travels by way of the CPU's memory.
///
/// Every call below is collective: all processes make the same ones in the same order. Where one
/// process is gone or silent for half an hour, the others' calls throw std::runtime_error that
/// says so. A process alone pays nothing for any of them.
class Group {
 public:
  /// One process alone.
  Group() = default;
  /// As RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say, which torchrun sets: waits until all
  /// processes are there, five minutes at most. Alone where WORLD_SIZE is not set or 1. Gloo's
  /// connections take the interface of GLOO_SOCKET_IFNAME, else loopback where MASTER_ADDR is on
  /// it, else that of the host's name. Throws std::invalid_argument (a variable is missing or no
  /// number in its range) or std::runtime_error (port in use, others missing).
  static Group from_environment();

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// The process that reads and writes checkpoints, judges and reports.
  bool leads() const { return rank_ == 0; }

  /// A batch is differentiated in this many pieces whatever the number of threads and of (up to
  /// four) processes, so that results do not depend on them: four, or one a process.
  std::int64_t pieces() const;
  /// The pieces of this process.
  model::Slice own_pieces() const { return model::slice_of(pieces(), rank_, size_); }

  /// The leader's working folder as it is; the others have one each in it, for what they alone
  /// need (a tokenizer, the teacher's answers): some may stand on the same disk.
  std::filesystem::path work_path(const std::filesystem::path& folder) const;

  /// The leader's lock on `folder`; throws in all processes what it throws in the leader.
  std::unique_ptr<base::WorkLock> lock(const std::filesystem::path& folder) const;

  /// Goes on once all processes have come here.
  void meet() const { any(false); }
  /// Adds up over the processes, in place; fp32, the same shape in all of them.
  void sum(at::Tensor& values) const;
  bool any(bool mine) const;
  /// Overwrites the tensors of the others with those of one process.
  void copy_from(int rank, const std::vector<at::Tensor>& tensors) const;
  std::string text_from_leader(const std::string& mine) const;

 private:
  struct Engine;
  std::shared_ptr<Engine> engine_;  // none: alone
  int rank_ = 0, size_ = 1;
};

}  // namespace cleave::calibrate
