#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/reader.hpp"
#include "model/tokenizer/tokenizer_json.hpp"

// What the files beside a vocabulary say of it: tokenizer_config.json, special_tokens_map.json,
// added_tokens.json.
namespace cleave::model {

/// tokenizer_config.json, or an empty table. Throws std::runtime_error where it asks for what is
/// not built.
base::Reader tokenizer_config(const std::filesystem::path& folder);
/// Where a folder names the class of its tokenizer: in tokenizer_config.json, else in config.json.
std::optional<base::Reader> named_class(const std::filesystem::path& folder);
/// The class that Transformers makes of a folder's tokenizer, without "Fast": what
/// tokenizer_config.json says, else config.json or its family; empty where nothing does.
std::string tokenizer_class(const std::filesystem::path& folder);

/// Where a special token is named: in tokenizer_config.json, or, where that has no table of added
/// tokens, in special_tokens_map.json. Nothing where it is not.
std::optional<base::Reader> find_special(const std::filesystem::path& folder,
                                         const std::string& key);
/// The special token itself, "<s>" or a table with it as "content".
std::string special_token(const std::filesystem::path& folder, const std::string& key,
                          const std::string& fallback);

/// A special token that a class has where no file names another.
struct UsualToken {
  std::string key, content;
  bool strip_left = false;
};
/// The tokens that stand in a text as they are, where `file` has only a vocabulary: the class's own
/// as far as they are in it, and those that the files beside it name. `normalises`: the class
/// changes a text before it is cut. Throws std::runtime_error where a token is not in `vocabulary`,
/// or under another number; a usual one may be missing.
std::vector<AddedToken> added_beside(const std::filesystem::path& folder, const std::string& file,
                                     const Vocabulary& vocabulary, bool normalises,
                                     const std::vector<UsualToken>& usual);

/// What the files beside it change in a tokenizer.json, as Transformers' fast tokenizers have it.
/// Throws std::runtime_error where they contradict it: a token that it does not have, or has under
/// another number.
TokenizerChanges changes_of(const std::filesystem::path& folder, const base::Reader& file);

}  // namespace cleave::model
