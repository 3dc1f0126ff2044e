#include "infer/paced.hpp"

#include <cerrno>
#include <ctime>
#include <fcntl.h>
#include <stdexcept>
#include <sys/file.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace cleave::infer {
namespace {

using Clock = std::chrono::steady_clock;

Clock::duration thread_cpu_time() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// A sleeping thread wakes tens of microseconds late; the end of the pause is spent looking at the
// clock.
void pause_until(Clock::time_point end) {
  constexpr auto spin = std::chrono::microseconds(60);
  if (end - Clock::now() > spin) std::this_thread::sleep_until(end - spin);
  while (Clock::now() < end) {
  }
}

/// A file that one process at a time holds; the kernel takes it back from one that dies.
class TurnsFile {
 public:
  /// Empty: everybody's turn always.
  explicit TurnsFile(const std::string& path) {
    if (path.empty()) return;
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "[paced] " + path);
  }
  ~TurnsFile() {
    if (fd_ >= 0) close(fd_);
  }
  TurnsFile(const TurnsFile&) = delete;
  TurnsFile& operator=(const TurnsFile&) = delete;

  void take() const {
    while (fd_ >= 0 && flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  void give() const {
    if (fd_ >= 0) flock(fd_, LOCK_UN);
  }

 private:
  int fd_ = -1;
};

class PacedEngine : public EngineAround {
 public:
  PacedEngine(std::unique_ptr<Engine> engine, double factor, const std::string& turns,
              Clock::duration most_owed)
      : EngineAround(std::move(engine)), factor_(factor), turns_(turns), most_owed_(most_owed) {}

  void prepare() override {
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1UL);  // else every sleep ends up to 50 us late
#endif
    EngineAround::prepare();
  }

  void settle() override {
    if (!computing_) return;
    turns_.give();
    computing_ = false;
    pause_until(end_of_stretch());
    EngineAround::settle();
  }

 protected:
  void around(std::int32_t, const plan::Instruction&, const Run& run) override {
    if (!computing_) begin_stretch();
    const auto cpu_start = thread_cpu_time();
    const auto count_and_settle = [&] {
      used_ += thread_cpu_time() - cpu_start;
      if (end_of_stretch() - Clock::now() > most_owed_) settle();
    };
    try {
      run();
    } catch (...) {
      count_and_settle();
      throw;
    }
    count_and_settle();
  }

 private:
  /// Of instructions between two values that leave.
  void begin_stretch() {
    computing_ = true;
    start_ = Clock::now();
    used_ = {};
    turns_.take();
  }
  Clock::time_point end_of_stretch() const {
    const std::chrono::duration<double, std::nano> used = used_;
    return start_ + std::chrono::duration_cast<Clock::duration>(used * factor_);
  }

  double factor_;
  TurnsFile turns_;
  Clock::duration most_owed_;
  bool computing_ = false;
  Clock::time_point start_;
  Clock::duration used_{};  // CPU time
};

class DelayedEngine : public EngineAround {
 public:
  DelayedEngine(std::unique_ptr<Engine> engine, std::chrono::microseconds delay)
      : EngineAround(std::move(engine)), delay_(delay) {}

 protected:
  void around(std::int32_t, const plan::Instruction&, const Run& run) override {
    run();
    std::this_thread::sleep_for(delay_);
  }

 private:
  std::chrono::microseconds delay_;
};

}  // namespace

std::unique_ptr<Engine> paced(std::unique_ptr<Engine> engine, double factor,
                              const std::string& turns, std::chrono::milliseconds most_owed) {
  if (!(factor >= 1))
    throw std::invalid_argument("[paced] factor: saw " + std::to_string(factor) +
                                ", needs at least 1");
  return std::make_unique<PacedEngine>(std::move(engine), factor, turns, most_owed);
}

std::unique_ptr<Engine> with_delay(std::unique_ptr<Engine> engine,
                                   std::chrono::microseconds delay) {
  return std::make_unique<DelayedEngine>(std::move(engine), delay);
}

}  // namespace cleave::infer
