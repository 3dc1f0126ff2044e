#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include "base/log.hpp"
#include "infer/lot.hpp"
#include "net/mesh.hpp"

namespace cleave::infer {

/// One agent's connections to the other agents of its bundle, one for each pair whatever the plans:
/// of two devices the one whose name comes first dials, with back-off, the address that an
/// aggregator named; both keep the link whatever becomes of the aggregator. All calls on the I/O
/// thread.
class Links {
 public:
  struct Events {
    /// A value from that device.
    std::function<void(const std::string& device, net::ValueMessage, const Arrival&)> value;
    std::function<void(const std::string& device, const std::string& why)> lost;
    base::Log log;
  };
  Links(boost::asio::io_context& io, std::string device, std::string identity, net::StreamWrap wrap,
        std::string from, Events events);
  ~Links();

  /// Devices of the bundle, which may link to this one.
  void know(const std::vector<std::string>& devices);
  /// Dials those that come later where they are said to be; who is linked stays. Those that are not
  /// known are left out.
  void dial(const net::Routes& routes);
  /// The device that greets, which dials because it comes first. Throws std::invalid_argument where
  /// it is none.
  std::string greeted(const net::Hello& hello) const;
  /// Serves an accepted link until it ends, and takes the place of one that was there before.
  /// Returns why it ended.
  boost::asio::awaitable<std::string> attend(std::string device,
                                             std::shared_ptr<net::Connection> connection);

  /// As Connection::send(); 0: there is no link.
  std::uint64_t send(const std::string& device, const net::ValueMessage& message,
                     std::shared_ptr<const void> until_written = {});
  /// Those of `devices` without a link, and why where one was tried: "'cam' at 127.0.0.1:7103
  /// (Connection refused)". Empty where there are all.
  std::string missing(const std::set<std::string>& devices) const;
  void stop();

 private:
  struct Link {
    std::shared_ptr<net::Dialer> dialer;          // where we dial
    std::shared_ptr<net::Connection> connection;  // null: no link
    std::string address, error;
  };
  void dial(const std::string& device, const std::string& address);
  void take(const std::string& device, net::Connection::Received received);
  void lose(const std::string& device, const std::string& why);
  void notice(const std::string& device, const std::string& text) const;

  boost::asio::io_context& io_;
  std::string device_, identity_;
  net::StreamWrap wrap_;
  std::string from_;
  Events events_;
  std::map<std::string, Link> links_;  // of all known devices
};

}  // namespace cleave::infer
