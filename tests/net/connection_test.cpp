#include "net/connection.hpp"

#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>

#include "base/crc32c.hpp"
#include "tests/net/recording_stream.hpp"
#include "tests/net/run_io.hpp"
#include "tests/net/stuck_stream.hpp"

// g++ 12 inlines the one half of how Asio allocates a coroutine's frame, and misses it in the
// other.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace cleave::net {
namespace {

using namespace std::chrono_literals;

Value tensor(std::int64_t count) {
  Value value;
  value.dims = {count};
  std::vector<float> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0.0f);
  value.data = Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
  return value;
}

struct Pair {
  explicit Pair(ConnectionOptions options = {}, std::size_t longest_write = 0) {
    auto [near_socket, far_socket] = socket_pair(io);
    near = make(std::move(near_socket), options, near_record, longest_write);
    far = make(std::move(far_socket), options, far_record, longest_write);
  }
  std::shared_ptr<Connection> make(asio::ip::tcp::socket socket, ConnectionOptions options,
                                   std::shared_ptr<Record> record, std::size_t longest_write) {
    auto stream =
        std::make_unique<RecordingStream>(tcp_stream(std::move(socket)), record, longest_write);
    return std::make_shared<Connection>(io, std::move(stream), std::move(options));
  }
  asio::io_context io;
  std::shared_ptr<Record> near_record = std::make_shared<Record>(),
                          far_record = std::make_shared<Record>();
  std::shared_ptr<Connection> near, far;
};

asio::awaitable<void> expect_error(std::shared_ptr<Connection> connection, error_code wanted) {
  auto receiving = connection->receive();
  const auto received = co_await std::move(receiving);
  EXPECT_FALSE(received.has_value());
  if (received) co_return;
  EXPECT_EQ(received.error(), wanted) << received.error().message();
  EXPECT_FALSE(connection->is_open());
}

asio::awaitable<void> exchange(Pair& pair, std::int64_t count) {
  ValueMessage sent;
  sent.request = 7;
  sent.tensor = tensor(count);
  const auto* memory = sent.tensor.data.data();
  const auto size = pair.near->send(sent);
  auto receiving = pair.far->receive();
  auto received = co_await std::move(receiving);
  EXPECT_TRUE(received.has_value());
  if (!received) co_return;
  EXPECT_EQ(received->wire_bytes, size);
  const auto& value = std::get<ValueMessage>(received->message);
  EXPECT_EQ(value.request, 7u);
  EXPECT_EQ(value.tensor.dims, sent.tensor.dims);
  const auto* bytes = value.tensor.data.data();
  EXPECT_EQ(std::memcmp(bytes, memory, sent.tensor.data.size()), 0);
  // Nothing was copied in user space: the kernel read from the tensor and wrote into the tensor.
  EXPECT_TRUE(pair.near_record->was_written_from(memory));
  EXPECT_TRUE(pair.far_record->was_read_into(bytes));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes) % 64, 0u);
}

TEST(Connection, SendsFromAndReceivesIntoTheTensorsMemory) {
  Pair pair;
  run_io(pair.io, exchange(pair, 1000));
}

TEST(Connection, SendsLargeTensorsPieceByPiece) {
  Pair pair;
  run_io(pair.io, exchange(pair, 1'500'000));
}

TEST(Connection, SurvivesShortWrites) {
  Pair pair({}, 3);
  run_io(pair.io, exchange(pair, 100));
}

/// Sets its flag when it goes.
std::shared_ptr<const void> flagged(bool* gone) {
  return std::shared_ptr<const void>(gone,
                                     [](const bool* flag) { *const_cast<bool*>(flag) = true; });
}

asio::awaitable<void> hold_until_written(Pair& pair) {
  ValueMessage message;
  message.tensor = tensor(1'500'000);
  bool written = false;
  pair.near->send(message, flagged(&written));
  EXPECT_FALSE(written);
  const auto before = Clock::now();
  auto receiving = pair.far->receive();
  const auto received = co_await std::move(receiving);
  EXPECT_TRUE(received.has_value());
  EXPECT_TRUE(written);
  if (!received) co_return;
  EXPECT_GE(received->began, before);
  EXPECT_LE(received->began, Clock::now());
}

