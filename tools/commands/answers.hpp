#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "model/config/config.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "net/buffer.hpp"

namespace cleave::tools {

/// One thing that is asked about: an image, a text, or a pair of texts.
struct Question {
  std::string what;                 // its path, or the text itself
  nlohmann::json named;             // the same as programs read it: {"image"}, {"text"} or
                                    // {"text_a", "text_b"}
  net::Value input;                 // as a request holds it
  std::vector<model::TokenId> ids;  // of a text
};

/// What a model's task makes of its output, for people and for programs. The shares of classes of
/// which one is right are 1 together; each of several that may be right has one of its own; of a
/// regression all numbers are shown as they are. Of classes and of the
/// tokens for a mask the `top` likeliest; of embeddings, and of the features of a model of images
/// without a head (its class token's last state), also how near (cosine) they are to the first one.
class Answers {
 public:
  Answers(const model::ModelConfig& config, const model::Tokenizer* tokenizer, std::size_t top);
  /// "cat 93.1 %  dog 4.0 %"
  std::string line(const Question& question, const net::Value& output);
  /// {"classes": [{"class", "label", "share"}]}, {"values": [{"class", "label", "value"}]},
  /// {"masks": [{"position", "tokens": [{"id", "token", "share"}]}]}, {"embedding",
  /// "cosine_with_first"} or {"features", "cosine_with_first"}
  nlohmann::json json(const Question& question, const net::Value& output);

  /// The token that a masked language model fills in. Throws std::runtime_error where the tokenizer
  /// has none.
  static model::TokenId mask_of(const model::Tokenizer& tokenizer);

 private:
  /// Of one row of logits.
  struct Likely {
    std::size_t index = 0;
    float share = 0;
  };
  /// Where a text has masks.
  std::vector<std::size_t> masks_of(const Question& question) const;
  std::vector<Likely> likeliest(const float* logits, std::size_t count) const;
  std::string line_of_values(const std::vector<float>& values) const;
  std::string label(std::size_t index) const;
  double cosine_with_first(const std::vector<float>& embedding);

  const model::ModelConfig& config_;
  const model::Tokenizer* tokenizer_;
  std::size_t top_;
  std::vector<float> first_;
};

/// The numbers of an f32 value.
std::vector<float> floats_of(const net::Value& value);

}  // namespace cleave::tools
