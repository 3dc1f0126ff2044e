#include "net/emulated_link.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "net/connection.hpp"

namespace cleave::net {
namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using namespace std::chrono_literals;

/// What is sent or received at once: so much of a stream another one waits for.
constexpr std::size_t piece_bytes = 8192;
/// A sender that is not back in time after a piece because its timer was late: it goes on as if it
/// had been.
constexpr auto late_timer = 1ms;
/// Bytes that may wait in one stream's delay line: what the wire holds, and a socket's buffer.
constexpr std::size_t most_delayed_bytes = std::size_t{4} << 20;

Clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

/// What all streams of a process share.
class Interface {
 public:
  Interface(std::vector<LinkConditions> trace, std::uint64_t seed)
      : trace_(std::move(trace)), random_(seed) {}

  /// When the last of so many bytes has left, if they are next.
  Time sent_at(std::size_t bytes, Time now) {
    const Time start = now < out_free_ + late_timer ? out_free_ : now;
    return out_free_ = start + time_of(bytes, now);
  }
  /// When so many bytes that are there have come in. Those that come at the link's rate wait for
  /// nothing.
  Time received_at(std::size_t bytes, Time now) {
    const auto time = time_of(bytes, now);
    return in_free_ = std::max(now, in_free_ + time);
  }
  /// On the wire.
  Clock::duration latency(Time now) {
    const LinkConditions& link = at(now);
    std::uniform_real_distribution<double> jitter(-link.jitter_s, link.jitter_s);
    return duration_of(std::max(0.0, link.latency_s + (link.jitter_s > 0 ? jitter(random_) : 0)));
  }

 private:
  const LinkConditions& at(Time now) const {
    const double since_s = std::chrono::duration<double>(now - began_).count();
    const auto next = std::find_if(trace_.begin() + 1, trace_.end(),
                                   [&](const auto& link) { return link.from_s > since_s; });
    return *(next - 1);
  }
  Clock::duration time_of(std::size_t bytes, Time now) const {
    const double rate = at(now).bytes_per_s;
    return rate > 0 ? duration_of(static_cast<double>(bytes) / rate) : Clock::duration::zero();
  }

  std::vector<LinkConditions> trace_;
  std::mt19937_64 random_;
  Time began_ = Clock::now(), out_free_{}, in_free_{};
};

asio::awaitable<void> sleep_until(std::optional<asio::steady_timer>* timer, Time time) {
  const auto executor = co_await asio::this_coro::executor;
  timer->emplace(executor, time);
  error_code ignored;
  auto waiting = (*timer)->async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  co_await std::move(waiting);
}

/// One stream: what was written and is under way. Its own pump keeps it alive.
class Line : public std::enable_shared_from_this<Line> {
 public:
  Line(std::unique_ptr<Stream> inner, std::shared_ptr<Interface> interface)
      : inner_(std::move(inner)), interface_(std::move(interface)) {}

  asio::awaitable<Stream::Moved> read(std::span<const asio::mutable_buffer> into) {
    const std::array<asio::mutable_buffer, 1> some{asio::buffer(first(into), piece_bytes)};
    auto reading = inner_->read(some);
    const auto moved = co_await std::move(reading);
    if (moved.first) co_return moved;
    const Time now = Clock::now(), at = interface_->received_at(moved.second, now);
    if (at > now) {
      auto sleeping = sleep_until(&in_timer_, at);
      co_await std::move(sleeping);
    }
    co_return closed_ ? Stream::Moved(asio::error::operation_aborted, 0) : moved;
  }

  asio::awaitable<Stream::Moved> write(std::span<const asio::const_buffer> from) {
    while (!closed_ && !error_ && delayed_bytes_ >= most_delayed_bytes) {
      auto sleeping = sleep_until(&out_timer_, Clock::now() + 1ms);
      co_await std::move(sleeping);
    }
    const auto piece = asio::buffer(first(from), piece_bytes);
    const Time now = Clock::now(), sent = interface_->sent_at(piece.size(), now);
    if (sent > now) {
      auto sleeping = sleep_until(&out_timer_, sent);
      co_await std::move(sleeping);
    }
    if (closed_) co_return Stream::Moved(asio::error::operation_aborted, 0);
    if (error_) co_return Stream::Moved(error_, 0);
    const auto* bytes = static_cast<const std::byte*>(piece.data());
    last_due_ = std::max(last_due_, sent + interface_->latency(now));
    delayed_.push_back({last_due_, {bytes, bytes + piece.size()}});
    delayed_bytes_ += piece.size();
    const auto executor = co_await asio::this_coro::executor;
    if (!std::exchange(pumping_, true))
      asio::co_spawn(executor, pump(shared_from_this()), asio::detached);
    co_return Stream::Moved(error_code(), piece.size());
  }

