#pragma once

#include <filesystem>
#include <memory>

#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// A SentencePiece model by its own library. Throws std::runtime_error where the file is none.
std::unique_ptr<TokenScheme> sentence_piece(const std::filesystem::path& file);

}  // namespace cleave::model
