#include "net/connection.hpp"

#include <algorithm>
#include <exception>
#include <new>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/crc32c.hpp"

namespace cleave::net {
namespace {

constexpr auto no_throw = asio::as_tuple(asio::use_awaitable);
/// Buffers of one write; the kernel takes 1024, but a frame is two and a long gather is seldom used
/// up.
constexpr std::size_t max_gathered = 32;
/// What is thrown away is read in pieces of this size.
constexpr std::size_t piece_bytes = std::size_t{1} << 16;

class TcpStream final : public Stream {
 public:
  explicit TcpStream(asio::ip::tcp::socket socket) : socket_(std::move(socket)) {
    error_code ignored;  // not a TCP socket, or already reset: reading will tell
    socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  }
  asio::awaitable<Moved> read(std::span<const asio::mutable_buffer> into) override {
    auto pending = socket_.async_read_some(into, no_throw);
    const auto [error, count] = co_await std::move(pending);
    co_return Moved(error, count);
  }
  asio::awaitable<Moved> write(std::span<const asio::const_buffer> from) override {
    auto pending = socket_.async_write_some(from, no_throw);
    const auto [error, count] = co_await std::move(pending);
    co_return Moved(error, count);
  }
  void shutdown() override {
    error_code ignored;
    socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  }
  void close() override {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  asio::ip::tcp::socket socket_;
};

/// Leaves out the first `count` bytes of the buffers.
std::span<asio::mutable_buffer> without_front(std::span<asio::mutable_buffer> buffers,
                                              std::size_t count) {
  while (!buffers.empty() && count >= buffers.front().size()) {
    count -= buffers.front().size();
    buffers = buffers.subspan(1);
  }
  if (!buffers.empty()) buffers.front() += count;
  return buffers;
}

/// Round trips that are looked at for the peer's clock: clocks drift, so old ones say little.
constexpr std::size_t most_trips = 16;

double seconds_of(Clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

/// A peer that is gone is one thing, however the system says it: which word comes first is a race.
error_code as_closed(error_code error) {
  const bool gone = error == asio::error::eof || error == asio::error::connection_reset ||
                    error == asio::error::broken_pipe;
  return gone ? error_code(Errc::closed) : error;
}

/// Part of a budget, until the last who holds it lets go.
struct Taken {
  Taken(std::shared_ptr<PayloadBudget> from, std::uint64_t size)
      : budget(std::move(from)), bytes(size) {}
  ~Taken() { budget->give_back(bytes); }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;
  std::shared_ptr<PayloadBudget> budget;
  std::uint64_t bytes;
};

/// The same bytes, which hold `taken` too.
Buffer holding(Buffer buffer, std::shared_ptr<const Taken> taken) {
  using Both = std::pair<Buffer, std::shared_ptr<const Taken>>;
  const auto* data = buffer.data();
  const auto size = buffer.size();
  return Buffer(std::make_shared<const Both>(std::move(buffer), std::move(taken)), data, size);
}

}  // namespace

bool PayloadBudget::take(std::uint64_t bytes) {
  auto used = used_.load();
  do {
    if (bytes > bytes_ - used) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes));
  return true;
}

void spawn(asio::io_context& io, asio::awaitable<void> work,
           std::function<void(const std::string&)> failed) {
  asio::co_spawn(io, std::move(work), [failed = std::move(failed)](std::exception_ptr thrown) {
    if (!thrown || !failed) return;
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
      failed(error.what());
    } catch (...) {
      failed("unknown exception");
    }
  });
}

void run(asio::io_context& io, const std::function<void(const std::string&)>& failed) {
  for (;;) {
    try {
      io.run();
      return;
    } catch (const std::exception& error) {
      if (failed) failed(error.what());
    }
  }
}

std::unique_ptr<Stream> tcp_stream(asio::ip::tcp::socket socket) {
  return std::make_unique<TcpStream>(std::move(socket));
}

Connection::Connection(asio::io_context& io, std::unique_ptr<Stream> stream, Options options)
    : io_(io),
      stream_(std::move(stream)),
      options_(std::move(options)),
      deadline_(io),
      heartbeat_(io),
      flushed_(io),
      alive_(Clock::now()) {}

asio::awaitable<error_code> Connection::read_all(std::span<asio::mutable_buffer> into) {
  into = without_front(into, 0);
  while (!into.empty()) {
    auto pending = stream_->read(into);
    const auto [error, count] = co_await std::move(pending);
    if (why_) co_return why_;
    if (error) co_return as_closed(error);
    alive_ = Clock::now();
    into = without_front(into, count);
  }
  co_return error_code();
}

/// Looks at the front as soon as it is there: another version's frame may be shorter than our
/// header, and its sender would wait with us.
asio::awaitable<error_code> Connection::read_header() {
  std::size_t size = 0;
  while (size < header_bytes) {
    const std::array<asio::mutable_buffer, 1> rest{asio::buffer(header_) + size};
    auto pending = stream_->read(rest);
    const auto [error, count] = co_await std::move(pending);
    if (why_) co_return why_;
    if (error) co_return as_closed(error);
    alive_ = Clock::now();
    size += count;
    if (size < front_bytes) continue;
    if (const auto foreign = check_front(header_.data())) co_return foreign;
  }
  header_at_ = alive_;
  co_return error_code();
}

/// False: it was not there in time, or the connection was closed meanwhile.
asio::awaitable<bool> Connection::wait_for_budget(std::uint64_t bytes) {
  if (bytes > options_.budget->bytes()) co_return false;
  const auto until = Clock::now() + options_.budget_patience;
  asio::steady_timer pause(io_);
  while (!options_.budget->take(bytes)) {
    if (why_ || Clock::now() >= until) co_return false;
    alive_ = Clock::now();  // we keep the peer waiting
    pause.expires_after(std::chrono::milliseconds(5));
    auto waiting = pause.async_wait(no_throw);
    co_await std::move(waiting);
  }
  co_return true;
}

/// Reads what follows the header, which takes little memory however much it is.
asio::awaitable<error_code> Connection::throw_away(Header header) {
  auto left = header.header_length - header_bytes + header.body_length + header.payload_length;
  std::uint32_t checksum = 0;
  while (left > 0) {
    body_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(left, piece_bytes)));
    std::array<asio::mutable_buffer, 1> piece{asio::buffer(body_)};
    auto reading = read_all(piece);
    if (const auto error = co_await std::move(reading)) co_return error;
    checksum = base::crc32c(body_.data(), body_.size(), checksum);
    left -= body_.size();
  }
  if (checksum != header.checksum) co_return error_code(Errc::bad_checksum);
  options_.no_room(*this, header);
  co_return error_code();
}

