#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace cleave::testing {

/// What happens to the bytes that go one way. Bytes are numbered from 0 since it was set, over all
/// connections, so that what is to happen once does so once.
struct Mischief {
  /// Each piece (16 KiB at most) goes on so much later, and the next one is read after it.
  std::chrono::milliseconds delay{0};
  /// Bytes are read and go nowhere.
  bool swallows = false;
  /// 0: as fast as they go.
  std::size_t bytes_per_ms = 0;
  /// One bit of this byte is turned round.
  std::optional<std::uint64_t> flip_at;
  /// The same for each byte with this probability.
  double flip_probability = 0;
  /// Both ends are closed after so many bytes.
  std::optional<std::uint64_t> cut_after;
  /// The same before each byte with this probability.
  double cut_probability = 0;
  /// The receiver is told that nothing follows after so many bytes; the other way stays open.
  std::optional<std::uint64_t> end_after;
};

/// A TCP proxy on loopback that misbehaves as it is told, on a thread of its own. What it does
/// depends on the bytes and on the seed, not on how they are cut into pieces.
class Proxy {
 public:
  /// To whom the bytes go: to `target`, or to those who connected to the proxy.
  enum class Way { forth, back };
  struct Counts {
    std::uint64_t connections = 0, open = 0;
    /// Of both ways, since the beginning.
    std::uint64_t passed_bytes = 0, swallowed_bytes = 0, flipped_bits = 0, cuts = 0, writes = 0;
  };

  /// In front of `target` ("127.0.0.1:port"), which need not be there yet: who connects while it is
  /// away is closed at once.
  explicit Proxy(const std::string& target, std::uint64_t seed = 1);
  /// Closes all connections.
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  const std::string& address() const;
  /// For connections that are there and those to come; bytes that are read after it.
  void set(Way way, const Mischief& mischief);
  /// Closes all connections; new ones are welcome.
  void cut();
  Counts counts() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace cleave::testing
