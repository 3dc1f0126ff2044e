#pragma once

#include <memory>
#include <string>

#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// How BERT prepares text and cuts words.
struct WordPieceOptions {
  bool clean_text = true;     // drops controls, makes every white space a blank
  bool split_chinese = true;  // each ideograph is a word
  bool strip_accents = true;
  bool lower_case = true;
  std::string unknown = "[UNK]";
  std::string continuation = "##";
  std::size_t longest_word = 100;  // code points; a longer one is unknown
};

/// WordPiece (Schuster and Nakajima 2012) as BERT has it: words at white space and punctuation,
/// each cut greedily into the longest pieces. A word that no pieces make is unknown. Throws
/// std::invalid_argument where the vocabulary has no such unknown token.
std::unique_ptr<TokenScheme> wordpiece(Vocabulary vocabulary, const WordPieceOptions& options);

}  // namespace cleave::model