/// Nothing where the frame was thrown away.
asio::awaitable<Result<std::optional<Connection::Received>>> Connection::receive_frame() {
  auto first = read_header();
  if (const auto error = co_await std::move(first)) co_return error;
  const auto header = decode_header(header_.data(), options_.limits);
  if (!header) co_return header.error();

  const std::size_t tail = header->header_length - header_bytes;
  std::byte* payload_at = nullptr;
  Buffer payload;
  std::shared_ptr<const Taken> taken;
  if (header->payload_length > 0 && options_.budget) {
    auto waiting = wait_for_budget(header->payload_length);
    if (!co_await std::move(waiting)) {
      if (why_) co_return why_;
      if (!options_.no_room) co_return error_code(Errc::no_memory_left);
      auto throwing = throw_away(*header);
      if (const auto error = co_await std::move(throwing)) co_return error;
      co_return std::nullopt;
    }
    taken = std::make_shared<const Taken>(options_.budget, header->payload_length);
  }
  try {
    body_.resize(tail + header->body_length);
    if (header->payload_length > 0) payload = Buffer::allocate(header->payload_length, &payload_at);
    if (taken) payload = holding(std::move(payload), std::move(taken));
  } catch (const std::bad_alloc&) {
    co_return boost::system::errc::make_error_code(boost::system::errc::not_enough_memory);
  }
  std::array<asio::mutable_buffer, 2> rest{asio::buffer(body_),
                                           asio::buffer(payload_at, payload.size())};
  auto second = read_all(rest);
  if (const auto error = co_await std::move(second)) co_return error;

  co_return take_apart(*header, std::move(payload));
}

