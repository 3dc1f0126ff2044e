#include "net/emulated_link.hpp"

#include <array>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/net/run_io.hpp"

namespace cleave::net {
namespace {

using namespace std::chrono_literals;

/// Two ends, both behind a link of these conditions.
struct Ends {
  Ends(asio::io_context& io, const std::vector<LinkConditions>& near,
       const std::vector<LinkConditions>& far) {
    auto sockets = socket_pair(io);
    left = emulated_link(near, "here", 1)(tcp_stream(std::move(sockets.first)), "there");
    right = emulated_link(far, "there", 2)(tcp_stream(std::move(sockets.second)), "here");
  }
  std::unique_ptr<Stream> left, right;
};

std::vector<std::byte> numbers(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 251);
  return bytes;
}

asio::awaitable<void> write_all(Stream& to, const std::vector<std::byte>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const std::array<asio::const_buffer, 1> rest{asio::buffer(bytes) + done};
    auto writing = to.write(rest);
    const auto [error, count] = co_await std::move(writing);
    EXPECT_FALSE(error) << error.message();
    if (error) co_return;
    done += count;
  }
}

/// Until so many are there, or the end.
asio::awaitable<std::vector<std::byte>> read_up_to(Stream& from, std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::size_t done = 0;
  while (done < size) {
    const std::array<asio::mutable_buffer, 1> rest{asio::buffer(bytes) + done};
    auto reading = from.read(rest);
    const auto [error, count] = co_await std::move(reading);
    if (error) break;
    done += count;
  }
  bytes.resize(done);
  co_return bytes;
}

/// How long it takes to carry so many bytes from left to right, which come as they were.
std::chrono::duration<double> carried(const std::vector<LinkConditions>& near,
                                      const std::vector<LinkConditions>& far, std::size_t size) {
  asio::io_context io;
  Ends ends(io, near, far);
  const auto sent = numbers(size);
  std::vector<std::byte> came;
  const auto began = Clock::now();
  run_io(io,
         [](asio::io_context& on, Ends& between, const std::vector<std::byte>& given,
            std::vector<std::byte>* taken) -> asio::awaitable<void> {
           spawn(on, write_all(*between.left, given), {});
           auto reading = read_up_to(*between.right, given.size());
           *taken = co_await std::move(reading);
         }(io, ends, sent, &came));
  EXPECT_EQ(came, sent);
  return Clock::now() - began;
}

// How long something takes at least is no matter of luck.