TEST(Connection, LetsGoOfAValueOnceItIsWritten) {
  Pair pair;
  run_io(pair.io, hold_until_written(pair));
}

TEST(Connection, LetsGoOfAValueThatIsNeverWritten) {
  Pair pair;
  bool gone = false, late = false;
  ValueMessage message;
  message.tensor = tensor(1'500'000);
  pair.near->send(message, flagged(&gone));
  pair.near->close(Errc::closed);
  pair.io.run();
  EXPECT_TRUE(gone);
  EXPECT_EQ(pair.near->send(message, flagged(&late)), 0u);
  EXPECT_TRUE(late);
}

asio::awaitable<void> learn_clock(Pair& pair) {
  EXPECT_FALSE(pair.near->clock_ahead().has_value());
  spawn(pair.io, expect_error(pair.far, Errc::closed), {});
  spawn(pair.io, expect_error(pair.near, Errc::closed), {});
  pair.near->ping();
  asio::steady_timer wait(pair.io, 50ms);
  auto waiting = wait.async_wait(asio::use_awaitable);
  co_await std::move(waiting);
  const double trip_s = pair.near->round_trip().count();
  const auto ahead = pair.near->clock_ahead();
  EXPECT_TRUE(ahead.has_value());
  if (!ahead) co_return;
  EXPECT_LE(std::abs(ahead->count()), trip_s / 2 + 1e-9);
  // A round trip that took ten seconds says less of the peer's clock, whatever that says.
  Pong pong;
  pong.stamp = static_cast<std::uint64_t>((Clock::now() - 10s).time_since_epoch().count());
  pong.clock_s = std::chrono::duration<double>(Clock::now().time_since_epoch()).count() + 3600;
  pair.far->send(pong);
  wait.expires_after(50ms);
  auto again = wait.async_wait(asio::use_awaitable);
  co_await std::move(again);
  EXPECT_GE(pair.near->round_trip().count(), 10);
  EXPECT_EQ(pair.near->clock_ahead(), ahead);
  pair.near->close(Errc::closed);
  pair.far->close(Errc::closed);
}

TEST(Connection, LearnsThePeersClockFromPings) {
  Pair pair;
  run_io(pair.io, learn_clock(pair));
}

asio::awaitable<void> send_many(Pair& pair) {
  for (std::uint64_t i = 0; i < 500; ++i) {
    ValueMessage message;
    message.request = i;
    message.tensor = tensor(static_cast<std::int64_t>(i));
    pair.near->send(message);
  }
  for (std::uint64_t i = 0; i < 500; ++i) {
    auto receiving = pair.far->receive();
    auto received = co_await std::move(receiving);
    EXPECT_TRUE(received.has_value());
    if (!received) co_return;
    EXPECT_EQ(std::get<ValueMessage>(received->message).request, i);
  }
}

TEST(Connection, KeepsTheOrder) {
  Pair pair;
  run_io(pair.io, send_many(pair));
}

asio::awaitable<void> free_after_write(Pair& pair) {
  ValueMessage message;
  message.tensor = tensor(10);
  std::weak_ptr<const void> owner = message.tensor.data.owner();
  pair.near->send(message);
  message = {};
  auto receiving = pair.far->receive();
  const auto received = co_await std::move(receiving);
  EXPECT_TRUE(received.has_value());
  EXPECT_TRUE(owner.expired());
}

TEST(Connection, LetsGoOfATensorOnceItIsWritten) {
  Pair pair;
  run_io(pair.io, free_after_write(pair));
}

/// What the connection says to bytes of a peer that then closes.
error_code answer_to(const std::string& bytes, ConnectionOptions options = {}) {
  asio::io_context io;
  auto [raw, socket] = socket_pair(io);
  asio::write(raw, asio::buffer(bytes));
  raw.shutdown(asio::ip::tcp::socket::shutdown_send);
  const auto connection =
      std::make_shared<Connection>(io, tcp_stream(std::move(socket)), std::move(options));
  const auto read = [](std::shared_ptr<Connection> from) -> asio::awaitable<void> {
    auto receiving = from->receive();
    co_await std::move(receiving);
  };
  run_io(io, read(connection));
  return connection->why();
}

