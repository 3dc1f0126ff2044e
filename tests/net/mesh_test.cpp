#include "net/mesh.hpp"

#include <string>
#include <sys/resource.h>
#include <system_error>
#include <vector>

#include <gtest/gtest.h>

#include "tests/net/run_io.hpp"

namespace cleave::net {
namespace {

using namespace std::chrono_literals;

template <class Action>
std::string text_of_error(Action action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Address, Parses) {
  EXPECT_EQ(Address::parse("pi4.local:7101").host, "pi4.local");
  EXPECT_EQ(Address::parse("127.0.0.1:0").port, "0");
  EXPECT_EQ(Address::parse("[::1]:7101").host, "::1");
  for (const auto* text :
       {"", "host", ":7101", "host:", "host:port", "host:65536", "::1:7101", "h:1234567"})
    EXPECT_EQ(text_of_error([text] { Address::parse(text); }),
              "[address] saw '" + std::string(text) + "', needs host:port");
}

TEST(Backoff, DoublesWithJitterUpToItsCap) {
  Backoff backoff(1, 50ms, 2000ms);
  auto longest = 50ms;
  for (int i = 0; i < 20; ++i) {
    const auto pause = backoff.next();
    EXPECT_GE(pause, longest / 2);
    EXPECT_LE(pause, longest);
    longest = std::min(2000ms, longest * 2);
  }
  backoff.reset();
  EXPECT_LE(backoff.next(), 50ms);
  Backoff other(2, 50ms, 2000ms);
  Backoff same(2, 50ms, 2000ms);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(other.next(), same.next());
}

TEST(Listener, NeedsInsecureBeyondLoopback) {
  asio::io_context io;
  EXPECT_EQ(text_of_error([&io] { Listener(io, "0.0.0.0:0", false); }),
            "[listen] 0.0.0.0:0: saw an address beyond loopback, needs --insecure, because nothing "
            "protects it yet");
  EXPECT_TRUE(Listener(io, "0.0.0.0:0", true).is_exposed());
  EXPECT_FALSE(Listener(io, "127.0.0.2:0", false).is_exposed());
}

TEST(Listener, NamesTheAddressInUse) {
  asio::io_context io;
  const Listener first(io, "127.0.0.1:0", false);
  EXPECT_EQ(text_of_error([&] { Listener(io, first.address(), false); }),
            "[listen] " + first.address() + ": Address already in use");
  EXPECT_THROW(Listener(io, first.address(), false), std::system_error);
}

/// This process may open no more files, until this value goes.
struct NoMoreFiles {
  NoMoreFiles() {
    getrlimit(RLIMIT_NOFILE, &before);
    const rlimit none{0, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoMoreFiles() { setrlimit(RLIMIT_NOFILE, &before); }
  rlimit before = {};
};

asio::awaitable<void> connect_without_files(asio::io_context& io, Listener& listener,
                                            std::vector<std::string>& said, int& accepted) {
  asio::ip::tcp::socket socket(io, asio::ip::tcp::v4());
  const auto port = static_cast<std::uint16_t>(std::stoi(Address::parse(listener.address()).port));
  {
    const NoMoreFiles limit;
    socket.connect({asio::ip::make_address("127.0.0.1"), port});
    while (said.empty()) {
      auto sleeping = sleep_for(io, 5ms);
      co_await std::move(sleeping);
    }
    auto sleeping = sleep_for(io, 250ms);
    co_await std::move(sleeping);
    EXPECT_EQ(accepted, 0);
  }
  while (accepted == 0) {
    auto sleeping = sleep_for(io, 5ms);
    co_await std::move(sleeping);
  }
  listener.close();
}

TEST(Listener, SaysOnceThatThereAreNoMoreFilesAndGoesOn) {
  asio::io_context io;
  Listener listener(io, "127.0.0.1:0", false);
  std::vector<std::string> said;
  int accepted = 0;
  spawn(io,
        listener.run([&](const asio::ip::tcp::socket&) { ++accepted; },
                     [&](const std::string& why) { said.push_back(why); }),
        {});
  run_io(io, connect_without_files(io, listener, said, accepted));
  EXPECT_EQ(said, (std::vector<std::string>{"cannot accept: Too many open files"}));
}

/// Greets everybody with `answer`, then reads until they go.
struct Host {
  Host(asio::io_context& context, Message message) : io(context), answer(std::move(message)) {
    spawn(io, listener.run([this](asio::ip::tcp::socket socket) {
      spawn(io, serve(std::move(socket)), {});
    }),
          {});
  }
  asio::awaitable<void> serve(asio::ip::tcp::socket socket) {
    ++accepted;
    const auto connection =
        std::make_shared<Connection>(io, tcp_stream(std::move(socket)), ConnectionOptions{});
    connections.push_back(connection);
    auto receiving = connection->receive();
    auto received = co_await std::move(receiving);
    if (!received) co_return;
    hello = std::get<Hello>(received->message);
    connection->send(answer);
    while (connection->is_open()) {
      auto next = connection->receive();
      co_await std::move(next);
    }
  }
  asio::io_context& io;
  Message answer;
  Listener listener{io, "127.0.0.1:0", false};
  Hello hello;
  int accepted = 0;
  std::vector<std::shared_ptr<Connection>> connections;
};

Hello greeting() {
  Hello hello;
  hello.bundle = "b1";
  hello.device = "cam";
  return hello;
}

Welcome welcome(const std::string& device = "cam") {
  Welcome message;
  message.bundle = "b1";
  message.device = device;
  message.max_requests = 4;
  return message;
}

DialOptions options_for(const std::string& address) {
  DialOptions options;
  options.address = address;
  options.hello = greeting();
  options.handshake_timeout = 20s;
  return options;
}

Joined dial_once(asio::io_context& io, DialOptions options) {
  Joined result;
  const auto work = [](asio::io_context& context, DialOptions wanted,
                       Joined* out) -> asio::awaitable<void> {
    auto dialling = dial(context, std::move(wanted));
    *out = co_await std::move(dialling);
  };
  run_io(io, work(io, std::move(options), &result));
  return result;
}

TEST(Dial, JoinsAfterTheHandshake) {
  asio::io_context io;
  const Host host(io, welcome());
  const auto joined = dial_once(io, options_for(host.listener.address()));
  ASSERT_TRUE(joined.connection) << joined.error;
  EXPECT_EQ(joined.welcome.max_requests, 4u);
  EXPECT_EQ(host.hello.device, "cam");
  EXPECT_TRUE(joined.connection->is_open());
}

TEST(Dial, SaysWhyNot) {
  asio::io_context io;
  std::string free_address;
  {
    const Listener gone(io, "127.0.0.1:0", false);
    free_address = gone.address();
  }
  EXPECT_EQ(dial_once(io, options_for(free_address)).error, "Connection refused");
  Refused refused;
  refused.text = "device: saw 'cam', needs 'hub'";
  const Host refusing(io, refused);
  EXPECT_EQ(dial_once(io, options_for(refusing.listener.address())).error,
            "refused: device: saw 'cam', needs 'hub'");
  const Host other(io, welcome("hub"));
  EXPECT_EQ(dial_once(io, options_for(other.listener.address())).error,
            "handshake: device: saw 'hub', needs 'cam'");
  auto another = welcome();
  another.bundle = "b2";
  const Host changed(io, another);
  EXPECT_EQ(dial_once(io, options_for(changed.listener.address())).error,
            "handshake: bundle: saw 'b2', needs 'b1'");
  const Host odd(io, Bye{});
  EXPECT_EQ(dial_once(io, options_for(odd.listener.address())).error,
            "handshake: message: of a kind that does not belong here");
}

TEST(Dial, DoesNotWaitForASilentListener) {
  asio::io_context io;
  const Listener silent(io, "127.0.0.1:0", false);  // accepts in the kernel, says nothing
  auto options = options_for(silent.address());
  options.handshake_timeout = 50ms;
  EXPECT_EQ(dial_once(io, options).error, "handshake: the deadline has passed");
}

TEST(Dial, GivesUpConnectingInTime) {
  asio::io_context io;
  auto options = options_for("192.0.2.1:9");  // TEST-NET: nobody is there
  options.connect_timeout = 50ms;
  const auto start = Clock::now();
  const auto joined = dial_once(io, options);
  EXPECT_FALSE(joined.connection);
  EXPECT_FALSE(joined.error.empty());
  EXPECT_LT(Clock::now() - start, 20s);
}

asio::awaitable<void> read_all(std::shared_ptr<Connection> connection) {
  while (connection->is_open()) {
    auto receiving = connection->receive();
    co_await std::move(receiving);
  }
}

asio::awaitable<void> wait_for_round_trip(asio::io_context& io,
                                          std::shared_ptr<Connection> connection) {
  while (connection->is_open() && connection->round_trip().count() == 0) {
    auto sleeping = sleep_for(io, 5ms);
    co_await std::move(sleeping);
  }
  EXPECT_TRUE(connection->is_open());
}

/// What the connection of a dial says to a value that the listener sends behind its welcome.
asio::awaitable<void> receive_value(std::shared_ptr<Connection> from,
                                    std::shared_ptr<Connection> to) {
  ValueMessage value;
  value.tensor.dims = {4096};
  const std::vector<float> numbers(4096, 1.0f);
  value.tensor.data = Buffer::copy_of(numbers.data(), numbers.size() * sizeof(float));
  from->send(value);
  auto receiving = to->receive();
  const auto received = co_await std::move(receiving);
  EXPECT_TRUE(received.has_value()) << received.error().message();
}

TEST(Dial, TakesTensorsOnceItIsJoined) {
  asio::io_context io;
  Host host(io, welcome());
  const auto joined = dial_once(io, options_for(host.listener.address()));
  ASSERT_TRUE(joined.connection) << joined.error;
  run_io(io, receive_value(host.connections.back(), joined.connection));
}

TEST(Dial, TakesNoTensorInsteadOfAWelcome) {
  asio::io_context io;
  ValueMessage value;
  value.tensor.dims = {1};
  const float number = 1;
  value.tensor.data = Buffer::copy_of(&number, sizeof number);
  const Host host(io, value);
  EXPECT_EQ(dial_once(io, options_for(host.listener.address())).error,
            "handshake: frame: payload length over the limit");
}

TEST(Dial, WatchesOverWhoIsJoined) {
  asio::io_context io;
  Host host(io, welcome());
  auto options = options_for(host.listener.address());
  options.connection.ping_interval = 10ms;
  const auto joined = dial_once(io, std::move(options));
  ASSERT_TRUE(joined.connection) << joined.error;
  spawn(io, read_all(joined.connection), {});
  // Its pings come back, and nothing else was said.
  run_io(io, wait_for_round_trip(io, joined.connection));
  joined.connection->close(Errc::closed);
}

asio::awaitable<void> wait_for(asio::io_context& io, const int& count, int wanted) {
  while (count < wanted) {
    auto sleeping = sleep_for(io, 5ms);
    co_await std::move(sleeping);
  }
}

TEST(Dialer, JoinsAListenerThatComesLaterAndAgainAfterALoss) {
  asio::io_context io;
  Host host(io, welcome());
  int joined = 0, lost = 0;
  Dialer::Events events;
  events.joined = [&joined](const Welcome&) { ++joined; };
  events.lost = [&lost](const std::string&) { ++lost; };
  const auto dialer = std::make_shared<Dialer>(io, options_for(host.listener.address()), events, 1);
  dialer->start();
  run_io(io, wait_for(io, joined, 1));
  EXPECT_TRUE(dialer->connection());
  host.connections.back()->close(Errc::closed);
  run_io(io, wait_for(io, lost, 1));
  EXPECT_FALSE(dialer->connection());
  run_io(io, wait_for(io, joined, 2));
  EXPECT_EQ(host.accepted, 2);
  dialer->stop();
  run_io(io, wait_for(io, lost, 2));
  run_io(io, sleep_for(io, 100ms));
  EXPECT_EQ(joined, 2);
}

TEST(Dialer, KeepsTryingAndReports) {
  asio::io_context io;
  Refused refused;
  refused.text = "no";
  const Host host(io, refused);
  int failed = 0;
  Dialer::Events events;
  events.failed = [&failed](const std::string& why) {
    EXPECT_EQ(why, "refused: no");
    ++failed;
  };
  const auto dialer = std::make_shared<Dialer>(io, options_for(host.listener.address()), events, 1);
  dialer->start();
  run_io(io, wait_for(io, failed, 3));
  dialer->stop();
}

}  // namespace
}  // namespace cleave::net
