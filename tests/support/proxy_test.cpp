#include "tests/support/proxy.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <functional>
#include <memory>
#include <mutex>
#include <poll.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>

#include "net/mesh.hpp"

namespace cleave::testing {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using namespace std::chrono_literals;
using Way = Proxy::Way;

/// Says what it hears, each connection on a thread of its own.
class Echo {
 public:
  Echo() {
    thread_ = std::thread([this] {
      while (true) {
        tcp::socket socket(io_);
        error_code error;
        acceptor_.accept(socket, error);
        if (error || stopping_) return;
        talks_.emplace_back([this, talking = std::move(socket)]() mutable { talk(talking); });
      }
    });
  }
  /// After its clients are gone.
  ~Echo() {
    stopping_ = true;
    tcp::socket(io_).connect(acceptor_.local_endpoint());
    thread_.join();
    for (auto& talk : talks_) talk.join();
  }
  std::string address() const { return net::to_text(acceptor_.local_endpoint()); }
  std::string heard() const {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  void talk(tcp::socket& socket) {
    std::array<char, 4096> piece;
    error_code error;
    while (true) {
      const auto count = socket.read_some(asio::buffer(piece), error);
      if (error) return;
      {
        const std::lock_guard lock(mutex_);
        heard_.append(piece.data(), count);
      }
      asio::write(socket, asio::buffer(piece, count), error);
    }
  }
  asio::io_context io_;
  tcp::acceptor acceptor_{io_, tcp::endpoint(asio::ip::address_v4::loopback(), 0)};
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::string heard_;
  std::thread thread_;
  std::vector<std::thread> talks_;
};

/// A client that blocks; what would take a minute fails.
class Caller {
 public:
  explicit Caller(const std::string& address) {
    const auto parsed = net::Address::parse(address);
    socket_.connect(
        {asio::ip::make_address(parsed.host), static_cast<std::uint16_t>(std::stoi(parsed.port))});
  }
  void say(const std::string& text) {
    error_code ignored;  // it may be closed; hearing tells
    asio::write(socket_, asio::buffer(text), ignored);
  }
  /// So many bytes, or fewer where the end comes first.
  std::string hear(std::size_t count) {
    std::string text;
    while (text.size() < count && is_readable(60s)) {
      std::array<char, 4096> piece;
      const auto size = socket_.read_some(
          asio::buffer(piece.data(), std::min(piece.size(), count - text.size())), error_);
      if (error_) return text;
      text.append(piece.data(), size);
    }
    return text;
  }
  bool hears_the_end() { return hear(1).empty() && error_; }
  bool is_readable(std::chrono::milliseconds timeout) {
    pollfd ready{socket_.native_handle(), POLLIN, 0};
    return poll(&ready, 1, static_cast<int>(timeout.count())) > 0;
  }

 private:
  asio::io_context io_;
  tcp::socket socket_{io_};
  error_code error_;
};

std::string text_of(std::size_t size) {
  std::string text(size, ' ');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23);
  return text;
}

/// Where two texts of one length differ, each time by one bit.
std::vector<std::size_t> flipped(const std::string& sent, const std::string& received) {
  EXPECT_EQ(sent.size(), received.size());
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < std::min(sent.size(), received.size()); ++i) {
    if (sent[i] == received[i]) continue;
    places.push_back(i);
    EXPECT_EQ(std::bitset<8>(static_cast<unsigned char>(sent[i] ^ received[i])).count(), 1u) << i;
  }
  return places;
}

bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 10000 && !condition(); ++i) std::this_thread::sleep_for(1ms);
  return condition();
}

/// What comes back of `sent` through a proxy that behaves so on the way back.
std::string echoed(const std::string& sent, const Mischief& mischief, std::uint64_t seed = 1) {
  Echo echo;
  Proxy proxy(echo.address(), seed);
  proxy.set(Way::back, mischief);
  Caller caller(proxy.address());
  caller.say(sent);
  return caller.hear(sent.size());
}

