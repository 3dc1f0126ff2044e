#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "net/connection.hpp"

namespace cleave::net {

/// Where the kernel was told to read to and to write from.
class Record {
 public:
  void read_into(const void* p) {
    const std::lock_guard lock(mutex_);
    read_into_.insert(p);
  }
  void written_from(const void* p) {
    const std::lock_guard lock(mutex_);
    written_from_.insert(p);
  }
  void written(const void* p, std::size_t size) {
    const std::lock_guard lock(mutex_);
    const auto* bytes = static_cast<const std::byte*>(p);
    written_.insert(written_.end(), bytes, bytes + size);
  }
  /// All bytes written so far.
  std::vector<std::byte> written() const {
    const std::lock_guard lock(mutex_);
    return written_;
  }
  bool was_read_into(const void* p) const {
    const std::lock_guard lock(mutex_);
    return read_into_.count(p) > 0;
  }
  bool was_written_from(const void* p) const {
    const std::lock_guard lock(mutex_);
    return written_from_.count(p) > 0;
  }

 private:
  mutable std::mutex mutex_;
  std::set<const void*> read_into_, written_from_;
  std::vector<std::byte> written_;
};

/// Passes everything on; with `longest_write` in short pieces.
class RecordingStream : public Stream {
 public:
  RecordingStream(std::unique_ptr<Stream> inner, std::shared_ptr<Record> record,
                  std::size_t longest_write = 0)
      : inner_(std::move(inner)), record_(std::move(record)), longest_write_(longest_write) {}
  asio::awaitable<Moved> read(std::span<const asio::mutable_buffer> into) override {
    for (const auto& buffer : into)
      if (buffer.size() > 0) record_->read_into(buffer.data());
    return inner_->read(into);
  }
  asio::awaitable<Moved> write(std::span<const asio::const_buffer> from) override {
    for (const auto& buffer : from) record_->written_from(buffer.data());
    if (longest_write_ == 0) return noted(from);
    short_ = asio::buffer(from.front(), longest_write_);
    return noted(std::span(&short_, 1));
  }
  void shutdown() override { inner_->shutdown(); }
  void close() override { inner_->close(); }

 private:
  /// What was taken of it is written.
  asio::awaitable<Moved> noted(std::span<const asio::const_buffer> from) {
    auto writing = inner_->write(from);
    const auto moved = co_await std::move(writing);
    std::size_t left = moved.second;
    for (const auto& buffer : from) {
      const auto size = std::min(left, buffer.size());
      record_->written(buffer.data(), size);
      left -= size;
    }
    co_return moved;
  }

  std::unique_ptr<Stream> inner_;
  std::shared_ptr<Record> record_;
  std::size_t longest_write_;
  asio::const_buffer short_;
};

}  // namespace cleave::net
