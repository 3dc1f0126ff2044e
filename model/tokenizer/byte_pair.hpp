#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/tokenizer/tokenizer.hpp"
#include "model/tokenizer/unicode.hpp"

namespace cleave::model {

struct BytePairOptions {
  /// A blank before the first word, where the text has none.
  bool prefix_space = false;
  /// Text is composed (NFC) first.
  bool compose = false;
  /// The text is cut by each of these in turn, before words are.
  std::vector<std::shared_ptr<const Pattern>> cuts;
  /// What is left is cut into words as GPT-2 does; else it is words already.
  bool gpt2_words = true;
  /// A word that is a token is that token, whatever its merges say.
  bool words_first = false;
};

/// Two tokens that are joined, in the order of their rank.
using Merges = std::vector<std::pair<std::string, std::string>>;

/// The letter that stands for a byte in a vocabulary: printable Latin-1 as itself, the others from
/// U+0100 on. UTF-8.
std::string letter_of_byte(unsigned char byte);

/// Byte-level BPE (Sennrich and others 2016; Radford and others 2019): words as GPT-2 cuts them,
/// each byte one of 256 letters, neighbours joined by rank. Bytes whose letter is not in the
/// vocabulary are left out, as the reference does. Throws std::invalid_argument "merge 7: 'th e'
/// makes 'the', which is not in the vocabulary".
std::unique_ptr<TokenScheme> byte_pair(Vocabulary vocabulary, const Merges& merges,
                                       const BytePairOptions& options);

}  // namespace cleave::model