/// What was read: `body_`, behind the header's tail, and the payload.
Result<std::optional<Connection::Received>> Connection::take_apart(const Header& header,
                                                                   Buffer payload) {
  if (checksum_of(body_.data(), body_.size(), payload) != header.checksum)
    return error_code(Errc::bad_checksum);
  const std::size_t tail = header.header_length - header_bytes;
  const auto size = header.header_length + header.body_length + payload.size();
  auto message = decode(header, body_.data() + tail, std::move(payload));
  if (!message) return message.error();
  greeted_ = true;
  return std::optional(Received{std::move(*message), size, header_at_});
}

/// It shows what a frame of ours is to it, an unknown version, where a mere close says nothing.
asio::awaitable<void> Connection::part_from_foreigner() {
  verdict_ = Errc::unknown_version;
  Refused refused;
  refused.text = error_code(Errc::unknown_version).message();
  send(refused);
  auto finishing = finish(std::chrono::seconds(1));
  co_await std::move(finishing);
  // Closing with bytes unread would take the refusal back.
  body_.resize(piece_bytes);
  std::array<asio::mutable_buffer, 1> piece{asio::buffer(body_)};
  while (!why_) {
    auto reading = stream_->read(piece);
    const auto [error, count] = co_await std::move(reading);
    if (error) break;
  }
}

asio::awaitable<Result<Connection::Received>> Connection::receive() {
  const auto self = shared_from_this();
  while (!why_) {
    auto pending = receive_frame();
    auto received = co_await std::move(pending);
    if (!received) {
      if (!greeted_ && received.error() == Errc::unknown_version) {
        auto parting = part_from_foreigner();
        co_await std::move(parting);
      }
      close(received.error());
      break;
    }
    if (*received && !keep_to_itself((*received)->message)) co_return std::move(**received);
  }
  co_return why_;
}

/// True: a ping or a pong, already dealt with.
bool Connection::keep_to_itself(const Message& message) {
  if (const auto* ping = std::get_if<Ping>(&message)) {
    Pong pong;
    pong.stamp = ping->stamp;
    if (options_.describe) options_.describe(pong);
    pong.clock_s = seconds_of(Clock::now());
    send(pong);
    return true;
  }
  if (const auto* pong = std::get_if<Pong>(&message)) {
    note_clock(*pong, Clock::now());
    last_pong_ = *pong;
    return true;
  }
  return false;
}

void Connection::note_clock(const Pong& pong, Clock::time_point now) {
  const auto count = static_cast<std::uint64_t>(now.time_since_epoch().count());
  if (pong.stamp > count) return;  // a stamp from the future is not ours
  const Clock::duration trip(static_cast<Clock::rep>(count - pong.stamp));
  round_trip_ = trip;
  // The peer looked at its clock somewhere in between, most likely in the middle.
  trips_.push_back(
      {trip, std::chrono::duration<double>(pong.clock_s - seconds_of(now - trip / 2))});
  if (trips_.size() > most_trips) trips_.pop_front();
}

std::optional<std::chrono::duration<double>> Connection::clock_ahead() const {
  const auto shortest =
      std::min_element(trips_.begin(), trips_.end(),
                       [](const Trip& a, const Trip& b) { return a.length < b.length; });
  return shortest == trips_.end() ? std::nullopt : std::optional(shortest->ahead);
}

