#pragma once

#include <optional>
#include <vector>

#include "base/reader.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// What surrounds every text, and every pair.
struct Frame {
  std::vector<TokenId> begin, end;
  PairFrame pair;
};

/// What counts more than a tokenizer.json; unset: as the file says.
struct TokenizerChanges {
  std::optional<bool> lower_case, strip_accents, split_chinese;  // WordPiece
  std::optional<bool> prefix_space;  // byte-level BPE that is cut by ByteLevel alone
  std::optional<std::vector<AddedToken>> added;
  std::optional<Frame> frame;
};

/// A tokenizer.json of the tokenizers library: WordPiece as BERT has it, or byte-level BPE.
/// Truncation and padding in it are left to the caller. Throws std::runtime_error with the place in
/// the file where it asks for anything else.
Tokenizer tokenizer_from_json(const base::Reader& file, const TokenizerChanges& changes = {});
/// The tokens of its `added_tokens`. Beside a normalizer only those are known that are looked for
/// before it.
std::vector<AddedToken> read_added(const base::Reader& list, bool has_normalizer);
/// One of them, its number aside.
AddedToken read_token(const base::Reader& item, bool has_normalizer);
/// A table of tokens with their ids: vocab.json.
Vocabulary vocabulary_from_json(const base::Reader& table);

}  // namespace cleave::model