std::string text_of(const Frame& frame) {
  return std::string(reinterpret_cast<const char*>(frame.head.data()), frame.head.size()) +
         std::string(reinterpret_cast<const char*>(frame.payload.data()), frame.payload.size());
}

void store(std::string& bytes, std::size_t at, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<char>(value >> 8 * i);
}

/// With the checksums of what the bytes are, as a peer that means them sends them.
std::string checked(std::string bytes) {
  store(bytes, 48, base::crc32c(bytes.data() + header_bytes, bytes.size() - header_bytes));
  store(bytes, 52, base::crc32c(bytes.data(), 52));
  return bytes;
}

std::string with_byte(std::string bytes, std::size_t at, char byte) {
  bytes[at] = byte;
  return checked(std::move(bytes));
}

TEST(Connection, ClosesOnBadBytes) {
  EXPECT_EQ(answer_to(""), Errc::closed);
  EXPECT_EQ(answer_to("CLVF"), Errc::closed);
  EXPECT_EQ(answer_to("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: everything\r\n\r\n"),
            Errc::bad_magic);
  const auto whole = text_of(encode(Bye{}));
  EXPECT_EQ(answer_to(whole), error_code());
  EXPECT_EQ(answer_to(with_byte(whole, 8, 99)), Errc::unknown_kind);
  EXPECT_EQ(answer_to(with_byte(whole, 39, 0x7f)), Errc::body_too_long);
  ValueMessage value;
  value.tensor = tensor(8);
  const auto large = text_of(encode(value));
  EXPECT_EQ(answer_to(with_byte(large, 47, 0x7f)), Errc::payload_too_long);
  EXPECT_EQ(answer_to(large.substr(0, large.size() - 1)), Errc::closed);
}

TEST(Connection, ClosesOnEveryFlippedBit) {
  ValueMessage value;
  value.tensor = tensor(2);
  const auto good = text_of(encode(value));
  ASSERT_EQ(answer_to(good), error_code());
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    auto bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
    const auto wanted = bit / 8 < 4              ? Errc::bad_magic
                        : bit / 8 < 6            ? Errc::unknown_version
                        : bit / 8 < header_bytes ? Errc::bad_header_checksum
                                                 : Errc::bad_checksum;
    ASSERT_EQ(answer_to(bytes), wanted) << "bit " << bit;
  }
}

/// Flips a bit of what is read, far in the payload of a large frame.
class FlippingStream final : public Stream {
 public:
  FlippingStream(std::unique_ptr<Stream> inner, std::size_t at)
      : inner_(std::move(inner)), left_(at) {}
  asio::awaitable<Moved> read(std::span<const asio::mutable_buffer> into) override {
    auto pending = inner_->read(into);
    const auto moved = co_await std::move(pending);
    std::size_t count = moved.second;
    for (const auto& buffer : into) {
      const auto here = std::min(count, buffer.size());
      if (left_ < here) static_cast<unsigned char*>(buffer.data())[left_] ^= 0x10;
      // Once flipped it is never reached again: it wraps to the end of all bytes.
      left_ -= here;
      count -= here;
    }
    co_return moved;
  }
  asio::awaitable<Moved> write(std::span<const asio::const_buffer> from) override {
    return inner_->write(from);
  }
  void shutdown() override { inner_->shutdown(); }
  void close() override { inner_->close(); }

 private:
  std::unique_ptr<Stream> inner_;
  std::size_t left_;
};

asio::awaitable<void> meet_a_flipped_bit(std::shared_ptr<Connection> near,
                                         std::shared_ptr<Connection> far) {
  ValueMessage message;
  message.tensor = tensor(1'000'000);
  near->send(message);
  auto first = far->receive();
  const auto whole = co_await std::move(first);
  EXPECT_TRUE(whole.has_value());
  near->send(message);
  auto second = expect_error(far, Errc::bad_checksum);
  co_await std::move(second);
  auto peer = expect_error(near, Errc::closed);
  co_await std::move(peer);
}

