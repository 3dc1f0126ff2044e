#pragma once

#include "base/reader.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// A tokenizer.json of the tokenizers library: WordPiece as BERT has it, or byte-level BPE.
/// Truncation and padding in it are left to the caller. Throws std::runtime_error with the place in
/// the file where it asks for anything else.
Tokenizer tokenizer_from_json(const base::Reader& file);
/// A table of tokens with their ids: vocab.json.
Vocabulary vocabulary_from_json(const base::Reader& table);

}  // namespace cleave::model
