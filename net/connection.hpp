#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "net/message.hpp"
#include "net/stream_wrap.hpp"

namespace cleave::net {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

/// Starts a coroutine; an exception that leaves it is handed to `failed` as text, never lost.
void spawn(asio::io_context& io, asio::awaitable<void> work,
           std::function<void(const std::string&)> failed);

/// Runs the handlers until there is nothing left to do. One that throws costs its own work, not the
/// process: `failed` gets its words.
void run(asio::io_context& io, const std::function<void(const std::string&)>& failed);

/// What a connection speaks to: four calls. A socket is one; TLS will be another, and a test's
/// recorder is a third.
class Stream {
 public:
  /// Error (none: it worked) and bytes moved.
  using Moved = std::pair<error_code, std::size_t>;
  virtual ~Stream() = default;
  /// Reads at least one byte, straight into the buffers.
  virtual asio::awaitable<Moved> read(std::span<const asio::mutable_buffer> into) = 0;
  /// Writes at least one byte, straight from the buffers.
  virtual asio::awaitable<Moved> write(std::span<const asio::const_buffer> from) = 0;
  /// Nothing more will be written; the peer reads to the end.
  virtual void shutdown() = 0;
  /// Ends pending calls with operation_aborted.
  virtual void close() = 0;
};
/// The socket sends small frames at once (TCP_NODELAY).
std::unique_ptr<Stream> tcp_stream(asio::ip::tcp::socket socket);
/// Memory that several connections share for the payloads that they receive, from a frame's header
/// on until the last who reads the payload lets go of it. Any thread.
class PayloadBudget {
 public:
  explicit PayloadBudget(std::uint64_t bytes) : bytes_(bytes) {}
  std::uint64_t bytes() const { return bytes_; }
  /// False: so much is not left.
  bool take(std::uint64_t bytes);
  void give_back(std::uint64_t bytes) { used_ -= bytes; }

 private:
  const std::uint64_t bytes_;
  std::atomic<std::uint64_t> used_{0};
};

class Connection;

struct ConnectionOptions {
  Limits limits;
  /// Null: every connection may take what its limits say. A frame whose payload does not fit waits
  /// for `budget_patience`, unread, one that can never fit does not wait; then its payload is read
  /// in small pieces and thrown away.
  std::shared_ptr<PayloadBudget> budget;
  std::chrono::milliseconds budget_patience{5000};
  /// Told of each frame whose payload was thrown away. Empty: the connection is closed instead.
  std::function<void(Connection&, const Header&)> no_room;
  /// A ping this often once the heartbeat runs; a peer that is silent for `dead_after` is given up.
  /// While large frames make progress nobody is silent.
  std::chrono::milliseconds ping_interval{1000};
  std::chrono::milliseconds dead_after{5000};
  /// More than this waiting to be written (one frame aside) means that the peer does not read.
  std::uint64_t max_queued = std::uint64_t{1} << 28;
  /// Fills memory and queue into the answer to a ping.
  std::function<void(Pong&)> describe;
};

/// Messages over a stream. All calls on the I/O thread; it lives as long as a call is pending. It
/// may die at any moment, which shows as an error of receive(); the process goes on.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Options = ConnectionOptions;
  struct Received {
    Message message;
    std::uint64_t wire_bytes = 0;
    Clock::time_point began{};  // its header was there
  };

  Connection(asio::io_context& io, std::unique_ptr<Stream> stream, Options options);

  /// The next message; pings and pongs are dealt with inside. A tensor lies in the buffer that was
  /// read into, 64-byte aligned. After an error the connection is closed, and every further call
  /// gives the same error; a peer whose first frame is of another protocol version is sent a
  /// refusal before. One reader at a time.
  asio::awaitable<Result<Received>> receive();
  /// Queues a message and starts writing, straight from the tensor's memory, whose owner is kept
  /// until then. Returns its bytes on the wire; 0 where the connection is closed. `until_written`
  /// is let go when the whole frame has been written, or never will be.
  std::uint64_t send(const Message& message, std::shared_ptr<const void> until_written = {});
  /// Writes what is queued (at most `timeout`), then tells the peer that nothing follows. receive()
  /// goes on until the peer closes, at most `timeout` again.
  asio::awaitable<void> finish(std::chrono::milliseconds timeout);
  /// The first reason stays.
  void close(error_code why);
  /// Closes with Errc::deadline unless called again in time. Zero: no deadline.
  void expire_after(std::chrono::milliseconds timeout);
  void start_heartbeat();
  /// One more than the heartbeat's, which tells round trip and clock.
  void ping();

  bool is_open() const { return !why_; }
  /// Why it is closed.
  error_code why() const { return why_; }
  /// Of the last ping; zero before.
  std::chrono::duration<double> round_trip() const { return round_trip_; }
  const Pong& last_pong() const { return last_pong_; }
  /// By how much the peer's clock is ahead of ours, from the shortest of the last round trips:
  /// wrong by at most half of that. Nothing before the first one.
  std::optional<std::chrono::duration<double>> clock_ahead() const;
  void set_limits(const Limits& limits) { options_.limits = limits; }

 private:
  asio::awaitable<error_code> read_all(std::span<asio::mutable_buffer> into);
  asio::awaitable<error_code> read_header();
  asio::awaitable<bool> wait_for_budget(std::uint64_t bytes);
  asio::awaitable<error_code> throw_away(Header header);
  asio::awaitable<Result<std::optional<Received>>> receive_frame();
  Result<std::optional<Received>> take_apart(const Header& header, Buffer payload);
  asio::awaitable<void> part_from_foreigner();
  bool keep_to_itself(const Message& message);
  void note_clock(const Pong& pong, Clock::time_point now);
  asio::awaitable<void> flush();
  void gather();
  void consume(std::size_t count);
  void beat();

  asio::io_context& io_;
  std::unique_ptr<Stream> stream_;
  Options options_;
  error_code why_, verdict_;  // the second: decided while it is still open
  std::array<std::byte, header_bytes> header_{};
  std::vector<std::byte> body_;
  struct Queued {
    Frame frame;
    std::shared_ptr<const void> until_written;
  };
  struct Trip {
    Clock::duration length;
    std::chrono::duration<double> ahead;
  };
  std::deque<Queued> queue_;
  std::deque<Trip> trips_;   // the last ones
  std::size_t written_ = 0;  // of the frame in front
  std::uint64_t queued_bytes_ = 0;
  std::vector<asio::const_buffer> gathered_;
  bool writing_ = false;
  bool blocked_ = false;  // the last write was cut short: the next one's progress is the peer's
  bool greeted_ = false;  // a whole frame has come
  asio::steady_timer deadline_, heartbeat_, flushed_;
  Clock::time_point alive_, header_at_;  // the second: of the last frame
  std::chrono::duration<double> round_trip_{0};
  Pong last_pong_;
};

}  // namespace cleave::net