TEST(Connection, ClosesWhereABitFlipsInTransit) {
  asio::io_context io;
  auto [near_socket, far_socket] = socket_pair(io);
  const auto near =
      std::make_shared<Connection>(io, tcp_stream(std::move(near_socket)), ConnectionOptions{});
  const auto far = std::make_shared<Connection>(
      io, std::make_unique<FlippingStream>(tcp_stream(std::move(far_socket)), 7'654'321),
      ConnectionOptions{});
  run_io(io, meet_a_flipped_bit(near, far));
  EXPECT_EQ(far->why().message(), "frame: damaged on the way, its checksum does not match");
}

// Its whole frame is shorter than our header, and it waits for an answer.
TEST(Connection, TellsAPeerOfVersion2ByItsVersion) {
  std::string bye(48, '\0');
  bye.replace(0, 4, "CLVF");
  bye[4] = 2;
  bye[6] = 48;
  bye[8] = static_cast<char>(Kind::bye);
  asio::io_context io;
  auto [raw, socket] = socket_pair(io);
  asio::write(raw, asio::buffer(bye));
  const auto connection =
      std::make_shared<Connection>(io, tcp_stream(std::move(socket)), ConnectionOptions{});
  run_io(io, expect_error(connection, Errc::unknown_version));
  EXPECT_EQ(connection->why().message(),
            "frame: unknown protocol version, both ends need the same");
  // What it reads shows it the same, and a reset does not take that back.
  std::string answer(header_bytes, '\0');
  asio::read(raw, asio::buffer(answer));
  EXPECT_EQ(answer.substr(0, 4), "CLVF");
  EXPECT_EQ(answer[4], protocol_version);
}

// A connection that is under way has more to lose than a word.
TEST(Connection, AnotherVersionInTheMiddleEndsItAtOnce) {
  asio::io_context io;
  auto [raw, socket] = socket_pair(io);
  auto foreign = text_of(encode(Bye{}));
  foreign[4] = 2;
  asio::write(raw, asio::buffer(text_of(encode(Ping{})) + foreign));
  const auto connection =
      std::make_shared<Connection>(io, tcp_stream(std::move(socket)), ConnectionOptions{});
  const auto start = Clock::now();
  run_io(io, expect_error(connection, Errc::unknown_version));
  EXPECT_LT(Clock::now() - start, 900ms);
}

TEST(Connection, SkipsTheTailOfALongerHeader) {
  Failed failed;
  failed.text = "text";
  auto bytes = text_of(encode(failed));
  bytes.insert(header_bytes, 16, 'x');
  bytes[6] = static_cast<char>(header_bytes + 16);
  EXPECT_EQ(answer_to(checked(bytes)), error_code());
  bytes = checked(bytes);
  bytes[header_bytes + 3] ^= 1;
  EXPECT_EQ(answer_to(bytes), Errc::bad_checksum);
}

TEST(Connection, LimitsMoveWithTheHandshake) {
  ValueMessage value;
  value.tensor = tensor(8);
  ConnectionOptions before;
  before.limits.max_payload = 0;
  EXPECT_EQ(answer_to(text_of(encode(value)), before), Errc::payload_too_long);
}

asio::awaitable<void> expire(Pair& pair) {
  const auto start = Clock::now();
  pair.near->expire_after(5s);
  pair.near->expire_after(30ms);
  auto expecting = expect_error(pair.near, Errc::deadline);
  co_await std::move(expecting);
  EXPECT_LT(Clock::now() - start, 4s);
  auto peer = expect_error(pair.far, Errc::closed);
  co_await std::move(peer);
}

TEST(Connection, ClosesAtItsDeadline) {
  Pair pair;
  run_io(pair.io, expire(pair));
}

asio::awaitable<void> lift(Pair& pair) {
  pair.near->expire_after(20ms);
  pair.near->expire_after(0ms);
  auto sleeping = sleep_for(pair.io, 60ms);
  co_await std::move(sleeping);
  EXPECT_TRUE(pair.near->is_open());
}

