// The files of a tokenizer beside each other: whatever their bytes, a tokenizer is read or refused
// with one std::runtime_error; what is read takes any text, and gives back the text of its own
// tokens. Files are parted by U+001F: tokenizer_config.json, added_tokens.json and
// special_tokens_map.json, and before them vocab.txt where the first byte is "w", tokenizer.json
// where it is "j", vocab.json and merges.txt else. Where it is "s" they lie beside a whole
// tokenizer.model (what we read of that file itself has a target of its own), and a tokenizer.json
// may follow.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fuzz/folder.hpp"
#include "model/tokenizer/segment.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/tokenizer/unicode.hpp"

namespace {

namespace fs = std::filesystem;

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const cleave::fuzz::Folder folder;
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::vector<std::string> names = {"tokenizer_config.json", "added_tokens.json",
                                    "special_tokens_map.json"};
  std::vector<std::string> first = {"vocab.json", "merges.txt"};
  if (data[0] == 'w') first = {"vocab.txt"};
  if (data[0] == 'j') first = {"tokenizer.json"};
  if (data[0] != 's') names.insert(names.begin(), first.begin(), first.end());
  for (const auto& entry : fs::directory_iterator(folder.path)) fs::remove(entry.path());
  if (data[0] == 's') {
    names.push_back("tokenizer.json");
    fs::create_symlink(CLEAVE_TOKENIZER_MODEL, folder.path / "tokenizer.model");
  }
  std::size_t begin = 0;
  for (const auto& name : names) {
    const std::size_t end = std::min(text.find('\x1f', begin), text.size());
    std::ofstream(folder.path / name, std::ios::binary) << text.substr(begin, end - begin);
    begin = end + 1;
    if (begin > text.size()) break;
  }
  try {
    const auto tokenizer = cleave::model::read_tokenizer(folder.path);
    const auto ids = tokenizer.encode("A fleet of small devices, it's 3 \xE4\xBA\xBA \xFF" +
                                      text.substr(0, 500));
    for (const auto id : ids) require(id >= 0 && id < tokenizer.vocabulary_size());
    require(!cleave::model::first_invalid_utf8(tokenizer.decode(ids, false)));
    for (const auto id : tokenizer.encode_pair("A fleet", "of devices", true, 8))
      require(id >= 0 && cleave::model::token_of(id) < tokenizer.vocabulary_size());
  } catch (const std::runtime_error&) {
  }
  return 0;
}
