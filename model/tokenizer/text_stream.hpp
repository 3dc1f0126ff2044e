#pragma once

#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.hpp"

namespace cleave::model {

/// A text as its tokens come: says what can be shown, holds back what may still change (half a
/// character, the beginning of a stop string), and ends at a stop string, which it leaves out.
class TextStream {
 public:
  /// What comes goes on from `prompt`. Empty stop strings are ignored.
  TextStream(const Tokenizer& tokenizer, std::vector<TokenId> prompt,
             std::vector<std::string> stops = {});
  /// The text that this token lets be shown.
  std::string push(TokenId token);
  /// A stop string was seen: nothing comes any more.
  bool stopped() const { return stopped_; }
  /// What was held back, at the end.
  std::string finish();

 private:
  /// Everything behind the prompt so far.
  std::string text() const;
  std::string show_to(const std::string& text, std::size_t end);

  const Tokenizer& tokenizer_;
  std::vector<TokenId> ids_;
  std::size_t prompt_bytes_ = 0, shown_ = 0;
  std::vector<std::string> stops_;
  bool stopped_ = false;
};

}  // namespace cleave::model
