// tokenizer.model, as far as we read it ourselves: whatever the bytes, they are taken or refused
// with one std::runtime_error. What is taken is taken twice in a row too, as protocol buffers are.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "model/tokenizer/sentence_piece_file.hpp"

namespace {

bool takes(const std::string& bytes) {
  try {
    cleave::model::expect_whole_sentence_piece("fuzz", bytes);
    return true;
  } catch (const std::runtime_error&) {
    return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const bool taken = takes(bytes);
  if (taken && !takes(bytes + bytes)) std::abort();
  cleave::model::only_merges(bytes);
  return 0;
}