std::uint64_t Connection::send(const Message& message, std::shared_ptr<const void> until_written) {
  if (why_) return 0;
  auto frame = encode(message);
  const auto size = frame.size();
  if (!queue_.empty() && queued_bytes_ + size > options_.max_queued) {
    close(Errc::not_reading);
    return 0;
  }
  queued_bytes_ += size;
  queue_.push_back({std::move(frame), std::move(until_written)});
  if (!writing_) {
    writing_ = true;
    spawn(io_, flush(), [self = shared_from_this()](const std::string&) {
      self->close(boost::system::errc::make_error_code(boost::system::errc::io_error));
    });
  }
  return size;
}

/// Collects the next buffers to write, in order.
void Connection::gather() {
  gathered_.clear();
  std::size_t skip = written_;
  for (const auto& [frame, until_written] : queue_) {
    const std::array<asio::const_buffer, 2> parts{
        asio::buffer(frame.head), asio::buffer(frame.payload.data(), frame.payload.size())};
    for (auto part : parts) {
      const auto left_out = std::min(skip, part.size());
      skip -= left_out;
      part += left_out;
      if (part.size() > 0) gathered_.push_back(part);
    }
    if (gathered_.size() + 2 > max_gathered) break;
  }
}

/// Lets go of the frames that are written.
void Connection::consume(std::size_t count) {
  written_ += count;
  while (!queue_.empty() && written_ >= queue_.front().frame.size()) {
    written_ -= queue_.front().frame.size();
    queued_bytes_ -= queue_.front().frame.size();
    const auto written = std::move(queue_.front().until_written);  // whoever hears of it may send
    queue_.pop_front();
  }
}

asio::awaitable<void> Connection::flush() {
  const auto self = shared_from_this();
  while (!why_ && !queue_.empty()) {
    gather();
    const auto wanted = asio::buffer_size(gathered_);
    auto pending = stream_->write(gathered_);
    const auto [error, count] = co_await std::move(pending);
    if (error) {
      close(error);
      break;
    }
    if (blocked_) alive_ = Clock::now();
    blocked_ = count < wanted;
    consume(count);
  }
  if (why_) std::exchange(queue_, {});
  writing_ = false;
  flushed_.cancel();
}

asio::awaitable<void> Connection::finish(std::chrono::milliseconds timeout) {
  const auto self = shared_from_this();
  if (writing_) {
    flushed_.expires_after(timeout);
    auto pending = flushed_.async_wait(no_throw);
    co_await std::move(pending);
  }
  if (why_) co_return;
  stream_->shutdown();
  expire_after(timeout);
}

void Connection::close(error_code why) {
  if (why_) return;
  why_ = verdict_ ? verdict_ : why ? as_closed(why) : error_code(Errc::closed);
  stream_->close();
  deadline_.cancel();
  heartbeat_.cancel();
  if (!writing_) std::exchange(queue_, {});
}

void Connection::expire_after(std::chrono::milliseconds timeout) {
  // Also cancels the wait under way.
  deadline_.expires_at(Clock::time_point::max());
  if (timeout.count() == 0 || why_) return;
  deadline_.expires_after(timeout);
  deadline_.async_wait([weak = weak_from_this()](error_code error) {
    const auto self = weak.lock();
    // A wait that had ended just before the deadline was moved is not aborted; the time tells.
    if (error || !self || self->deadline_.expiry() > Clock::now()) return;
    self->close(Errc::deadline);
  });
}

void Connection::start_heartbeat() {
  alive_ = Clock::now();
  beat();
}

void Connection::ping() {
  Ping ping;
  ping.stamp = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
  send(ping);
}

void Connection::beat() {
  if (why_) return;
  if (Clock::now() - alive_ > options_.dead_after) {
    close(Errc::deadline);
    return;
  }
  ping();
  heartbeat_.expires_after(options_.ping_interval);
  heartbeat_.async_wait([weak = weak_from_this()](error_code error) {
    const auto self = weak.lock();
    if (!error && self) self->beat();
  });
}

}  // namespace cleave::net