  void shutdown() {
    ended_ = true;
    if (!pumping_) inner_->shutdown();
  }
  void close() {
    closed_ = true;
    for (auto* timer : {&in_timer_, &out_timer_, &pump_timer_})
      if (*timer) (*timer)->cancel();
    inner_->close();
  }

 private:
  struct Piece {
    Time due;
    std::vector<std::byte> bytes;
  };
  template <class Buffer>
  static Buffer first(std::span<const Buffer> buffers) {
    for (const Buffer& buffer : buffers)
      if (buffer.size() > 0) return buffer;
    return {};
  }

  /// Delivers what has been on the wire for long enough, as long as there is something.
  static asio::awaitable<void> pump(std::shared_ptr<Line> line) {
    while (!line->delayed_.empty() && !line->closed_ && !line->error_) {
      if (line->delayed_.front().due > Clock::now()) {
        auto sleeping = sleep_until(&line->pump_timer_, line->delayed_.front().due);
        co_await std::move(sleeping);
        continue;
      }
      const std::vector<std::byte> bytes = std::move(line->delayed_.front().bytes);
      line->delayed_.pop_front();
      for (std::size_t done = 0; done < bytes.size() && !line->error_;) {
        const std::array<asio::const_buffer, 1> rest{asio::buffer(bytes) + done};
        auto writing = line->inner_->write(rest);
        const auto moved = co_await std::move(writing);
        line->error_ = moved.first;
        done += moved.second;
      }
      line->delayed_bytes_ -= bytes.size();
    }
    line->pumping_ = false;
    if (line->ended_ && !line->closed_) line->inner_->shutdown();
  }

  std::unique_ptr<Stream> inner_;
  std::shared_ptr<Interface> interface_;
  std::deque<Piece> delayed_;
  std::size_t delayed_bytes_ = 0;
  Time last_due_{};
  std::optional<asio::steady_timer> in_timer_, out_timer_, pump_timer_;
  error_code error_;  // of a delivery
  bool pumping_ = false, ended_ = false, closed_ = false;
};

class EmulatedStream : public Stream {
 public:
  explicit EmulatedStream(std::shared_ptr<Line> line) : line_(std::move(line)) {}
  ~EmulatedStream() override { line_->close(); }
  EmulatedStream(const EmulatedStream&) = delete;
  EmulatedStream& operator=(const EmulatedStream&) = delete;
  asio::awaitable<Moved> read(std::span<const asio::mutable_buffer> into) override {
    return line_->read(into);
  }
  asio::awaitable<Moved> write(std::span<const asio::const_buffer> from) override {
    return line_->write(from);
  }
  void shutdown() override { line_->shutdown(); }
  void close() override { line_->close(); }

 private:
  std::shared_ptr<Line> line_;
};

void check(const std::vector<LinkConditions>& trace) {
  const auto refuse = [](std::size_t row, const std::string& what) {
    throw std::invalid_argument("[link] row " + std::to_string(row) + ": " + what);
  };
  if (trace.empty()) throw std::invalid_argument("[link] saw no conditions, needs one or more");
  for (std::size_t row = 0; row < trace.size(); ++row) {
    const LinkConditions& link = trace[row];
    if (row == 0 ? link.from_s != 0 : !(link.from_s > trace[row - 1].from_s))
      refuse(row, "saw time " + std::to_string(link.from_s) +
                      ", needs 0 in the first row and more in each other than before");
    if (!(link.bytes_per_s >= 0) || !(link.latency_s >= 0) || !(link.latency_s <= 60) ||
        !(link.jitter_s >= 0) || !(link.jitter_s <= link.latency_s))
      refuse(row, "needs a rate of 0 or more, a latency of 0..60 s and a jitter below it");
  }
}

}  // namespace

StreamWrap emulated_link(std::vector<LinkConditions> trace, std::string own_host,
                         std::uint64_t seed) {
  check(trace);
  const auto interface = std::make_shared<Interface>(std::move(trace), seed);
  return [interface, own_host = std::move(own_host)](
             std::unique_ptr<Stream> inner, const std::string& host) -> std::unique_ptr<Stream> {
    if (host == own_host) return inner;
    return std::make_unique<EmulatedStream>(std::make_shared<Line>(std::move(inner), interface));
  };
}

}  // namespace cleave::net
