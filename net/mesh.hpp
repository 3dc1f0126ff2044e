#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "net/connection.hpp"

namespace cleave::net {

/// "host:port", "[::1]:7101". Throws std::invalid_argument "[address] saw 'x', needs host:port".
struct Address {
  std::string host;
  std::string port;
  static Address parse(const std::string& text);
};
std::string to_text(const asio::ip::tcp::endpoint& endpoint);
/// Where the other end is.
std::string host_of(const asio::ip::tcp::socket& socket);

/// How long to wait before dialling again: doubles up to `cap`, jittered down to half, so that many
/// who lost the same peer do not come back together.
class Backoff {
 public:
  explicit Backoff(std::uint64_t seed,
                   std::chrono::milliseconds first = std::chrono::milliseconds(50),
                   std::chrono::milliseconds cap = std::chrono::milliseconds(2000));
  std::chrono::milliseconds next();
  void reset() { current_ = first_; }

 private:
  std::chrono::milliseconds first_, cap_, current_;
  std::minstd_rand random_;
};

/// A listening socket. Throws std::invalid_argument where `address` is beyond loopback and
/// `insecure` is not set ("[listen] 0.0.0.0:7101: …"), std::system_error "[listen] 127.0.0.1:7101:
/// Address already in use" where it cannot be bound.
class Listener {
 public:
  Listener(asio::io_context& io, const std::string& address, bool insecure);
  /// With the port that was bound.
  const std::string& address() const { return address_; }
  /// The address can be reached from other machines, and nothing protects it.
  bool is_exposed() const { return exposed_; }
  /// Calls `accepted` for each connection until close(). A failed accept (no more files) is tried
  /// again a little later; `failed` hears of the first of several in a row ("cannot accept: Too
  /// many open files").
  asio::awaitable<void> run(std::function<void(asio::ip::tcp::socket)> accepted,
                            std::function<void(const std::string&)> failed = {});
  void close();

 private:
  asio::io_context& io_;
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  std::string address_;
  bool exposed_ = false;
};

/// How the dialling side greets. Every step has its deadline.
struct DialOptions {
  std::string address;
  /// The host to dial from; empty: whichever the system takes.
  std::string from;
  Hello hello;
  ConnectionOptions connection;
  StreamWrap wrap;
  std::chrono::milliseconds connect_timeout{3000};
  std::chrono::milliseconds handshake_timeout{5000};
};

/// A connection whose handshake is done, or why there is none ("Connection refused", the text of a
/// refusal).
struct Joined {
  std::shared_ptr<Connection> connection;
  Welcome welcome;
  std::string error;
};
/// Connects and greets once.
asio::awaitable<Joined> dial(asio::io_context& io, DialOptions options);

/// Keeps one peer joined: dials with back-off, for ever, and hands on what it says. All calls on
/// the I/O thread.
class Dialer : public std::enable_shared_from_this<Dialer> {
 public:
  struct Events {
    std::function<void(const Welcome&)> joined;
    std::function<void(Connection::Received)> message;
    /// A joined connection ended.
    std::function<void(const std::string& why)> lost;
    /// An attempt failed.
    std::function<void(const std::string& why)> failed;
  };
  Dialer(asio::io_context& io, DialOptions options, Events events, std::uint64_t seed);
  void start();
  void stop();
  /// Null unless joined.
  const std::shared_ptr<Connection>& connection() const { return connection_; }

 private:
  asio::awaitable<void> run();
  asio::awaitable<void> attend(Joined joined);

  asio::io_context& io_;
  DialOptions options_;
  Events events_;
  Backoff backoff_;
  asio::steady_timer pause_;
  std::shared_ptr<Connection> connection_;
  bool stopped_ = false;
};

}  // namespace cleave::net
