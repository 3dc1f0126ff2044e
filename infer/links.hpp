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
#include "net/mesh.hpp"
#include "optimizer/plan/plan.hpp"

namespace cleave::infer {

/// One agent's connections to the other agents of its plan, one for each pair: the lower rank
/// dials, with back-off, the address that an aggregator named; both keep the link whatever becomes
/// of the aggregator. All calls on the I/O thread.
class Links {
 public:
  struct Events {
    /// A value from the agent of that rank.
    std::function<void(std::int32_t rank, net::ValueMessage)> value;
    std::function<void(std::int32_t rank, const std::string& why)> lost;
    base::Log log;
  };
  /// `peers`: the ranks that its programs send to and receive from.
  Links(boost::asio::io_context& io, const plan::Plan& plan, std::int32_t rank,
        std::set<std::int32_t> peers, std::string identity, net::StreamWrap wrap, Events events);
  ~Links();

  /// Dials those of a higher rank where they are said to be; who is linked stays.
  void dial(const net::Routes& routes);
  /// The rank of a peer that greets, which dials because it is lower. Throws std::invalid_argument
  /// where it is none.
  std::int32_t rank_of(const net::Hello& hello) const;
  /// Serves an accepted link until it ends, and takes the place of one that was there before.
  /// Returns why it ended.
  boost::asio::awaitable<std::string> attend(std::int32_t rank,
                                             std::shared_ptr<net::Connection> connection);

  /// False: there is no link.
  bool send(std::int32_t rank, const net::ValueMessage& message);
  bool complete() const;
  /// Peers without a link, and why where one was tried: "'cam' at 127.0.0.1:7103 (Connection
  /// refused)".
  std::string missing() const;
  void stop();

 private:
  struct Link {
    std::shared_ptr<net::Dialer> dialer;          // where we dial
    std::shared_ptr<net::Connection> connection;  // null: no link
    std::string address, error;
  };
  void take(std::int32_t rank, net::Connection::Received received);
  void lose(std::int32_t rank, const std::string& why);
  const std::string& device(std::int32_t rank) const;
  void notice(std::int32_t rank, const std::string& text) const;

  boost::asio::io_context& io_;
  std::vector<std::string> devices_;
  std::string plan_, identity_;
  std::int32_t rank_;
  net::StreamWrap wrap_;
  Events events_;
  std::map<std::int32_t, Link> links_;  // of all peers
};

}  // namespace cleave::infer
