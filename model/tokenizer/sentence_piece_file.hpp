#pragma once

#include <filesystem>
#include <string_view>

namespace cleave::model {

/// The library takes a SentencePiece model that was cut off between two of its fields. Throws
/// std::runtime_error with the byte where `bytes` stop being fields, or with what they lack.
void expect_whole_sentence_piece(const std::filesystem::path& file, std::string_view bytes);

/// Whether merges are all there is, which the library does not show: no normalisation but
/// "a b" -> "▁a▁b", by byte-pair encoding, and no piece that is merged only to be taken apart
/// again. False for bytes that are no SentencePiece model.
bool only_merges(std::string_view bytes);

}  // namespace cleave::model
