#include "model/tokenizer/text_stream.hpp"

#include <algorithm>
#include <utility>

namespace cleave::model {
namespace {

const std::string replacement = "\xEF\xBF\xBD";  // U+FFFD: half a character so far

/// Bytes at the end of `text` that a stop string may begin with.
std::size_t begun(const std::string& text, const std::string& stop) {
  for (std::size_t size = std::min(text.size(), stop.size() - 1); size > 0; --size)
    if (text.compare(text.size() - size, size, stop, 0, size) == 0) return size;
  return 0;
}

bool ends_with(const std::string& text, std::size_t end, const std::string& what) {
  return end >= what.size() && text.compare(end - what.size(), what.size(), what) == 0;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<TokenId> prompt,
                       std::vector<std::string> stops)
    : tokenizer_(tokenizer), ids_(std::move(prompt)), stops_(std::move(stops)) {
  prompt_bytes_ = tokenizer_.decode(ids_).size();
  stops_.erase(std::remove(stops_.begin(), stops_.end(), ""), stops_.end());
}

std::string TextStream::text() const {
  const std::string all = tokenizer_.decode(ids_);
  return all.substr(std::min(prompt_bytes_, all.size()));
}

std::string TextStream::show_to(const std::string& text, std::size_t end) {
  if (end <= shown_) return {};
  const std::string more = text.substr(shown_, end - shown_);
  shown_ = end;
  return more;
}

std::string TextStream::push(TokenId token) {
  if (stopped_) return {};
  ids_.push_back(token);
  const std::string so_far = text();
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) end = std::min(end, so_far.find(stop));
  if (end != std::string::npos) {
    stopped_ = true;
    return show_to(so_far, end);
  }
  end = so_far.size();
  while (ends_with(so_far, end, replacement)) end -= replacement.size();
  const std::string whole = so_far.substr(0, end);
  std::size_t held = 0;
  for (const std::string& stop : stops_) held = std::max(held, begun(whole, stop));
  return show_to(so_far, end - held);
}

std::string TextStream::finish() {
  if (stopped_) return {};
  const std::string all = text();
  return show_to(all, all.size());
}

}  // namespace cleave::model
