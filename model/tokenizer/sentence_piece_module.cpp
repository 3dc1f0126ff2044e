// A library of its own, opened by sentence_piece.cpp: the only source that sees SentencePiece.
#include "model/tokenizer/sentence_piece_module.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <sentencepiece_processor.h>
#include <string>
#include <vector>

// The library shows it, its installed header does not.
namespace sentencepiece::logging {
void SetMinLogLevel(int level);
}

namespace cleave::model {
namespace {

using sentencepiece::SentencePieceProcessor;

const SentencePieceProcessor& processor(const void* model) {
  return *static_cast<const SentencePieceProcessor*>(model);
}

void say(const std::string& reason, char* error, std::size_t room) {
  if (room == 0) return;
  const std::size_t size = std::min(reason.size(), room - 1);
  std::memcpy(error, reason.data(), size);
  error[size] = 0;
}

/// What `work` gives; `failed`, with the reason, where it throws: nothing may leave the module.
template <class Result, class Work>
Result guarded(Result failed, char* error, std::size_t room, const Work& work) {
  try {
    return work();
  } catch (const std::exception& wrong) {
    say(wrong.what(), error, room);
  } catch (...) {
    say("unknown exception", error, room);
  }
  return failed;
}

void* open(const char* bytes, std::size_t size, char* error, std::size_t room) {
  return guarded<void*>(nullptr, error, room, [&]() -> void* {
    auto opened = std::make_unique<SentencePieceProcessor>();
    const auto status = opened->LoadFromSerializedProto({bytes, size});
    if (status.ok()) return opened.release();
    say(status.ToString(), error, room);
    return nullptr;
  });
}

void close(void* model) { delete static_cast<SentencePieceProcessor*>(model); }

std::int32_t size(const void* model) { return processor(model).GetPieceSize(); }

const char* piece(const void* model, std::int32_t id, std::size_t* length) {
  return guarded<const char*>(nullptr, nullptr, 0, [&] {
    const std::string& text = processor(model).IdToPiece(id);
    *length = text.size();
    return text.data();
  });
}

bool encode(const void* model, const char* text, std::size_t size,
            void (*take)(void* to, const std::int32_t* ids, std::size_t count), void* to,
            char* error, std::size_t room) {
  return guarded(false, error, room, [&] {
    std::vector<int> ids;
    const auto status = processor(model).Encode({text, size}, &ids);
    if (!status.ok()) return say(status.ToString(), error, room), false;
    take(to, ids.data(), ids.size());
    return true;
  });
}

bool decode(const void* model, const std::int32_t* ids, std::size_t count,
            void (*take)(void* to, const char* text, std::size_t size), void* to, char* error,
            std::size_t room) {
  return guarded(false, error, room, [&] {
    std::string text;
    const auto status = processor(model).Decode(std::vector<int>(ids, ids + count), &text);
    if (!status.ok()) return say(status.ToString(), error, room), false;
    take(to, text.data(), text.size());
    return true;
  });
}

}  // namespace
}  // namespace cleave::model

extern "C" __attribute__((visibility("default"))) const cleave::model::SentencePieceModule*
cleave_sentence_piece() {
  using namespace cleave::model;
  static const SentencePieceModule module = {
      SentencePieceModule::current, open, close, size, piece, encode, decode};
  // Its remarks would go to a std::cerr that, opened as it is, need not be the program's, and that
  // nobody has made ready.
  constexpr int above_all = 4;
  sentencepiece::logging::SetMinLogLevel(above_all);
  return &module;
}
