#pragma once

#include <chrono>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <gtest/gtest.h>

#include "net/connection.hpp"

namespace cleave::net {

constexpr auto no_throw = asio::as_tuple(asio::use_awaitable);

/// Runs one coroutine, and what it starts, until it is done; a test that hangs fails after ten
/// seconds.
inline void run_io(asio::io_context& io, asio::awaitable<void> work) {
  bool done = false;
  const auto finish = [](asio::awaitable<void> inner, bool* flag) -> asio::awaitable<void> {
    co_await std::move(inner);
    *flag = true;
  };
  spawn(io, finish(std::move(work), &done),
        [](const std::string& text) { ADD_FAILURE() << "exception: " << text; });
  const auto end = Clock::now() + std::chrono::seconds(60);
  while (!done && Clock::now() < end) {
    io.run_one_for(std::chrono::milliseconds(100));
    io.restart();
  }
  EXPECT_TRUE(done) << "the coroutine hangs";
}

inline asio::awaitable<void> sleep_for(asio::io_context& io, std::chrono::milliseconds time) {
  asio::steady_timer timer(io, time);
  auto waiting = timer.async_wait(no_throw);
  co_await std::move(waiting);
}

/// Two ends of a TCP connection on loopback.
inline std::pair<asio::ip::tcp::socket, asio::ip::tcp::socket> socket_pair(asio::io_context& io) {
  using asio::ip::tcp;
  tcp::acceptor acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  tcp::socket near(io);
  near.connect(acceptor.local_endpoint());
  return {std::move(near), acceptor.accept()};
}

}  // namespace cleave::net
