#include "model/tokenizer/sentence_piece.hpp"

#include <sentencepiece_processor.h>
#include <stdexcept>
#include <utility>

#include "base/file.hpp"

namespace cleave::model {
namespace {

class SentencePiece : public TokenScheme {
 public:
  explicit SentencePiece(const std::filesystem::path& file) {
    constexpr std::uint64_t largest = 64u << 20;
    const auto status = processor_.LoadFromSerializedProto(base::read_text(file, largest));
    if (!status.ok())
      throw std::runtime_error("[" + file.string() + "] saw no SentencePiece model (" +
                               status.ToString() + "), needs one");
    try {
      for (TokenId id = 0; id < processor_.GetPieceSize(); ++id)
        vocabulary_.add(processor_.IdToPiece(id), id);
    } catch (const std::invalid_argument& wrong) {
      throw std::runtime_error("[" + file.string() + "] " + wrong.what());
    }
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view text, std::vector<TokenId>& ids) const override {
    std::vector<int> found;
    const auto status = processor_.Encode({text.data(), text.size()}, &found);
    if (!status.ok()) throw std::runtime_error("[tokenizer] " + status.ToString());
    ids.insert(ids.end(), found.begin(), found.end());
  }

  std::string decode(const std::vector<TokenId>& ids) const override {
    std::string text;
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    if (!status.ok()) throw std::runtime_error("[tokenizer] " + status.ToString());
    return text;
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  Vocabulary vocabulary_;
};

}  // namespace

std::unique_ptr<TokenScheme> sentence_piece(const std::filesystem::path& file) {
  return std::make_unique<SentencePiece>(file);
}

}  // namespace cleave::model
