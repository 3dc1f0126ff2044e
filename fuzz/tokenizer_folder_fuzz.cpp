// The files of a tokenizer beside each other: whatever their bytes, a tokenizer is read or refused
// with one std::runtime_error; what is read takes any text, and gives back the text of its own
// tokens. Files are parted by U+001F: vocab.txt, tokenizer_config.json, added_tokens.json where the
// first byte is "w"; the last two beside a whole tokenizer.model where it is "s" (what we read of
// that file itself has a target of its own); else vocab.json, merges.txt and the same two.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.hpp"
#include "model/tokenizer/unicode.hpp"

namespace {

namespace fs = std::filesystem;

void require(bool holds) {
  if (!holds) std::abort();
}

/// A folder that goes when the process ends.
struct Folder {
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "cleave-fuzz-XXXXXX").string();
    require(mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::vector<std::string> names = {"vocab.json", "merges.txt", "tokenizer_config.json",
                                    "added_tokens.json"};
  if (data[0] == 'w') names = {"vocab.txt", "tokenizer_config.json", "added_tokens.json"};
  for (const auto& entry : fs::directory_iterator(folder.path)) fs::remove(entry.path());
  if (data[0] == 's') {
    names = {"tokenizer_config.json", "added_tokens.json"};
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
  } catch (const std::runtime_error&) {
  }
  return 0;
}
