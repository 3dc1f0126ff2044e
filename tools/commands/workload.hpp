#pragma once

#include <cstdint>

#include "infer/service.hpp"
#include "model/config/config.hpp"
#include "optimizer/plan/plan.hpp"
#include "tools/options.hpp"

namespace cleave::tools {

/// What is asked for measuring: images of noise, texts of random tokens, or (a language model's
/// shape with `generate`) texts that begin with a prompt and go on by a token at a time. Compute
/// does not depend on what is in them.
class Workload {
 public:
  /// Throws std::invalid_argument where a text is longer than the model's context.
  Workload(const model::ModelConfig& config, const plan::RequestShape& shape, std::uint64_t seed);

  /// Requests one after another: a text that is in work.
  struct Stream {
    std::uint64_t sequence = 0;
    std::int64_t past = 0;
  };
  struct Item {
    infer::Request request;
    bool counts = true;  // false: a prompt, whose step is not what is measured
  };
  /// The stream's next request; begins a new text where there is none or it is at its end.
  Item next(Stream& stream, infer::Service& service) const;
  /// Frees what the devices keep of it.
  void end(Stream& stream, infer::Service& service) const;

  bool generates() const { return shape_.generate > 0; }
  const plan::RequestShape& shape() const { return shape_; }
  /// "images", "texts", "tokens": what a request brings `batch` of.
  const char* unit() const;
  /// A request that stands for itself.
  const net::Value& input() const { return whole_; }

 private:
  plan::RequestShape shape_;
  bool is_text_ = false;
  net::Value whole_, one_;  // the images, texts or prompts; a token of each
};

/// --batch, --tokens and --generate, each the plan's where it is not given, and no longer than the
/// model's context. --tokens without --generate asks for a prompt: nothing is generated.
plan::RequestShape shape_of(const Args& args, const plan::RequestShape& planned,
                            const model::ModelConfig& config);

}  // namespace cleave::tools
