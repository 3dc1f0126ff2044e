#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cleave::model {

/// Threads that each work through their own pieces of a batch, operators single-threaded.
///
/// A training step is some hundred small operators. Splitting each of them over threads costs a
/// barrier an operator (and collapses when a core is shared); splitting the batch costs one barrier
/// a step. On two cores this is 1.5 times faster. While lanes live, ATen and OpenBLAS run one
/// thread an operator in the whole process; both are restored at the end.
class Lanes {
 public:
  /// 0: as many as the machine has.
  explicit Lanes(int count);
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  int count() const { return static_cast<int>(threads_.size()); }
  /// Runs work(0) … work(pieces − 1), each on the lane that is free next, and waits; rethrows an
  /// exception of the lowest lane. What a piece computes must not depend on who computes it: then
  /// results are the same for every number of lanes.
  void run(std::int64_t pieces, const std::function<void(std::int64_t)>& work);

 private:
  void serve(int lane);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(std::int64_t)>* work_ = nullptr;
  std::int64_t pieces_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::uint64_t round_ = 0;
  int running_ = 0;
  bool stopping_ = false;
  std::vector<std::exception_ptr> failures_;
  std::vector<std::thread> threads_;
  int operator_threads_ = 1;
  int blas_threads_ = 0;
};

/// Piece `index` of `count` equal ones of 0 … total − 1, as [begin, end).
struct Slice {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};
Slice slice_of(std::int64_t total, std::int64_t index, std::int64_t count);

}  // namespace cleave::model
