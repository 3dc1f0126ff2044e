// tokenizer.json: whatever the bytes, a tokenizer is read or refused with one std::runtime_error;
// what is read takes any text, and gives back the text of its own tokens.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "base/reader.hpp"
#include "model/tokenizer/segment.hpp"
#include "model/tokenizer/tokenizer_json.hpp"
#include "model/tokenizer/unicode.hpp"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void use(const cleave::model::Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.encode(text, false);
  for (const auto id : ids) require(id >= 0 && id < tokenizer.vocabulary_size());
  require(!cleave::model::first_invalid_utf8(tokenizer.decode(ids, false)));
  // What surrounds a pair is named by the file, and need not be in its vocabulary.
  for (const auto id : tokenizer.encode_pair(text, text, true))
    require(id >= 0 && cleave::model::token_of(id) < cleave::model::Vocabulary::most);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const auto file = cleave::base::Reader::json_text(text, "fuzz");
    const auto tokenizer = cleave::model::tokenizer_from_json(file);
    use(tokenizer, "A fleet of small devices, it's 3 of them \xE4\xBA\xBA \xFF");
    use(tokenizer, text.substr(0, 2000));
  } catch (const std::runtime_error&) {
  }
  return 0;
}
