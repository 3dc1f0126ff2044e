#include "model/tokenizer/unicode.hpp"

#include <algorithm>
#include <stdexcept>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/regex.h>
#include <unicode/uchar.h>
#include <unicode/ustring.h>
#include <unicode/utext.h>
#include <unicode/utf8.h>
#include <utility>

namespace cleave::model {
namespace {

constexpr char32_t last_ascii = 0x7F;

std::uint32_t category(char32_t point) { return U_GET_GC_MASK(static_cast<UChar32>(point)); }

/// What ICU counts as steps of matching, of a match each; a text that needs more is hostile.
constexpr std::int32_t most_steps = 10000;

const icu::Normalizer2& normalizer(const icu::Normalizer2* (*instance)(UErrorCode&)) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* found = instance(status);
  if (U_FAILURE(status) != 0)
    throw std::runtime_error(std::string("[unicode] ICU: ") + u_errorName(status));
  return *found;
}

std::string normalized(const icu::Normalizer2& form, std::string_view text) {
  std::string result;
  icu::StringByteSink<std::string> sink(&result, static_cast<std::int32_t>(text.size()));
  UErrorCode status = U_ZERO_ERROR;
  form.normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink,
                     nullptr, status);
  if (U_FAILURE(status) != 0)
    throw std::runtime_error(std::string("[unicode] ICU: ") + u_errorName(status));
  return result;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"  // within ICU's macro
/// The code point at `position`, below 0 where there is none; moves behind it, or behind the
/// maximal invalid sequence.
UChar32 next_or_invalid(std::string_view text, std::size_t& position) {
  UChar32 point = 0;
  U8_NEXT(text.data(), position, text.size(), point);
  return point;
}
#pragma GCC diagnostic pop

}  // namespace

std::optional<std::size_t> first_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    if (next_or_invalid(text, i) < 0) return begin;
  }
  return std::nullopt;
}

std::string why_not_utf8(std::string_view text, const std::string& remedy, std::size_t offset) {
  const auto at = first_invalid_utf8(text);
  if (!at) return {};
  const std::string_view begin = text.substr(0, 2);
  if (offset == 0 && (begin == "\xFF\xFE" || begin == "\xFE\xFF"))
    return "saw a byte order mark of UTF-16, needs UTF-8 (iconv -f UTF-16 -t UTF-8)";
  return "byte " + std::to_string(offset + *at) + ": is no valid UTF-8" +
         (remedy.empty() ? "" : "; " + remedy);
}

std::string repaired_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t begin = i;
    if (next_or_invalid(text, i) < 0)
      append_utf8(0xFFFD, result);
    else
      result.append(text, begin, i - begin);
  }
  return result;
}

std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view mark = "\xEF\xBB\xBF";
  if (text.substr(0, mark.size()) == mark) text.remove_prefix(mark.size());
  return text;
}

char32_t next_code_point(std::string_view text, std::size_t& position) {
  const auto first = static_cast<unsigned char>(text[position]);
  if (first <= last_ascii) {
    ++position;
    return first;
  }
  UChar32 point = 0;
  U8_NEXT_UNSAFE(text.data(), position, point);
  return static_cast<char32_t>(point);
}

void append_utf8(char32_t point, std::string& text) {
  char bytes[U8_MAX_LENGTH];
  std::size_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, point);
  text.append(bytes, size);
}

bool is_white_space(char32_t point) { return u_isUWhiteSpace(static_cast<UChar32>(point)) != 0; }
bool is_control(char32_t point) { return (category(point) & U_GC_C_MASK & ~U_GC_CN_MASK) != 0; }
bool is_letter(char32_t point) { return (category(point) & U_GC_L_MASK) != 0; }
bool is_number(char32_t point) { return (category(point) & U_GC_N_MASK) != 0; }
bool is_nonspacing_mark(char32_t point) { return (category(point) & U_GC_MN_MASK) != 0; }

bool is_punctuation(char32_t point) {
  const bool ascii_symbol = point <= last_ascii && (category(point) & U_GC_S_MASK) != 0;
  return ascii_symbol || (category(point) & U_GC_P_MASK) != 0;
}

std::string to_nfd(std::string_view text) {
  static const icu::Normalizer2& form = normalizer(&icu::Normalizer2::getNFDInstance);
  return normalized(form, text);
}

std::string to_nfc(std::string_view text) {
  static const icu::Normalizer2& form = normalizer(&icu::Normalizer2::getNFCInstance);
  return normalized(form, text);
}

void append_lower(char32_t point, std::string& text) {
  // The full mapping differs from the simple one for this code point only.
  constexpr char32_t capital_i_with_dot = 0x130, combining_dot = 0x307;
  if (point == capital_i_with_dot) {
    text += 'i';
    append_utf8(combining_dot, text);
    return;
  }
  append_utf8(static_cast<char32_t>(u_tolower(static_cast<UChar32>(point))), text);
}

struct Pattern::Compiled {
  std::unique_ptr<const icu::RegexPattern> pattern;
};

Pattern::Pattern(const std::string& expression) {
  // ICU's own \s leaves out U+000B and U+0085.
  std::string known;
  for (std::size_t i = 0; i < expression.size(); ++i) {
    const bool escape = expression[i] == '\\' && i + 1 < expression.size();
    if (!escape) {
      known += expression[i];
      continue;
    }
    const char what = expression[++i];
    if (what == 's' || what == 'S')
      known += what == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
    else
      known.append({'\\', what});
  }
  UErrorCode status = U_ZERO_ERROR;
  UParseError where{};
  std::unique_ptr<const icu::RegexPattern> pattern(
      icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(known), 0, where, status));
  if (U_FAILURE(status) != 0)
    throw std::invalid_argument("saw '" + expression + "', needs a regular expression (" +
                                u_errorName(status) + ")");
  compiled_ = std::make_unique<const Compiled>(Compiled{std::move(pattern)});
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

std::vector<std::string_view> Pattern::cut(std::string_view text) const {
  UErrorCode status = U_ZERO_ERROR;
  UText utf8 = UTEXT_INITIALIZER;
  utext_openUTF8(&utf8, text.data(), static_cast<std::int64_t>(text.size()), &status);
  const std::unique_ptr<UText, decltype(&utext_close)> open(&utf8, utext_close);
  const std::unique_ptr<icu::RegexMatcher> matcher(compiled_->pattern->matcher(status));
  if (U_FAILURE(status) != 0) throw std::runtime_error(u_errorName(status));
  matcher->setTimeLimit(most_steps, status);
  matcher->reset(&utf8);
  std::vector<std::string_view> pieces;
  std::size_t at = 0;
  const auto take = [&](std::size_t end) {
    if (end > at) pieces.push_back(text.substr(at, end - at));
    at = std::max(at, end);
  };
  while (matcher->find(status)) {
    take(static_cast<std::size_t>(matcher->start64(status)));
    take(static_cast<std::size_t>(matcher->end64(status)));
  }
  if (U_FAILURE(status) != 0)
    throw std::runtime_error(std::string("[tokenizer] pattern: takes too long on this text (") +
                             u_errorName(status) + ")");
  take(text.size());
  return pieces;
}

}  // namespace cleave::model