TEST(Connection, DeadlineCanBeLifted) {
  Pair pair;
  run_io(pair.io, lift(pair));
}

// The far end is a socket that nobody reads: it never answers a ping.
TEST(Connection, GivesUpASilentPeer) {
  asio::io_context io;
  auto [raw, socket] = socket_pair(io);
  ConnectionOptions options;
  options.ping_interval = 10ms;
  options.dead_after = 60ms;
  const auto connection = std::make_shared<Connection>(io, tcp_stream(std::move(socket)), options);
  connection->start_heartbeat();
  run_io(io, expect_error(connection, Errc::deadline));
}

asio::awaitable<void> keep_reading(std::shared_ptr<Connection> connection) {
  while (connection->is_open()) {
    auto receiving = connection->receive();
    co_await std::move(receiving);
  }
}

asio::awaitable<void> stay_alive(Pair& pair) {
  pair.near->start_heartbeat();
  spawn(pair.io, keep_reading(pair.near), {});
  spawn(pair.io, keep_reading(pair.far), {});
  while (pair.near->is_open() && pair.near->round_trip().count() == 0) {
    auto sleeping = sleep_for(pair.io, 5ms);
    co_await std::move(sleeping);
  }
  EXPECT_TRUE(pair.near->is_open());
  EXPECT_LT(pair.near->round_trip().count(), 10);
  EXPECT_EQ(pair.near->last_pong().queued, 3);
  pair.near->close(Errc::closed);
  pair.far->close(Errc::closed);
}

TEST(Connection, PingsAreAnsweredAndMeasured) {
  ConnectionOptions options;
  options.ping_interval = 10ms;
  options.dead_after = 20s;
  options.describe = [](Pong& pong) { pong.queued = 3; };
  Pair pair(options);
  run_io(pair.io, stay_alive(pair));
}

