#include "infer/compute.hpp"

#include <exception>
#include <future>
#include <utility>

#include "infer/machine.hpp"

namespace cleave::infer {
namespace {

using namespace std::chrono_literals;

/// Texts that are generated pause for less between their steps.
constexpr auto idle_before_rest = 1s;
/// Less is not worth the page faults of the next request.
constexpr double worth_giving_back = 4e6;

}  // namespace

Compute::Compute(std::unique_ptr<Engine> engine, OnEvents on_events)
    : on_events_(std::move(on_events)) {
  std::promise<void> prepared;
  auto ready = prepared.get_future();
  thread_ =
      std::thread([this, prepared = std::move(prepared), owned = std::move(engine)]() mutable {
        try {
          owned->prepare();
        } catch (...) {
          owned.reset();
          prepared.set_exception(std::current_exception());
          return;
        }
        prepared.set_value();
        Executor executor(*owned, hooks());
        work(executor);
      });
  try {
    ready.get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

Compute::~Compute() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Compute::admit(RequestId id, std::shared_ptr<const plan::Program> program,
                    std::vector<net::Value> inputs, Clock::time_point deadline,
                    const Sequence& sequence, std::size_t most_recorded) {
  // Whoever decides that a value is late says so by delivering an absent one.
  post(id, [id, program = std::move(program), inputs = std::move(inputs), deadline, sequence,
            most_recorded](Executor& executor) {
    executor.admit(id, program, inputs, deadline, deadline, sequence, most_recorded);
  });
}

void Compute::forget(std::uint64_t sequence) {
  post(0, [sequence](Executor& executor) { executor.forget(sequence); });
}

void Compute::deliver(RequestId id, std::int32_t peer, std::uint32_t tag, net::Value value) {
  post(id, [id, peer, tag, value = std::move(value), arrived = Clock::now()](Executor& executor) {
    executor.deliver(id, peer, tag, value, arrived);
  });
}

void Compute::peer_lost(RequestId id, std::int32_t peer) {
  post(id, [id, peer](Executor& executor) { executor.peer_lost(id, peer); });
}

void Compute::cancel(RequestId id) {
  post(id, [this, id](Executor& executor) {
    executor.cancel(id);
    Event event;
    event.what = Event::What::dropped;
    event.id = id;
    events_.push_back(std::move(event));
  });
}

void Compute::post(RequestId id, Task task) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.emplace_back(id, std::move(task));
  }
  wake_.notify_one();
}

void Compute::work(Executor& executor) {
  std::vector<std::pair<RequestId, Task>> tasks;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    tasks.swap(inbox_);
    lock.unlock();
    for (const auto& [id, task] : tasks) perform(executor, id, task);
    tasks.clear();
    const bool busy = executor.step(Clock::now());
    hand_over_events();
    const auto timer = executor.next_timer();
    lock.lock();
    if (busy) continue;
    const auto awake = [this] { return stopping_ || !inbox_.empty(); };
    const auto rest_at = Clock::now() + idle_before_rest;
    if (timer && *timer <= rest_at) {
      wake_.wait_until(lock, *timer, awake);
      continue;
    }
    if (wake_.wait_until(lock, rest_at, awake)) continue;
    lock.unlock();
    rest();
    lock.lock();
    if (timer)
      wake_.wait_until(lock, *timer, awake);
    else
      wake_.wait(lock, awake);
  }
}

/// The allocator keeps what is freed in the middle of its heaps, which are many: one for each
/// thread.
void Compute::rest() {
  const double bytes = resident_memory_bytes();
  if (rested_bytes_ > 0 && bytes <= rested_bytes_ + worth_giving_back) return;
  give_back_memory();
  rested_bytes_ = resident_memory_bytes();
}

/// An exception (no memory) ends the request, not the thread.
void Compute::perform(Executor& executor, RequestId id, const Task& task) {
  try {
    task(executor);
  } catch (const std::exception& error) {
    executor.cancel(id);
    Event event;
    event.what = Event::What::failed;
    event.id = id;
    event.text = error.what();
    events_.push_back(std::move(event));
  }
}

Executor::Hooks Compute::hooks() {
  using What = Event::What;
  Executor::Hooks hooks;
  hooks.send = [this](RequestId id, std::int32_t peer, std::uint32_t tag, const net::Value& value,
                      const RunTimes& times) {
    events_.push_back({What::send, id, peer, tag, value, times, {}, {}});
  };
  hooks.output = [this](RequestId id, const net::Value& value, const RunTimes& times) {
    events_.push_back({What::output, id, -1, 0, value, times, {}, {}});
  };
  hooks.failed = [this](RequestId id, const std::string& text, std::int32_t lost) {
    events_.push_back({What::failed, id, lost, 0, {}, {}, text, {}});
  };
  hooks.ran = [this](RequestId, std::vector<Ran> ran) { ran_ = std::move(ran); };
  hooks.finished = [this](RequestId id, const RunTimes& times) {
    events_.push_back({What::finished, id, -1, 0, {}, times, {}, std::exchange(ran_, {})});
  };
  hooks.dropped = [this](RequestId id) {
    events_.push_back({What::dropped, id, -1, 0, {}, {}, {}, {}});
  };
  return hooks;
}

void Compute::hand_over_events() {
  if (events_.empty()) return;
  on_events_(std::exchange(events_, {}));
}

}  // namespace cleave::infer
