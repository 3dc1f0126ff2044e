#pragma once

#include <cstdint>

namespace cleave::model {

/// Which text of a pair a token belongs to (BERT's token type) travels in the token's number: those
/// of the second text have this bit. It lies above every vocabulary (Vocabulary::most), and numbers
/// stay positive: −1 is padding, which belongs to neither text.
inline constexpr std::int32_t second_text = 1 << 30;

constexpr bool in_second_text(std::int64_t id) { return id >= 0 && (id & second_text) != 0; }
/// The number in the vocabulary; −1 stays.
constexpr std::int64_t token_of(std::int64_t id) {
  return id < 0 ? id : id & ~std::int64_t{second_text};
}

}  // namespace cleave::model
