#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace cleave::model {

using TokenId = std::int32_t;

/// Tokens and their numbers, both ways. Numbers may have holes.
class Vocabulary {
 public:
  /// More numbers than any model has: a hostile file asks for more.
  static constexpr TokenId most = 1 << 24;

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  /// Throws std::invalid_argument "token 'the': saw id 5 again, …" where the token or the number is
  /// taken, or the number is none of 0..most-1.
  void add(std::string token, TokenId id);
  std::optional<TokenId> find(std::string_view token) const;
  /// Empty for a hole.
  const std::string& token(TokenId id) const;
  /// Largest number + 1: what a model's embedding needs at least.
  TokenId size() const { return static_cast<TokenId>(tokens_.size()); }
  bool has(TokenId id) const {
    return id >= 0 && id < size() && taken_[static_cast<std::size_t>(id)];
  }

 private:
  std::deque<std::string> tokens_;  // by number; the map's keys point into it
  std::vector<bool> taken_;
  std::unordered_map<std::string_view, TokenId> ids_;
};

}  // namespace cleave::model
