#include "model/tokenizer/wordpiece.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "model/tokenizer/unicode.hpp"

namespace cleave::model {
namespace {

bool is_ideograph(char32_t point) {
  constexpr std::array<std::pair<char32_t, char32_t>, 8> blocks = {{{0x4E00, 0x9FFF},
                                                                    {0x3400, 0x4DBF},
                                                                    {0x20000, 0x2A6DF},
                                                                    {0x2A700, 0x2B73F},
                                                                    {0x2B740, 0x2B81F},
                                                                    {0x2B920, 0x2CEAF},
                                                                    {0xF900, 0xFAFF},
                                                                    {0x2F800, 0x2FA1F}}};
  return std::any_of(blocks.begin(), blocks.end(), [point](const auto& block) {
    return point >= block.first && point <= block.second;
  });
}

/// What an ASCII byte is to BERT.
enum class Ascii : std::uint8_t { letter, space, punctuation, dropped };

std::array<Ascii, 128> ascii_classes() {
  std::array<Ascii, 128> classes{};
  for (char32_t c = 0; c < classes.size(); ++c) {
    const bool line_control = c == '\t' || c == '\n' || c == '\r';
    classes[c] = line_control || c == ' ' ? Ascii::space
                 : is_control(c)          ? Ascii::dropped
                 : is_punctuation(c)      ? Ascii::punctuation
                                          : Ascii::letter;
  }
  return classes;
}

class WordPiece : public TokenScheme {
 public:
  WordPiece(Vocabulary vocabulary, WordPieceOptions options)
      : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
    const auto unknown = vocabulary_.find(options_.unknown);
    if (!unknown)
      throw std::invalid_argument("vocabulary: has no '" + options_.unknown +
                                  "', which stands for unknown words");
    unknown_ = *unknown;
    for (TokenId id = 0; id < vocabulary_.size(); ++id) add_piece(vocabulary_.token(id), id);
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view text, std::vector<TokenId>& ids) const override {
    const bool ascii =
        std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
    if (ascii && options_.clean_text)
      encode_ascii(text, ids);
    else
      encode_words(prepared(text), ids);
  }

  std::string decode(const std::vector<std::string>& tokens) const override {
    std::string text;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      std::string piece = tokens[i];
      if (i > 0) {
        if (piece.rfind(options_.continuation, 0) == 0)
          piece.erase(0, options_.continuation.size());
        else
          piece.insert(0, 1, ' ');
      }
      text += tidied(piece);
    }
    return text;
  }

 private:
  using Pieces = std::unordered_map<std::string_view, TokenId>;

  void add_piece(std::string_view token, TokenId id) {
    if (!vocabulary_.has(id)) return;
    first_.emplace(token, id);
    longest_first_ = std::max(longest_first_, token.size());
    if (token.substr(0, options_.continuation.size()) != options_.continuation) return;
    token.remove_prefix(options_.continuation.size());
    later_.emplace(token, id);
    longest_later_ = std::max(longest_later_, token.size());
  }

  /// No blank before what belongs to the word on its left; English contractions are joined.
  static std::string tidied(std::string piece) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 10> joins = {
        {{" .", "."},
         {" ?", "?"},
         {" !", "!"},
         {" ,", ","},
         {" ' ", "'"},
         {" n't", "n't"},
         {" 'm", "'m"},
         {" 's", "'s"},
         {" 've", "'ve"},
         {" 're", "'re"}}};
    for (const auto& [apart, joined] : joins)
      for (std::size_t at = 0; (at = piece.find(apart, at)) != std::string::npos;)
        piece.replace(at, apart.size(), joined);
    return piece;
  }

  /// Text of which words can be read off: cleaned, blanks around ideographs, no accents, lower
  /// case.
  std::string prepared(std::string_view text) const {
    std::string clean;
    clean.reserve(text.size());
    for (std::size_t i = 0; i < text.size();) {
      char32_t point = next_code_point(text, i);
      if (options_.clean_text) {
        const bool line_control = point == '\t' || point == '\n' || point == '\r';
        if (point == 0 || point == 0xFFFD || (!line_control && is_control(point))) continue;
        if (is_white_space(point)) point = ' ';
      }
      const bool apart = options_.split_chinese && is_ideograph(point);
      if (apart) clean += ' ';
      append_utf8(point, clean);
      if (apart) clean += ' ';
    }
    if (options_.strip_accents) clean = without_marks(to_nfd(clean));
    return options_.lower_case ? lower(clean) : clean;
  }

  static std::string without_marks(std::string_view text) {
    std::string kept;
    kept.reserve(text.size());
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t begin = i;
      if (!is_nonspacing_mark(next_code_point(text, i))) kept.append(text, begin, i - begin);
    }
    return kept;
  }

  static std::string lower(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    for (std::size_t i = 0; i < text.size();) append_lower(next_code_point(text, i), result);
    return result;
  }

  void encode_words(std::string_view text, std::vector<TokenId>& ids) const {
    std::size_t word = 0, points = 0;
    const auto finish = [&](std::size_t end) {
      if (end > word) encode_word(text.substr(word, end - word), points, ids);
      points = 0;
    };
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t begin = i;
      const char32_t point = next_code_point(text, i);
      const bool space = is_white_space(point);
      if (!space && !is_punctuation(point)) {
        ++points;
        continue;
      }
      finish(begin);
      if (!space) encode_word(text.substr(begin, i - begin), 1, ids);
      word = i;
    }
    finish(text.size());
  }

  /// The same for the text that most text is, without a copy of it.
  void encode_ascii(std::string_view text, std::vector<TokenId>& ids) const {
    static const std::array<Ascii, 128> classes = ascii_classes();
    std::string word;
    const auto finish = [&] {
      if (!word.empty()) encode_word(word, word.size(), ids);
      word.clear();
    };
    for (const char c : text) {
      const Ascii kind = classes[static_cast<std::size_t>(c)];
      if (kind == Ascii::letter) {
        word += options_.lower_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        continue;
      }
      if (kind == Ascii::dropped) continue;
      finish();
      if (kind == Ascii::punctuation) encode_word(std::string_view(&c, 1), 1, ids);
    }
    finish();
  }

  void encode_word(std::string_view word, std::size_t points, std::vector<TokenId>& ids) const {
    const std::size_t before = ids.size();
    bool known = points <= options_.longest_word;
    for (std::size_t i = 0; known && i < word.size();) {
      const Pieces& pieces = i == 0 ? first_ : later_;
      std::size_t size = std::min(word.size() - i, i == 0 ? longest_first_ : longest_later_);
      auto found = pieces.end();
      for (; size > 0; --size) {
        // Pieces end where code points do.
        if (i + size < word.size() && (word[i + size] & 0xC0) == 0x80) continue;
        found = pieces.find(word.substr(i, size));
        if (found != pieces.end()) break;
      }
      known = found != pieces.end();
      if (known) ids.push_back(found->second);
      i += size;
    }
    if (known) return;
    ids.resize(before);
    ids.push_back(unknown_);
  }

  const Vocabulary vocabulary_;
  const WordPieceOptions options_;
  TokenId unknown_ = 0;
  Pieces first_, later_;  // pieces at the beginning of a word, and behind it
  std::size_t longest_first_ = 0, longest_later_ = 0;
};

}  // namespace

std::unique_ptr<TokenScheme> wordpiece(Vocabulary vocabulary, const WordPieceOptions& options) {
  return std::make_unique<WordPiece>(std::move(vocabulary), options);
}

}  // namespace cleave::model
