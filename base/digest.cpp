#include "base/digest.hpp"

#include <array>
#include <stdexcept>
#include <vector>

#include <openssl/evp.h>

#include "base/descriptor.hpp"

namespace cleave::base {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (!state_->context || EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("[sha256] cannot start: this OpenSSL does not offer SHA-256");
  }
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;

void Sha256::update(const void* data, std::size_t size) {
  if (EVP_DigestUpdate(state_->context, data, size) != 1) {
    throw std::runtime_error("[sha256] cannot update: OpenSSL refused the bytes");
  }
}

std::string Sha256::finish() {
  std::array<unsigned char, 32> digest{};
  if (EVP_DigestFinal_ex(state_->context, digest.data(), nullptr) != 1) {
    throw std::runtime_error("[sha256] cannot finish: OpenSSL refused");
  }
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * digest.size());
  for (const unsigned char byte : digest) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.finish();
}

std::string sha256_file(const std::filesystem::path& path) {
  struct stat status {};
  const Descriptor file = open_to_read(path, "read", status);
  std::vector<std::byte> piece(std::size_t{1} << 18);
  Sha256 hash;
  while (const std::size_t count = read_some(file, path, piece.data(), piece.size())) {
    hash.update(piece.data(), count);
  }
  return hash.finish();
}

}  // namespace cleave::base
