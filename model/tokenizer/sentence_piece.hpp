#pragma once

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// Where the module around SentencePiece's library may lie, the first that has it counts: where it
/// is installed, seen from this program; beside this program; where it was built.
std::vector<std::filesystem::path> sentence_piece_folders();

/// Before which stretches of text, between added tokens, a blank is put.
enum class Blanks {
  every,   // all of them: what Hugging Face calls legacy
  needed,  // those that do not begin with one
  first,   // the one that a text begins with, where it does not begin with one
};

/// A SentencePiece model, by its own library, which is opened on the first call and stays.
/// `special` are the tokens that are written as they are when decoding, a blank before them, as
/// Hugging Face's Llama does. Throws std::runtime_error where `file` is no whole model, and where
/// none of `folders` has the module or it cannot be opened.
std::unique_ptr<TokenScheme> sentence_piece(
    const std::filesystem::path& file, std::set<std::string> special,
    const std::vector<std::filesystem::path>& folders = sentence_piece_folders(),
    Blanks blanks = Blanks::every);

}  // namespace cleave::model
