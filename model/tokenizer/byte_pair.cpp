#include "model/tokenizer/byte_pair.hpp"

#include <array>
#include <queue>
#include <stdexcept>

#include "model/tokenizer/unicode.hpp"

namespace cleave::model {
namespace {

constexpr TokenId none = -1;

/// The letter that stands for each byte: printable Latin-1 as itself, the others from U+0100 on.
std::array<char32_t, 256> letters_of_bytes() {
  std::array<char32_t, 256> letters{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < letters.size(); ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    letters[byte] = printable ? byte : next++;
  }
  return letters;
}

enum class Class : std::uint8_t { letter, number, space, other };

Class class_of(char32_t point) {
  if (is_letter(point)) return Class::letter;
  if (is_number(point)) return Class::number;
  return is_white_space(point) ? Class::space : Class::other;
}

std::array<Class, 128> ascii_classes() {
  std::array<Class, 128> classes{};
  for (char32_t c = 0; c < classes.size(); ++c) classes[c] = class_of(c);
  return classes;
}

/// Reads words off a text as GPT-2's pattern does:
/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
class Words {
 public:
  explicit Words(std::string_view text) : text_(text) {}

  /// The next word; empty at the end.
  std::string_view next() {
    const std::size_t begin = at_;
    if (begin == text_.size()) return {};
    at_ = end_of_word(begin);
    return text_.substr(begin, at_ - begin);
  }

 private:
  Class class_at(std::size_t& position) const {
    static const std::array<Class, 128> ascii = ascii_classes();
    const auto first = static_cast<unsigned char>(text_[position]);
    if (first < ascii.size()) {
      ++position;
      return ascii[first];
    }
    return class_of(next_code_point(text_, position));
  }

