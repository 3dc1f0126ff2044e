#include "base/text.hpp"

namespace cleave::base {
namespace {

void append_hex(unsigned char byte, std::string& text) {
  constexpr char digits[] = "0123456789abcdef";
  text += "\\x";
  text += digits[byte >> 4];
  text += digits[byte & 15];
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte == '\n') {
      result += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      append_hex(byte, result);
    } else if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {  // U+0080 to U+009F
      append_hex(byte, result);
      append_hex(next, result);
      ++i;
    } else {
      result += text[i];
    }
  }
  return result;
}

}  // namespace cleave::base
