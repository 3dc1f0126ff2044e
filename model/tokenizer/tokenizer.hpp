#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/vocabulary.hpp"

namespace cleave::model {

/// A way of cutting ordinary text into tokens: WordPiece, byte-level BPE or SentencePiece.
class TokenScheme {
 public:
  virtual ~TokenScheme() = default;
  /// Appends the tokens of valid UTF-8.
  virtual void encode(std::string_view text, std::vector<TokenId>& ids) const = 0;
  /// The same of text that stands behind an added token.
  virtual void encode_behind(std::string_view text, std::vector<TokenId>& ids) const {
    encode(text, ids);
  }
  /// The text of tokens, added ones among them. What is no valid UTF-8 becomes U+FFFD.
  virtual std::string decode(const std::vector<std::string>& tokens) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
};

/// A token that is found in the text as it stands, before anything else.
struct AddedToken {
  std::string content;
  TokenId id = 0;
  /// Left out when decoding without special tokens.
  bool special = true;
  /// Takes the white space on its left (right) with it.
  bool strip_left = false, strip_right = false;
};

/// What stands before, between and behind the two texts of a pair. What belongs to the second text
/// is marked: see second_text.
struct PairFrame {
  std::vector<TokenId> begin, between, end;
  /// Whether the tokens of the second text are marked.
  bool marks_second = true;
};
/// The frame of a pair each text of which is surrounded as a text by itself (Llama's).
PairFrame each_surrounded(const std::vector<TokenId>& begin, const std::vector<TokenId>& end);

/// Text to token numbers and back, the same numbers as Hugging Face's.
class Tokenizer {
 public:
  /// `begin` and `end` surround every text: [CLS] and [SEP], <s> and nothing, or nothing.
  Tokenizer(std::unique_ptr<TokenScheme> scheme, std::vector<AddedToken> added,
            std::vector<TokenId> begin, std::vector<TokenId> end, PairFrame pair = {});

  /// Any bytes: each maximal invalid UTF-8 sequence counts as U+FFFD. Cut to `length` tokens, those
  /// that surround it among them, as Transformers truncates; 0: not cut.
  std::vector<TokenId> encode(std::string_view text, bool with_special = true,
                              std::size_t length = 0) const;
  /// Two texts as one row. Cut to `length` tokens as Transformers truncates ("longest_first"): the
  /// longer text first, then both alike. With `marked` the tokens of the second text carry
  /// second_text, for models that have token types; else no token does. Throws
  /// std::invalid_argument "[tokenizer] length: saw 2, needs at least 3" where what surrounds a
  /// pair alone is longer.
  std::vector<TokenId> encode_pair(std::string_view first, std::string_view second, bool marked,
                                   std::size_t length = 0) const;
  /// Throws std::invalid_argument "[tokenizer] id: saw 70000, needs 0..50256".
  std::string decode(const std::vector<TokenId>& ids, bool without_special = true) const;

  std::optional<TokenId> find(std::string_view token) const;
  /// What a masked language model fills in: [MASK], <mask>, or what the folder calls so. Nothing
  /// where it has none.
  std::optional<TokenId> mask() const { return mask_; }
  void set_mask(std::optional<TokenId> mask) { mask_ = mask; }
  /// Largest number + 1, added tokens included: the rows that a model's embedding needs at least.
  TokenId vocabulary_size() const;

 private:
  /// The added token that begins at `position`, the longest; null where none does.
  const AddedToken* added_at(std::string_view text, std::size_t position) const;
  /// Text between added tokens; `behind` one of them, or the beginning.
  void encode_plain(std::string_view text, bool behind, std::vector<TokenId>& ids) const;

  std::unique_ptr<TokenScheme> scheme_;
  std::vector<AddedToken> added_;  // the longest first
  std::vector<bool> first_bytes_;  // of added tokens
  std::map<TokenId, const AddedToken*> added_by_id_;
  std::vector<TokenId> begin_, end_;
  std::optional<TokenId> mask_;
  PairFrame pair_;
};

/// Of a model folder: tokenizer.json, or vocab.txt (WordPiece; tokenizer_config.json says whether
/// it is lower case), or vocab.json and merges.txt (byte-level BPE; tokenizer_config.json or
/// config.json says whether GPT-2's, RoBERTa's or Qwen2's), or tokenizer.model (SentencePiece;
/// tokenizer_config.json says what surrounds a text). Throws std::runtime_error
/// with the file, the place in it, what was seen and what is needed.
Tokenizer read_tokenizer(const std::filesystem::path& folder);
/// The same for a model of `vocabulary` tokens: as expect_fits().
Tokenizer read_tokenizer(const std::filesystem::path& folder, std::int64_t vocabulary);
/// Whether there are files of a tokenizer; a checkpoint that was made at random has none.
bool has_tokenizer(const std::filesystem::path& folder);
/// Throws std::runtime_error "[where] tokenizer: saw 257 tokens, needs at most the model's
/// vocabulary of 256" where the numbers of its tokens are not those of a model: more, or far fewer.
void expect_fits(const Tokenizer& tokenizer, std::int64_t vocabulary, const std::string& where);
/// The files that read_tokenizer() looks at, from one folder into another, where those that it does
/// not have go.
void copy_tokenizer(const std::filesystem::path& from, const std::filesystem::path& to);
/// vocab.json and merges.txt of a tokenizer whose 256 tokens are the bytes: for models that read
/// characters.
void write_byte_tokenizer(const std::filesystem::path& folder);

}  // namespace cleave::model
