#include "model/tokenizer/tokenizer.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "model/tokenizer/segment.hpp"
#include "model/tokenizer/unicode.hpp"

namespace cleave::model {
namespace {

std::size_t byte_at(std::string_view text, std::size_t position) {
  return static_cast<unsigned char>(text[position]);
}

/// Where the white space that ends at `end` begins.
std::size_t without_space_before(std::string_view text, std::size_t begin, std::size_t end) {
  while (end > begin) {
    std::size_t start = end - 1;
    while (start > begin && (byte_at(text, start) & 0xC0) == 0x80) --start;
    std::size_t next = start;
    if (!is_white_space(next_code_point(text, next))) break;
    end = start;
  }
  return end;
}

/// Where the white space that begins at `begin` ends.
std::size_t behind_space(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    std::size_t next = begin;
    if (!is_white_space(next_code_point(text, next))) break;
    begin = next;
  }
  return begin;
}

/// Cuts two texts until both together have `room` tokens: the longer one to what the shorter one
/// leaves, where that is as much as the shorter one has; else each to a half. The odd one is left
/// to the longer text, of two alike to the second.
void shorten(std::vector<TokenId>& first, std::vector<TokenId>& second, std::size_t room) {
  if (first.size() + second.size() <= room) return;
  auto& longer = first.size() > second.size() ? first : second;
  auto& shorter = first.size() > second.size() ? second : first;
  shorter.resize(std::min(shorter.size(), room / 2));
  longer.resize(room - shorter.size());
}

}  // namespace

PairFrame each_surrounded(const std::vector<TokenId>& begin, const std::vector<TokenId>& end) {
  PairFrame frame{begin, end, {}};
  for (const TokenId id : begin) frame.between.push_back(id | second_text);
  for (const TokenId id : end) frame.end.push_back(id | second_text);
  return frame;
}

Tokenizer::Tokenizer(std::unique_ptr<TokenScheme> scheme, std::vector<AddedToken> added,
                     std::vector<TokenId> begin, std::vector<TokenId> end, PairFrame pair)
    : scheme_(std::move(scheme)),
      added_(std::move(added)),
      first_bytes_(256),
      begin_(std::move(begin)),
      end_(std::move(end)),
      pair_(std::move(pair)) {
  std::stable_sort(added_.begin(), added_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (const AddedToken& token : added_) {
    added_by_id_[token.id] = &token;
    if (!token.content.empty()) first_bytes_[byte_at(token.content, 0)] = true;
  }
}

const AddedToken* Tokenizer::added_at(std::string_view text, std::size_t position) const {
  if (!first_bytes_[byte_at(text, position)]) return nullptr;
  const std::string_view rest = text.substr(position);
  for (const AddedToken& token : added_)
    if (!token.content.empty() && rest.substr(0, token.content.size()) == token.content)
      return &token;
  return nullptr;
}

void Tokenizer::encode_plain(std::string_view text, bool behind, std::vector<TokenId>& ids) const {
  if (text.empty()) return;
  behind ? scheme_->encode_behind(text, ids) : scheme_->encode(text, ids);
}

std::vector<TokenId> Tokenizer::encode(std::string_view bytes, bool with_special,
                                       std::size_t length) const {
  std::string repaired;
  std::string_view text = bytes;
  if (first_invalid_utf8(bytes)) text = repaired = repaired_utf8(bytes);

  std::vector<TokenId> ids;
  if (with_special) ids = begin_;
  std::size_t plain = 0;  // where the text begins that is not encoded yet
  for (std::size_t i = 0; i < text.size();) {
    const AddedToken* token = added_at(text, i);
    if (token == nullptr) {
      ++i;
      continue;
    }
    const std::size_t end = token->strip_left ? without_space_before(text, plain, i) : i;
    encode_plain(text.substr(plain, end - plain), plain > 0, ids);
    ids.push_back(token->id);
    i += token->content.size();
    if (token->strip_right) i = behind_space(text, i);
    plain = i;
  }
  encode_plain(text.substr(plain), plain > 0, ids);
  const std::size_t behind = with_special ? end_.size() : 0;
  if (length > 0 && ids.size() + behind > length) ids.resize(length - std::min(length, behind));
  if (with_special) ids.insert(ids.end(), end_.begin(), end_.end());
  return ids;
}

std::vector<TokenId> Tokenizer::encode_pair(std::string_view first, std::string_view second,
                                            bool marked, std::size_t length) const {
  std::vector<TokenId> a = encode(first, false), b = encode(second, false);
  const std::size_t around = pair_.begin.size() + pair_.between.size() + pair_.end.size();
  if (length > 0 && length < around)
    throw std::invalid_argument("[tokenizer] length: saw " + std::to_string(length) +
                                ", needs at least " + std::to_string(around) +
                                ", which stand around a pair");
  if (length > 0) shorten(a, b, length - around);
  if (pair_.marks_second)
    for (TokenId& id : b) id |= second_text;
  std::vector<TokenId> ids = pair_.begin;
  for (const std::vector<TokenId>& piece : {a, pair_.between, b, pair_.end})
    ids.insert(ids.end(), piece.begin(), piece.end());
  if (!marked)
    for (TokenId& id : ids) id = static_cast<TokenId>(token_of(id));
  return ids;
}

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool without_special) const {
  std::vector<std::string> tokens;
  for (const TokenId id : ids) {
    if (const auto added = added_by_id_.find(id); added != added_by_id_.end()) {
      if (!added->second->special || !without_special) tokens.push_back(added->second->content);
      continue;
    }
    if (!scheme_->vocabulary().has(id))
      throw std::invalid_argument("[tokenizer] id: saw " + std::to_string(id) + ", needs 0.." +
                                  std::to_string(vocabulary_size() - 1));
    tokens.push_back(scheme_->vocabulary().token(id));
  }
  return scheme_->decode(tokens);
}

std::optional<TokenId> Tokenizer::find(std::string_view token) const {
  for (const AddedToken& added : added_)
    if (added.content == token) return added.id;
  return scheme_->vocabulary().find(token);
}

TokenId Tokenizer::vocabulary_size() const {
  TokenId size = scheme_->vocabulary().size();
  for (const AddedToken& token : added_) size = std::max(size, token.id + 1);
  return size;
}

}  // namespace cleave::model