TEST(Proxy, PassesWhatItIsGivenBothWays) {
  const auto text = text_of(100'000);
  Echo echo;
  Proxy proxy(echo.address());
  Caller one(proxy.address()), other(proxy.address());
  std::thread saying([&] { one.say(text); });
  EXPECT_EQ(one.hear(text.size()), text);
  saying.join();
  other.say("other");
  EXPECT_EQ(other.hear(5), "other");
  EXPECT_EQ(proxy.counts().connections, 2u);
  EXPECT_EQ(proxy.counts().open, 2u);
  // Bytes are counted after they are written: who hears them may be earlier.
  EXPECT_TRUE(eventually([&] { return proxy.counts().passed_bytes >= 2 * text.size() + 10; }));
  EXPECT_EQ(proxy.counts().passed_bytes, 2 * text.size() + 10);
}

TEST(Proxy, ClosesTogetherWithEitherEnd) {
  Echo echo;
  Proxy proxy(echo.address());
  {
    Caller caller(proxy.address());
    caller.say("a");
    EXPECT_EQ(caller.hear(1), "a");
  }
  EXPECT_TRUE(eventually([&] { return proxy.counts().open == 0; }));
}

TEST(Proxy, ClosesWhoConnectsWhileTheTargetIsAway) {
  std::string nobody;
  {
    asio::io_context io;
    nobody = net::Listener(io, "127.0.0.1:0", false).address();
  }
  Proxy proxy(nobody);
  EXPECT_TRUE(Caller(proxy.address()).hears_the_end());
  EXPECT_EQ(proxy.counts().connections, 0u);
}

TEST(Proxy, DelaysWithoutChangingTheOrder) {
  Mischief slow;
  slow.delay = 3ms;
  const auto text = text_of(50'000);
  EXPECT_EQ(echoed(text, slow), text);
}

TEST(Proxy, HoldsBackWhatIsDelayed) {
  Echo echo;
  Proxy proxy(echo.address());
  Mischief slow;
  slow.delay = 1h;
  proxy.set(Way::back, slow);
  Caller caller(proxy.address());
  caller.say("abc");
  EXPECT_TRUE(eventually([&] { return echo.heard() == "abc"; }));
  EXPECT_FALSE(caller.is_readable(50ms));
}

TEST(Proxy, SwallowsUntilItIsToldOtherwise) {
  for (const auto way : {Way::forth, Way::back}) {
    Echo echo;
    Proxy proxy(echo.address());
    Mischief hole;
    hole.swallows = true;
    proxy.set(way, hole);
    Caller caller(proxy.address());
    caller.say("lost");
    EXPECT_TRUE(eventually([&] { return proxy.counts().swallowed_bytes == 4; }));
    proxy.set(way, {});
    caller.say("kept");
    EXPECT_EQ(caller.hear(4), "kept");
    EXPECT_EQ(echo.heard(), way == Way::forth ? "kept" : "lostkept");
  }
}

TEST(Proxy, CutsAfterSoManyBytesOnce) {
  Echo echo;
  Proxy proxy(echo.address());
  Mischief cutting;
  cutting.cut_after = 7;
  proxy.set(Way::back, cutting);
  {
    Caller caller(proxy.address());
    caller.say("0123");
    EXPECT_EQ(caller.hear(4), "0123");
    caller.say("456789");
    EXPECT_EQ(caller.hear(10), "456");
    EXPECT_TRUE(caller.hears_the_end());
  }
  Caller next(proxy.address());
  next.say("0123456789");
  EXPECT_EQ(next.hear(10), "0123456789");
  EXPECT_EQ(proxy.counts().cuts, 1u);
}

TEST(Proxy, CutsAtRandomBySeed) {
  const auto text = text_of(30'000);
  Mischief cutting;
  cutting.cut_probability = 0.001;
  const auto first = echoed(text, cutting, 1);
  EXPECT_LT(first.size(), text.size());
  EXPECT_EQ(first, text.substr(0, first.size()));
  EXPECT_EQ(echoed(text, cutting, 1).size(), first.size());
  EXPECT_NE(echoed(text, cutting, 2).size(), first.size());
}

TEST(Proxy, CutsWhenItIsTold) {
  Echo echo;
  Proxy proxy(echo.address());
  Caller caller(proxy.address());
  caller.say("a");
  EXPECT_EQ(caller.hear(1), "a");
  proxy.cut();
  EXPECT_TRUE(caller.hears_the_end());
  Caller next(proxy.address());
  next.say("b");
  EXPECT_EQ(next.hear(1), "b");
}

TEST(Proxy, FlipsOneBitOfOneByteOnce) {
  Echo echo;
  Proxy proxy(echo.address());
  Caller caller(proxy.address());
  const auto text = text_of(100);
  caller.say(text);
  EXPECT_EQ(caller.hear(100), text);
  Mischief flipping;
  flipping.flip_at = 130;  // from now on
  proxy.set(Way::forth, flipping);
  caller.say(text);
  EXPECT_EQ(caller.hear(100), text);
  caller.say(text);
  EXPECT_EQ(flipped(text, caller.hear(100)), std::vector<std::size_t>{30});
  caller.say(text);
  EXPECT_EQ(caller.hear(100), text);
  EXPECT_EQ(proxy.counts().flipped_bits, 1u);
}

TEST(Proxy, FlipsBitsAtRandomBySeed) {
  const auto text = text_of(30'000);
  Mischief flipping;
  flipping.flip_probability = 0.01;
  const auto first = echoed(text, flipping, 1);
  const auto places = flipped(text, first);
  EXPECT_GT(places.size(), 200u);
  EXPECT_LT(places.size(), 400u);
  EXPECT_EQ(echoed(text, flipping, 1), first);
  EXPECT_NE(echoed(text, flipping, 2), first);
  flipping.flip_probability = 1;
  EXPECT_EQ(flipped("abc", echoed("abc", flipping)).size(), 3u);
}

TEST(Proxy, TricklesAllOfItInSmallPieces) {
  Echo echo;
  Proxy proxy(echo.address());
  Mischief trickle;
  trickle.bytes_per_ms = 10;
  proxy.set(Way::forth, trickle);
  Caller caller(proxy.address());
  const auto text = text_of(1000);
  caller.say(text);
  EXPECT_EQ(caller.hear(1000), text);
  EXPECT_TRUE(eventually([&] { return proxy.counts().writes >= 100; }));
}

TEST(Proxy, StopsToTrickleWhenItIsTold) {
  Echo echo;
  Proxy proxy(echo.address());
  Mischief trickle;
  trickle.bytes_per_ms = 1;
  proxy.set(Way::forth, trickle);
  Caller caller(proxy.address());
  const auto text = text_of(10'000'000);  // hours
  std::thread saying([&] { caller.say(text); });
  EXPECT_EQ(caller.hear(1), text.substr(0, 1));
  proxy.set(Way::forth, {});
  EXPECT_EQ(caller.hear(text.size() - 1), text.substr(1));
  saying.join();
}

TEST(Proxy, EndsOneWayAndKeepsTheOther) {
  Echo echo;
  Proxy proxy(echo.address());
  Mischief ending;
  ending.end_after = 3;
  proxy.set(Way::back, ending);
  Caller caller(proxy.address());
  caller.say("abcde");
  EXPECT_EQ(caller.hear(5), "abc");
  EXPECT_TRUE(caller.hears_the_end());
  caller.say("fgh");
  EXPECT_TRUE(eventually([&] { return echo.heard() == "abcdefgh"; }));
  EXPECT_EQ(proxy.counts().open, 1u);
}

TEST(Proxy, EndsTheWayToTheTarget) {
  Echo echo;
  Proxy proxy(echo.address());
  Mischief ending;
  ending.end_after = 3;
  proxy.set(Way::forth, ending);
  Caller caller(proxy.address());
  caller.say("abcde");
  EXPECT_EQ(caller.hear(5), "abc");  // and then the echo ends too
  EXPECT_TRUE(caller.hears_the_end());
  EXPECT_EQ(echo.heard(), "abc");
}

TEST(Proxy, ClosesEverythingAtItsEnd) {
  Echo echo;
  auto proxy = std::make_unique<Proxy>(echo.address());
  Caller caller(proxy->address());
  caller.say("a");
  EXPECT_EQ(caller.hear(1), "a");
  Mischief slow;
  slow.delay = 1h;
  proxy->set(Way::forth, slow);
  caller.say("b");
  proxy.reset();
  EXPECT_TRUE(caller.hears_the_end());
}

}  // namespace
}  // namespace cleave::testing
