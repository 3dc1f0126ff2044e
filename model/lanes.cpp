#include "model/lanes.hpp"

#include <dlfcn.h>

#include <ATen/Parallel.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>

namespace cleave::model {
namespace {

/// OpenBLAS has a thread pool of its own, which at::set_num_threads does not reach; other BLAS have
/// not these functions.
template <typename Function>
Function* openblas(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

int openblas_threads() {
  auto* get = openblas<int()>("openblas_get_num_threads");
  return get ? get() : 0;
}

void set_openblas_threads(int count) {
  auto* set = openblas<void(int)>("openblas_set_num_threads");
  if (set && count > 0) set(count);
}

/// Activations are freed and wanted again each step: keep their pages instead of faulting them in
/// anew.
void keep_freed_pages() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

}  // namespace

Lanes::Lanes(int count)
    : operator_threads_(at::get_num_threads()), blas_threads_(openblas_threads()) {
  const int wanted =
      count > 0 ? count : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  keep_freed_pages();
  set_openblas_threads(1);
  at::set_num_threads(1);
  failures_.resize(static_cast<std::size_t>(wanted));
  for (int lane = 0; lane < wanted; ++lane) threads_.emplace_back([this, lane] { serve(lane); });
}

Lanes::~Lanes() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
  at::set_num_threads(operator_threads_);
  set_openblas_threads(blas_threads_);
}

void Lanes::run(std::int64_t pieces, const std::function<void(std::int64_t)>& work) {
  std::unique_lock<std::mutex> lock(mutex_);
  work_ = &work;
  pieces_ = pieces;
  next_ = 0;
  running_ = count();
  std::fill(failures_.begin(), failures_.end(), nullptr);
  ++round_;
  wake_.notify_all();
  done_.wait(lock, [this] { return running_ == 0; });
  for (const auto& failure : failures_)
    if (failure) std::rethrow_exception(failure);
}

void Lanes::serve(int lane) {
  at::set_num_threads(1);  // the OpenMP team size belongs to a thread
  std::uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stopping_ || round_ != seen; });
    if (stopping_) return;
    seen = round_;
    lock.unlock();
    try {
      for (std::int64_t piece = next_++; piece < pieces_; piece = next_++) (*work_)(piece);
    } catch (...) {
      failures_[static_cast<std::size_t>(lane)] = std::current_exception();
    }
    lock.lock();
    if (--running_ == 0) done_.notify_one();
  }
}

Slice slice_of(std::int64_t total, std::int64_t index, std::int64_t count) {
  return {total * index / count, total * (index + 1) / count};
}

}  // namespace cleave::model
