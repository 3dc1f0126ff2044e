#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace cleave::base {

/// SHA-256 fed piece by piece (OpenSSL).
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  void update(const void* data, std::size_t size);
  /// 64 lower-case hexadecimal digits. Call once.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Of a text.
std::string sha256(std::string_view bytes);
/// Of a file, read piecewise. Throws std::runtime_error as read_text does.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace cleave::base