asio::awaitable<void> send_forged_pongs(Pair& pair) {
  for (const auto stamp : {std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    Pong pong;
    pong.stamp = stamp;
    pair.far->send(pong);
  }
  pair.far->send(Bye{});
  auto receiving = pair.near->receive();
  const auto bye = co_await std::move(receiving);
  EXPECT_TRUE(bye.has_value());
  EXPECT_EQ(pair.near->round_trip().count(), 0);
}

TEST(Connection, AStampThatCannotBeOursMeasuresNothing) {
  Pair pair;
  run_io(pair.io, send_forged_pongs(pair));
}

asio::awaitable<void> finish_in_order(Pair& pair) {
  ValueMessage message;
  message.tensor = tensor(1'000'000);
  pair.near->send(message);
  pair.near->send(Bye{});
  spawn(pair.io, pair.near->finish(30s), {});
  auto first = pair.far->receive();
  const auto value = co_await std::move(first);
  EXPECT_TRUE(value.has_value());
  auto second = pair.far->receive();
  const auto bye = co_await std::move(second);
  EXPECT_TRUE(bye.has_value());
  if (!bye) co_return;
  EXPECT_EQ(kind_of(bye->message), Kind::bye);
  auto third = expect_error(pair.far, Errc::closed);
  co_await std::move(third);
}

TEST(Connection, FinishWritesEverythingFirst) {
  Pair pair;
  run_io(pair.io, finish_in_order(pair));
}

TEST(Connection, DoesNotQueueForEverForAPeerThatDoesNotRead) {
  ConnectionOptions options;
  options.max_queued = 1000;
  Pair pair(options);
  ValueMessage large;
  large.tensor = tensor(10'000'000);  // one frame may be longer
  EXPECT_GT(pair.near->send(large), 0u);
  EXPECT_EQ(pair.near->send(Bye{}), 0u);
  EXPECT_EQ(pair.near->why(), Errc::not_reading);
}

asio::awaitable<void> send_and_read(Pair& pair, int times) {
  for (int i = 0; i < times; ++i) {
    ValueMessage message;
    message.tensor = tensor(200);
    // The second one waits behind the first.
    for (int twice = 0; twice < 2; ++twice) EXPECT_GT(pair.near->send(message), 0u) << i;
    for (int twice = 0; twice < 2; ++twice) {
      auto receiving = pair.far->receive();
      const auto received = co_await std::move(receiving);
      EXPECT_TRUE(received.has_value()) << i;
      if (!received) co_return;
    }
  }
}

TEST(Connection, WhatIsWrittenWaitsNoMore) {
  ConnectionOptions options;
  options.max_queued = 20'000;  // some twenty such frames
  Pair pair(options);
  run_io(pair.io, send_and_read(pair, 100));
  EXPECT_TRUE(pair.near->is_open());
}

/// A connection whose peer, `raw`, never reads.
struct Unread {
  explicit Unread(const ConnectionOptions& options) {
    auto [far_socket, socket] = socket_pair(io);
    raw = std::make_unique<asio::ip::tcp::socket>(std::move(far_socket));
    auto stream = std::make_unique<StuckStream>(tcp_stream(std::move(socket)),
                                                std::make_shared<std::atomic<bool>>(true));
    connection = std::make_shared<Connection>(io, std::move(stream), options);
  }
  asio::io_context io;
  std::unique_ptr<asio::ip::tcp::socket> raw;
  std::shared_ptr<Connection> connection;
};

TEST(Connection, GivesUpAPeerThatAsksAndDoesNotReadTheAnswers) {
  ConnectionOptions options;
  options.max_queued = 1000;
  Unread peer(options);
  std::string pings;
  for (int i = 0; i < 100; ++i) pings += text_of(encode(Ping{}));
  asio::write(*peer.raw, asio::buffer(pings));
  run_io(peer.io, expect_error(peer.connection, Errc::not_reading));
}

TEST(Connection, GivesUpAPeerThatReadsNothingAndSaysNothing) {
  ConnectionOptions options;
  options.ping_interval = 10ms;
  options.dead_after = 60ms;
  Unread peer(options);
  ValueMessage large;
  large.tensor = tensor(1000);
  peer.connection->send(large);
  peer.connection->start_heartbeat();
  run_io(peer.io, expect_error(peer.connection, Errc::deadline));
}

asio::awaitable<void> finish_unread(std::shared_ptr<Connection> connection) {
  connection->send(Bye{});
  auto finishing = connection->finish(30ms);
  co_await std::move(finishing);
  auto expecting = expect_error(connection, Errc::deadline);
  co_await std::move(expecting);
}

TEST(Connection, FinishDoesNotWaitForAPeerThatDoesNotRead) {
  Unread peer({});
  run_io(peer.io, finish_unread(peer.connection));
}

/// Reads `size` bytes in thirty pieces, which takes longer than a silent peer is given.
asio::awaitable<void> read_slowly(asio::io_context& io, asio::ip::tcp::socket& from,
                                  std::shared_ptr<Connection> connection, std::size_t size) {
  std::vector<std::byte> piece(size / 30);
  for (int i = 0; i < 30 && connection->is_open(); ++i) {
    auto sleeping = sleep_for(io, 40ms);
    co_await std::move(sleeping);
    auto reading = asio::async_read(from, asio::buffer(piece), no_throw);
    co_await std::move(reading);
  }
  EXPECT_TRUE(connection->is_open()) << connection->why().message();
}

TEST(Connection, APeerThatReadsALargeFrameSlowlyIsNotSilent) {
  asio::io_context io;
  auto [raw, socket] = socket_pair(io);
  ConnectionOptions options;
  options.ping_interval = 20ms;
  options.dead_after = 700ms;
  const auto connection = std::make_shared<Connection>(io, tcp_stream(std::move(socket)), options);
  ValueMessage large;  // more than the kernel holds
  const auto zeros = std::make_shared<std::vector<std::byte>>(40'000'000);
  large.tensor.dims = {10'000'000};
  large.tensor.data = Buffer(zeros, zeros->data(), zeros->size());
  const auto size = connection->send(large);
  connection->start_heartbeat();
  run_io(io, read_slowly(io, raw, connection, size));
  connection->close(Errc::closed);
}

/// Receives two tensors of 1,600 bytes, the first of which is let go if `let_go`.
asio::awaitable<void> receive_two(Pair& pair, bool let_go, std::optional<error_code>& outcome) {
  ValueMessage message;
  message.tensor = tensor(400);
  pair.near->send(message);
  pair.near->send(message);
  auto receiving = pair.far->receive();
  auto first = co_await std::move(receiving);
  EXPECT_TRUE(first.has_value());
  if (let_go) first = error_code();
  auto again = pair.far->receive();
  const auto second = co_await std::move(again);
  outcome = second ? error_code() : second.error();
}

TEST(Connection, WaitsForItsPartOfABudgetAndIsClosedWhereNoneIsLeft) {
  for (const bool let_go : {true, false}) {
    ConnectionOptions options;
    options.budget = std::make_shared<PayloadBudget>(3000);
    options.budget_patience = 50ms;
    Pair pair(options);
    std::optional<error_code> outcome;
    run_io(pair.io, receive_two(pair, let_go, outcome));
    ASSERT_TRUE(outcome.has_value());
    EXPECT_EQ(*outcome, let_go ? error_code() : error_code(Errc::no_memory_left));
    // All that was taken is given back once nobody holds it.
    EXPECT_TRUE(options.budget->take(3000)) << let_go;
  }
}

/// The second of two large frames finds no room, and a third is larger than all of it.
asio::awaitable<void> find_no_room(Pair& pair) {
  ValueMessage message;
  for (const std::int64_t count : {400, 500, 300'000}) {
    message.request = static_cast<std::uint64_t>(count);
    message.tensor = tensor(count);
    pair.near->send(message);
  }
  pair.near->send(Bye{});
  auto receiving = pair.far->receive();
  const auto first = co_await std::move(receiving);
  EXPECT_TRUE(first.has_value());
  if (!first) co_return;
  EXPECT_EQ(envelope_of(first->message).request, 400u);
  auto again = pair.far->receive();
  const auto second = co_await std::move(again);
  EXPECT_TRUE(second.has_value());
  if (!second) co_return;
  EXPECT_EQ(kind_of(second->message), Kind::bye);
}

TEST(Connection, ThrowsAwayWhatFindsNoRoomAndGoesOn) {
  ConnectionOptions options;
  options.budget = std::make_shared<PayloadBudget>(3000);
  options.budget_patience = 50ms;
  std::vector<std::uint64_t> told;
  options.no_room = [&](Connection& connection, const Header& header) {
    EXPECT_TRUE(connection.is_open());
    told.push_back(header.request);
  };
  Pair pair(options);
  run_io(pair.io, find_no_room(pair));
  EXPECT_EQ(told, (std::vector<std::uint64_t>{500, 300'000}));
  EXPECT_TRUE(options.budget->take(3000));
}

TEST(Connection, ClosesWhereABitFlipsInWhatItThrowsAway) {
  ConnectionOptions options;
  options.budget = std::make_shared<PayloadBudget>(100);
  int told = 0;
  options.no_room = [&](Connection&, const Header&) { ++told; };
  ValueMessage value;
  value.tensor = tensor(100'000);
  auto bytes = text_of(encode(value));
  EXPECT_EQ(answer_to(bytes, options), Errc::closed);
  EXPECT_EQ(told, 1);
  bytes[bytes.size() - 5] ^= 1;
  EXPECT_EQ(answer_to(bytes, options), Errc::bad_checksum);
  EXPECT_EQ(told, 1);
}

TEST(Connection, SendAfterCloseIsNothing) {
  Pair pair;
  pair.near->close(Errc::deadline);
  pair.near->close(Errc::closed);
  EXPECT_EQ(pair.near->why(), Errc::deadline);
  EXPECT_EQ(pair.near->send(Bye{}), 0u);
  run_io(pair.io, expect_error(pair.near, Errc::deadline));
}

TEST(Spawn, RecordsTheException) {
  asio::io_context io;
  const auto throws = []() -> asio::awaitable<void> {
    throw std::runtime_error("broken");
    co_return;
  };
  std::string text;
  spawn(io, throws(), [&text](const std::string& error) { text = error; });
  io.run();
  EXPECT_EQ(text, "broken");
}

}  // namespace
}  // namespace cleave::net
