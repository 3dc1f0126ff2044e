#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include "base/log.hpp"
#include "net/mesh.hpp"

namespace cleave::infer {

/// The listening end of an agent or a server: takes connections, hears each one's greeting in time,
/// and refuses it in words or hands it on. All calls on the I/O thread; its coroutines keep it
/// alive, and with it what its hooks hold.
class Host : public std::enable_shared_from_this<Host> {
 public:
  struct Hooks {
    /// Of a new connection; its limits are a greeting's until attend() sets others.
    std::function<net::ConnectionOptions()> settings;
    /// Why whoever greets like this is not welcome; empty: it is.
    std::function<std::string(const net::Hello&)> objection;
    /// The connection's life after its greeting, which is still to be answered. `peer`:
    /// "host:port".
    std::function<boost::asio::awaitable<void>(std::shared_ptr<net::Connection>, std::string peer,
                                               net::Hello)>
        attend;
  };
  struct Options {
    std::string listen;
    bool insecure = false;
    /// In front of a refusal: "agent 'cam': ".
    std::string name;
    /// At once, those that have not greeted too; one more is closed unheard. 0: any number.
    std::size_t most_connections = 0;
    net::StreamWrap wrap_stream;
    base::Log log;
  };
  /// Listens. Throws as net::Listener does.
  Host(boost::asio::io_context& io, Options options, Hooks hooks);

  const std::string& address() const { return listener_.address(); }
  /// Takes connections until close(); says first where everybody can reach it.
  void run();
  void close() { listener_.close(); }
  /// Answers a greeting with `text` and closes the connection behind it.
  boost::asio::awaitable<void> refuse(std::shared_ptr<net::Connection> connection, std::string peer,
                                      std::string text);
  /// Says goodbye and waits a moment (2 s) until it is read.
  void part_from(net::Connection& connection);
  static constexpr std::chrono::seconds longest_parting{2};

 private:
  class Counted;
  void accept(boost::asio::ip::tcp::socket socket);
  boost::asio::awaitable<void> serve(std::shared_ptr<net::Connection> connection, std::string peer);
  void notice(const std::string& line) const;

  boost::asio::io_context& io_;
  Options options_;
  Hooks hooks_;
  net::Listener listener_;
  std::size_t connections_ = 0;
  bool crowded_ = false;  // the last one was refused
};

}  // namespace cleave::infer
