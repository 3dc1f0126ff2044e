#include "infer/kernels/pool.hpp"

#include <atomic>
#include <cassert>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <sched.h>
#include <thread>
#include <vector>

namespace cleave::kernels {
namespace {

/// Cores that this process may use.
int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

constexpr auto longest_spin = std::chrono::microseconds(5);

/// Whether `done` came true while spinning.
template <class Done>
bool spin(bool allowed, const Done& done) {
  if (!allowed) return done();
  const auto end = std::chrono::steady_clock::now() + longest_spin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

struct Pool::State {
  std::mutex mutex;
  std::condition_variable work_came, work_ended;
  std::atomic<std::uint64_t> round{0};
  std::atomic<int> at_work{0};  // threads beside the caller that have not left the round
  std::atomic<std::int64_t> next{0};
  std::int64_t count = 0;
  Task task = nullptr;
  const void* context = nullptr;
  bool spins = false, stops = false;
  std::vector<std::thread> threads;

  void take_tasks() {
    for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
      task(context, i);
  }

  void serve() {
    for (std::uint64_t seen = 0;;) {
      const auto came = [&] { return round.load(std::memory_order_acquire) != seen; };
      if (!spin(spins, came)) {
        std::unique_lock lock(mutex);
        work_came.wait(lock, came);
      }
      ++seen;
      if (stops) return;
      take_tasks();
      if (at_work.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard lock(mutex);
        work_ended.notify_one();
      }
    }
  }

  void begin_round() {
    {
      const std::lock_guard lock(mutex);
      round.fetch_add(1, std::memory_order_release);
    }
    work_came.notify_all();
  }
};

Pool::Pool(int num_threads) : state_(std::make_unique<State>()) {
  assert(num_threads >= 2);
  state_->spins = num_threads <= usable_cores();
  try {
    for (int i = 1; i < num_threads; ++i)
      state_->threads.emplace_back([state = state_.get()] { state->serve(); });
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  state_->stops = true;
  state_->begin_round();
  for (auto& thread : state_->threads) thread.join();
}

int Pool::num_threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void Pool::run(std::int64_t count, Task task, const void* context) {
  State& s = *state_;
  s.count = count;
  s.task = task;
  s.context = context;
  s.next.store(0, std::memory_order_relaxed);
  s.at_work.store(static_cast<int>(s.threads.size()), std::memory_order_relaxed);
  s.begin_round();
  s.take_tasks();
  const auto ended = [&] { return s.at_work.load(std::memory_order_acquire) == 0; };
  if (spin(s.spins, ended)) return;
  std::unique_lock lock(s.mutex);
  s.work_ended.wait(lock, ended);
}

std::unique_ptr<Pool> make_pool(int num_threads) {
  return num_threads > 1 ? std::make_unique<Pool>(num_threads) : nullptr;
}

}  // namespace cleave::kernels