  std::size_t contraction(std::size_t begin) const {
    const std::string_view rest = text_.substr(begin, 3);
    if (rest.size() < 2 || rest[0] != '\'') return 0;
    for (const std::string_view end : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
      if (rest.substr(0, end.size()) == end) return end.size();
    return 0;
  }

  std::size_t end_of_run(std::size_t position, Class kind) const {
    while (position < text_.size()) {
      std::size_t next = position;
      if (class_at(next) != kind) break;
      position = next;
    }
    return position;
  }

  std::size_t end_of_word(std::size_t begin) const {
    if (const std::size_t size = contraction(begin)) return begin + size;
    std::size_t first = begin;
    if (text_[begin] == ' ' && begin + 1 < text_.size()) ++first;
    std::size_t position = first;
    const Class kind = class_at(position);
    if (kind != Class::space) return end_of_run(position, kind);
    return end_of_space(begin);
  }

  /// All of the white space, but its last where a word follows and it is not alone.
  std::size_t end_of_space(std::size_t begin) const {
    std::size_t last = begin, position = begin;
    while (position < text_.size()) {
      std::size_t next = position;
      if (class_at(next) != Class::space) return last > begin ? last : position;
      last = position;
      position = next;
    }
    return position;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

/// One token of a word that is being joined; a list by number.
struct Symbol {
  TokenId id;
  std::int32_t before, after;
};

class BytePair : public TokenScheme {
 public:
  BytePair(Vocabulary vocabulary, const Merges& merges, BytePairOptions options)
      : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
    const auto letters = letters_of_bytes();
    for (std::size_t byte = 0; byte < letters.size(); ++byte) {
      std::string letter;
      append_utf8(letters[byte], letter);
      id_of_byte_[byte] = vocabulary_.find(letter).value_or(none);
      byte_of_letter_[letters[byte]] = static_cast<char>(byte);
    }
    merges_.reserve(merges.size());
    for (std::size_t rank = 0; rank < merges.size(); ++rank) add_merge(merges[rank], rank);
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view text, std::vector<TokenId>& ids) const override {
    std::string changed;
    if (options_.compose) text = changed = to_nfc(text);
    if (options_.prefix_space && text.front() != ' ') text = changed = " " + std::string(text);
    std::vector<std::string_view> pieces = {text};
    for (const auto& pattern : options_.cuts) {
      std::vector<std::string_view> smaller;
      for (const std::string_view piece : pieces)
        for (const std::string_view part : pattern->cut(piece)) smaller.push_back(part);
      pieces = std::move(smaller);
    }
    for (const std::string_view piece : pieces) encode_piece(piece, ids);
  }

  std::string decode(const std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of(token);
    return repaired_utf8(bytes);
  }

 private:
  struct Merge {
    std::int32_t rank;
    TokenId joined;
  };

  static std::uint64_t key(TokenId left, TokenId right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }

  void add_merge(const std::pair<std::string, std::string>& merge, std::size_t rank) {
    const auto known = [&](const std::string& token) {
      if (const auto id = vocabulary_.find(token)) return *id;
      throw std::invalid_argument("merge " + std::to_string(rank) + ": '" + merge.first + " " +
                                  merge.second + "' needs '" + token +
                                  "', which is not in the vocabulary");
    };
    const TokenId left = known(merge.first), right = known(merge.second);
    merges_.insert_or_assign(key(left, right), Merge{static_cast<std::int32_t>(rank),
                                                     known(merge.first + merge.second)});
  }

  /// A token's bytes; of one that is no text of letters (an added token), its own.
  std::string bytes_of(const std::string& token) const {
    std::string bytes;
    for (std::size_t i = 0; i < token.size();) {
      const auto found = byte_of_letter_.find(next_code_point(token, i));
      if (found == byte_of_letter_.end()) return token;
      bytes += found->second;
    }
    return bytes;
  }

  const Merge* merge_of(TokenId left, TokenId right) const {
    const auto found = merges_.find(key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }

  void encode_piece(std::string_view piece, std::vector<TokenId>& ids) const {
    if (!options_.gpt2_words) return encode_word(piece, ids);
    Words words(piece);
    for (std::string_view word = words.next(); !word.empty(); word = words.next())
      encode_word(word, ids);
  }

  void encode_word(std::string_view word, std::vector<TokenId>& ids) const {
    if (options_.words_first) {
      std::string letters;
      for (const char byte : word) letters += letter_of_byte(static_cast<unsigned char>(byte));
      if (const auto id = vocabulary_.find(letters)) return ids.push_back(*id);
    }
    std::vector<TokenId> symbols;
    symbols.reserve(word.size());
    for (const char byte : word) {
      const TokenId id = id_of_byte_[static_cast<unsigned char>(byte)];
      if (id != none) symbols.push_back(id);
    }
    constexpr std::size_t few = 24;
    if (symbols.size() <= few)
      join_few(symbols);
    else
      symbols = joined(symbols);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }

  /// The neighbours of the lowest rank, the leftmost first, again and again.
  void join_few(std::vector<TokenId>& symbols) const {
    while (symbols.size() > 1) {
      const Merge* best = nullptr;
      std::size_t at = 0;
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        const Merge* merge = merge_of(symbols[i], symbols[i + 1]);
        if (merge == nullptr || (best != nullptr && merge->rank >= best->rank)) continue;
        best = merge;
        at = i;
      }
      if (best == nullptr) return;
      symbols[at] = best->joined;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
  }

  /// The same in n·log n, for words of any length.
  std::vector<TokenId> joined(const std::vector<TokenId>& word) const {
    struct Candidate {
      std::int32_t rank, left;
      TokenId left_id, right_id;
      bool operator<(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank : left > other.left;
      }
    };
    std::vector<Symbol> symbols;
    std::priority_queue<Candidate> queue;
    const auto size = static_cast<std::int32_t>(word.size());
    for (std::int32_t i = 0; i < size; ++i)
      symbols.push_back({word[static_cast<std::size_t>(i)], i - 1, i + 1 < size ? i + 1 : none});
    const auto at = [&](std::int32_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
    const auto consider = [&](std::int32_t left) {
      if (left == none || at(left).after == none) return;
      const TokenId a = at(left).id, b = at(at(left).after).id;
      if (const Merge* merge = merge_of(a, b)) queue.push({merge->rank, left, a, b});
    };
    for (std::int32_t i = 0; i < size; ++i) consider(i);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = at(best.left);
      if (left.id != best.left_id || left.after == none || at(left.after).id != best.right_id)
        continue;  // one of the two has been joined since
      Symbol& right = at(left.after);
      left.id = merge_of(best.left_id, best.right_id)->joined;
      left.after = right.after;
      right.id = none;
      if (left.after != none) at(left.after).before = best.left;
      consider(left.before);
      consider(best.left);
    }
    std::vector<TokenId> ids;
    for (std::int32_t i = 0; i != none; i = at(i).after) ids.push_back(at(i).id);
    return ids;
  }

  const Vocabulary vocabulary_;
  const BytePairOptions options_;
  std::array<TokenId, 256> id_of_byte_{};
  std::unordered_map<char32_t, char> byte_of_letter_;
  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace

std::string letter_of_byte(unsigned char byte) {
  std::string letter;
  append_utf8(letters_of_bytes()[byte], letter);
  return letter;
}

std::unique_ptr<TokenScheme> byte_pair(Vocabulary vocabulary, const Merges& merges,
                                       const BytePairOptions& options) {
  return std::make_unique<BytePair>(std::move(vocabulary), merges, options);
}

}  // namespace cleave::model
