#pragma once

#include <cstddef>
#include <cstdint>

namespace cleave::model {

/// What the module around SentencePiece's library gives, as functions in C's manner.
///
/// That library carries a protobuf of its own, which must not meet libtorch's: it is opened while
/// running, out of sight of the rest of the process, and nothing of C++'s library passes between.
/// No function throws. Of those with `error`, a failure leaves the reason there, cut to `room`
/// bytes with the 0 at its end.
struct SentencePieceModule {
  /// Raised when anything below changes.
  static constexpr std::int32_t current = 1;
  std::int32_t version;

  /// The model in these bytes; null where they hold none.
  void* (*open)(const char* bytes, std::size_t size, char* error, std::size_t room);
  void (*close)(void* model);
  /// Tokens are numbered 0..size-1.
  std::int32_t (*size)(const void* model);
  /// A token's text, until the model is closed; null on failure.
  const char* (*piece)(const void* model, std::int32_t id, std::size_t* length);
  /// Hands the ids of valid UTF-8 to `take`, once. False on failure.
  bool (*encode)(const void* model, const char* text, std::size_t size,
                 void (*take)(void* to, const std::int32_t* ids, std::size_t count), void* to,
                 char* error, std::size_t room);
  /// Hands the text of ids to `take`, once. False on failure.
  bool (*decode)(const void* model, const std::int32_t* ids, std::size_t count,
                 void (*take)(void* to, const char* text, std::size_t size), void* to, char* error,
                 std::size_t room);
};

/// The only function that the module shows: `const SentencePieceModule* cleave_sentence_piece()`.
constexpr const char* sentence_piece_entry = "cleave_sentence_piece";

}  // namespace cleave::model
