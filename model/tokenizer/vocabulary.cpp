#include "model/tokenizer/vocabulary.hpp"

#include <stdexcept>
#include <utility>

namespace cleave::model {

void Vocabulary::add(std::string token, TokenId id) {
  const auto refuse = [&](const std::string& what) {
    throw std::invalid_argument("token '" + token + "': " + what);
  };
  if (id < 0 || id >= most)
    refuse("saw id " + std::to_string(id) + ", needs 0.." + std::to_string(most - 1));
  if (has(id)) refuse("saw id " + std::to_string(id) + ", which '" + this->token(id) + "' has");
  if (const auto other = find(token))
    refuse("saw id " + std::to_string(id) + ", it has " + std::to_string(*other) + " already");
  const auto index = static_cast<std::size_t>(id);
  if (index >= tokens_.size()) {
    tokens_.resize(index + 1);
    taken_.resize(index + 1);
  }
  tokens_[index] = std::move(token);
  taken_[index] = true;
  ids_.emplace(tokens_[index], id);
}

std::optional<TokenId> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string& Vocabulary::token(TokenId id) const {
  static const std::string none;
  return has(id) ? tokens_[static_cast<std::size_t>(id)] : none;
}

}  // namespace cleave::model
