#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "net/connection.hpp"

namespace cleave::net {

/// A peer that may talk but does not read: from when `stuck` is set, no write ends before close().
class StuckStream : public Stream {
 public:
  StuckStream(std::unique_ptr<Stream> inner, std::shared_ptr<const std::atomic<bool>> stuck)
      : inner_(std::move(inner)), stuck_(std::move(stuck)) {}
  asio::awaitable<Moved> read(std::span<const asio::mutable_buffer> into) override {
    return inner_->read(into);
  }
  asio::awaitable<Moved> write(std::span<const asio::const_buffer> from) override {
    if (*stuck_ && !closed_) {
      never_ = std::make_unique<asio::steady_timer>(co_await asio::this_coro::executor,
                                                    Clock::time_point::max());
      auto waiting = never_->async_wait(asio::as_tuple(asio::use_awaitable));
      co_await std::move(waiting);
      co_return Moved(asio::error::operation_aborted, 0);
    }
    auto writing = inner_->write(from);
    co_return co_await std::move(writing);
  }
  void shutdown() override { inner_->shutdown(); }
  void close() override {
    closed_ = true;
    if (never_) never_->cancel();
    inner_->close();
  }

 private:
  std::unique_ptr<Stream> inner_;
  std::shared_ptr<const std::atomic<bool>> stuck_;
  std::unique_ptr<asio::steady_timer> never_;
  bool closed_ = false;
};

}  // namespace cleave::net