TEST(EmulatedLink, IsNoFasterThanItsRate) {
  // 100 kB at 1 MB/s, at whichever end.
  EXPECT_GE(carried({{0, 1e6, 0, 0}}, {{0, 0, 0, 0}}, 100'000).count(), 0.099);
  EXPECT_GE(carried({{0, 0, 0, 0}}, {{0, 1e6, 0, 0}}, 100'000).count(), 0.09);
  EXPECT_GE(carried({{0, 0, 0, 0}}, {{0, 0, 0, 0}}, 100'000).count(), 0);
}

TEST(EmulatedLink, DeliversAfterItsLatency) {
  EXPECT_GE(carried({{0, 0, 0.05, 0}}, {{0, 0, 0, 0}}, 1000).count(), 0.05);
  EXPECT_LT(carried({{0, 0, 0.05, 0}}, {{0, 0, 0, 0}}, 400'000).count(), 1)
      << "the latency of each piece is added up";
}

TEST(EmulatedLink, KeepsTheOrderOfWhatIsJittered) {
  carried({{0, 0, 0.004, 0.004}}, {{0, 0, 0, 0}}, 300'000);
}

TEST(EmulatedLink, ChangesInMidRun) {
  // 10 kB in the first tenth of a second, and the rest at once.
  const double slow_s = carried({{0, 1e5, 0, 0}}, {{0, 0, 0, 0}}, 50'000).count();
  const double mended_s = carried({{0, 1e5, 0, 0}, {0.1, 0, 0, 0}}, {{0, 0, 0, 0}}, 50'000).count();
  EXPECT_GE(slow_s, 0.49);
  EXPECT_LT(mended_s, slow_s);
  EXPECT_GE(mended_s, 0.08);
}

TEST(EmulatedLink, IsSharedByTheStreamsOfAProcess) {
  asio::io_context io;
  auto first = socket_pair(io), second = socket_pair(io);
  const auto wrap = emulated_link({{0, 1e6, 0, 0}}, "here", 1);
  const auto one = wrap(tcp_stream(std::move(first.first)), "there"),
             other = wrap(tcp_stream(std::move(second.first)), "elsewhere"),
             far_of_one = tcp_stream(std::move(first.second)),
             far_of_other = tcp_stream(std::move(second.second));
  const auto bytes = numbers(50'000);
  const auto began = Clock::now();
  run_io(io,
         [](asio::io_context& on, Stream& a, Stream& b, Stream& far_a, Stream& far_b,
            const std::vector<std::byte>& given) -> asio::awaitable<void> {
           spawn(on, write_all(a, given), {});
           spawn(on, write_all(b, given), {});
           auto of_a = read_up_to(far_a, given.size());
           const auto came = co_await std::move(of_a);
           EXPECT_EQ(came, given);
           auto of_b = read_up_to(far_b, given.size());
           const auto too = co_await std::move(of_b);
           EXPECT_EQ(too, given);
         }(io, *one, *other, *far_of_one, *far_of_other, bytes));
  EXPECT_GE(std::chrono::duration<double>(Clock::now() - began).count(), 0.099);
}

TEST(EmulatedLink, IsNotBetweenProcessesOfOneDevice) {
  asio::io_context io;
  auto sockets = socket_pair(io);
  auto plain = tcp_stream(std::move(sockets.first));
  const Stream* before = plain.get();
  const auto wrap = emulated_link({{0, 1, 0, 0}}, "127.0.77.2", 1);
  EXPECT_EQ(wrap(std::move(plain), "127.0.77.2").get(), before);
}

TEST(EmulatedLink, DeliversAllBeforeTheEnd) {
  asio::io_context io;
  Ends ends(io, {{0, 0, 0.03, 0}}, {{0, 0, 0, 0}});
  run_io(io, [](Ends& between) -> asio::awaitable<void> {
    const auto given = numbers(20'000);
    auto writing = write_all(*between.left, given);
    co_await std::move(writing);
    between.left->shutdown();
    auto reading = read_up_to(*between.right, 30'000);
    const auto came = co_await std::move(reading);
    EXPECT_EQ(came, given);
  }(ends));
}

TEST(EmulatedLink, EndsItsCallsWhenItIsClosed) {
  asio::io_context io;
  Ends ends(io, {{0, 100, 0, 0}}, {{0, 0, 0, 0}});  // a piece takes over a minute
  bool wrote = false, read = false;
  run_io(io,
         [](asio::io_context& on, Ends& between, bool* written,
            bool* was_read) -> asio::awaitable<void> {
           const auto end_of_write = [](Stream& to, bool* flag) -> asio::awaitable<void> {
             const auto given = numbers(8192);
             const std::array<asio::const_buffer, 1> all{asio::buffer(given)};
             auto writing = to.write(all);
             const auto moved = co_await std::move(writing);
             EXPECT_EQ(moved.first, asio::error::operation_aborted);
             *flag = true;
           };
           const auto end_of_read = [](Stream& from, bool* flag) -> asio::awaitable<void> {
             std::array<std::byte, 10> room{};
             const std::array<asio::mutable_buffer, 1> all{asio::buffer(room)};
             auto reading = from.read(all);
             const auto moved = co_await std::move(reading);
             EXPECT_TRUE(moved.first);
             *flag = true;
           };
           spawn(on, end_of_write(*between.left, written), {});
           spawn(on, end_of_read(*between.left, was_read), {});
           auto pause = sleep_for(on, 20ms);
           co_await std::move(pause);
           between.left->close();
           auto rest = sleep_for(on, 20ms);
           co_await std::move(rest);
         }(io, ends, &wrote, &read));
  EXPECT_TRUE(wrote);
  EXPECT_TRUE(read);
}

TEST(EmulatedLink, RefusesConditionsThatCannotBe) {
  const auto refusal = [](std::vector<LinkConditions> trace) -> std::string {
    try {
      emulated_link(std::move(trace), "", 1);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal({}), "[link] saw no conditions, needs one or more");
  const std::string time = ", needs 0 in the first row and more in each other than before";
  EXPECT_EQ(refusal({{1, 0, 0, 0}}), "[link] row 0: saw time 1.000000" + time);
  EXPECT_EQ(refusal({{0, 0, 0, 0}, {0, 1, 0, 0}}), "[link] row 1: saw time 0.000000" + time);
  const std::string needs = "needs a rate of 0 or more, a latency of 0..60 s and a jitter below it";
  EXPECT_EQ(refusal({{0, -1, 0, 0}}), "[link] row 0: " + needs);
  EXPECT_EQ(refusal({{0, 0, 61, 0}}), "[link] row 0: " + needs);
  EXPECT_EQ(refusal({{0, 0, 0.1, 0.2}}), "[link] row 0: " + needs);
  EXPECT_EQ(refusal({{0, 0, 0.2, 0.1}}), "");
}

}  // namespace
}  // namespace cleave::net
