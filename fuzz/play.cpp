// Plays a fuzzer's seeds where there is no libFuzzer: each as it is, cut short, and with one byte
// replaced, at every place of a short one. Usage: NAME_fuzz FOLDER
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

/// Copied to where its end is the end of what may be read.
void play(const std::string& bytes) {
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) return std::fputs("play: needs a folder of seeds\n", stderr), 2;
  std::size_t seeds = 0;
  for (const auto& entry : std::filesystem::directory_iterator(words[1])) {
    const std::string seed = cleave::base::read_text(entry.path());
    play(seed);
    // A long seed is changed in some 500 places.
    const std::size_t step = std::max<std::size_t>(1, seed.size() / 500);
    for (std::size_t at = 0; at < seed.size(); at += step) {
      play(seed.substr(0, at));
      for (const char byte : {'\0', '"', '\xff'}) {
        std::string changed = seed;
        changed[at] = byte;
        play(changed);
      }
    }
    ++seeds;
  }
  std::printf("%zu seeds\n", seeds);
  return seeds > 0 ? 0 : 1;
}
