#pragma once

#include <cstdint>
#include <memory>

namespace cleave::kernels {

/// n threads that do one thing at a time together: the caller and n − 1 others. Tasks are handed
/// out one by one, in order, so that a thread that the machine holds up does less. Others wait for
/// work by spinning at most 5 us, never where the process may use fewer cores than there are
/// threads, and then sleep. With one thread there is no pool: pass null. One caller at a time.
class Pool {
 public:
  using Task = void (*)(const void* context, std::int64_t task);

  /// Two threads at least. Throws std::system_error where a thread cannot be started.
  explicit Pool(int num_threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int num_threads() const;
  /// Calls task(context, i) for each i in [0, count) and returns when all are done. Tasks do not
  /// throw.
  void run(std::int64_t count, Task task, const void* context);

 private:
  struct State;
  void stop();
  std::unique_ptr<State> state_;
};

/// A pool for so many threads; null for one.
std::unique_ptr<Pool> make_pool(int num_threads);

/// f(i) for each i in [0, count): by the pool's threads, or in order where it is null or there is
/// one.
template <class F>
void parallel_for(Pool* pool, std::int64_t count, const F& f) {
  if (!pool || count < 2) {
    for (std::int64_t i = 0; i < count; ++i) f(i);
    return;
  }
  pool->run(
      count, [](const void* context, std::int64_t i) { (*static_cast<const F*>(context))(i); }, &f);
}

}  // namespace cleave::kernels
