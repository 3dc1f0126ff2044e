#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "infer/draws.hpp"
#include "infer/engine.hpp"
#include "model/checkpoint.hpp"
#include "optimizer/plan/weights.hpp"
#include "tests/model/fixtures.hpp"

// Small models of every family, and fleets whose devices hold what their programs read.

namespace cleave::infer {

using base::Element;
using model::Family;
using model::ModelConfig;
using model::Transformer;

/// 12 heads on as many of keys and values, 5 layers, an MLP that no number of devices divides.
inline ModelConfig wide(ModelConfig config) {
  config.head_width = 4;
  config.width = 24;
  config.layers.assign(5, {12 * config.group, 23});
  if (config.is_text() && config.vocabulary == config.classes) config.classes = 31;
  if (config.is_text()) config.vocabulary = 31;
  return config;
}

inline ModelConfig of_images(Family family) {
  ModelConfig config = model::testing::tiny_config();
  config.family = family;
  return wide(config);
}

inline ModelConfig of_texts(Family family) {
  return wide(model::testing::tiny_text_config(family));
}

inline ModelConfig distilled() {
  ModelConfig config = of_images(Family::deit);
  config.summary_tokens = 2;
  return config;
}

inline ModelConfig grouped() {
  ModelConfig config = model::testing::tiny_text_config(Family::llama);
  config.group = 2;
  return wide(config);
}

inline ModelConfig classifier(Family family) {
  ModelConfig config = of_texts(family);
  config.task = model::Task::classification;
  config.classes = 3;
  config.tied_head = false;
  return config;
}

inline ModelConfig masked(Family family) {
  ModelConfig config = of_texts(family);
  config.task = model::Task::masked_lm;
  config.classes = config.vocabulary;
  return config;
}

/// Every family, and every way of reading out.
inline std::map<std::string, ModelConfig> all_models() {
  return {{"vit", of_images(Family::vit)},
          {"deit", of_images(Family::deit)},
          {"distilled", distilled()},
          {"bert", of_texts(Family::bert)},
          {"bert_masked", masked(Family::bert)},
          {"bert_classifier", classifier(Family::bert)},
          {"roberta", of_texts(Family::roberta)},
          {"distilbert", classifier(Family::distilbert)},
          {"gpt2", of_texts(Family::gpt2)},
          {"llama", of_texts(Family::llama)},
          {"llama_grouped", grouped()},
          {"qwen2", of_texts(Family::qwen2)},
          {"mistral", of_texts(Family::mistral)}};
}

inline Transformer lively(const ModelConfig& config) {
  Transformer model = model::random_model(config, 1);
  at::manual_seed(7);
  for (auto& [name, tensor] : model.tensors) tensor = tensor + 0.3 * at::randn(tensor.sizes());
  return model;
}

inline Transformer in_doubles(Transformer model) {
  for (auto& [name, tensor] : model.tensors) tensor = tensor.to(at::kDouble);
  return model;
}

/// What a device holds of the teacher: nothing but the ranges.
inline Transformer held_of(const Transformer& teacher,
                           const std::vector<plan::WeightRange>& weights) {
  Transformer held;
  held.config = teacher.config;
  for (const auto& [part, some] : weights) {
    held.tensors[some.name] =
        teacher[some.name].narrow(some.axis, some.range.begin, some.range.size()).clone();
    held.begins[some.name] = some.range.begin;
  }
  return held;
}

inline plan::Plan local(const ModelConfig& teacher) { return plan::whole_plan(teacher, "d0"); }

/// Devices that hold what their programs read, each with an engine.
class Fleet {
 public:
  Fleet(const Transformer& teacher, plan::Plan plan, Element element,
        const std::vector<plan::RequestShape>& shapes)
      : plan_(std::move(plan)), element_(element) {
    EngineOptions options;
    options.element = element;
    options.warm_up = false;
    std::vector<std::vector<plan::Program>> compiled;
    for (const plan::RequestShape& shape : shapes)
      compiled.push_back(plan::compile(plan_, shape, element));
    for (std::size_t rank = 0; rank <= plan_.parts.size(); ++rank) {
      std::vector<const plan::Program*> programs;
      for (const auto& ranks : compiled) programs.push_back(&ranks.at(rank));
      Transformer held =
          plan_.strategy == "local" ? teacher : held_of(teacher, plan::weights_of(programs, plan_));
      engines_.push_back(model_engine(std::move(held), options));
    }
  }

  net::Value answer(const net::Value& input, const Sequence& sequence = {}) {
    return run({input}, shape_of(input, sequence), sequence);
  }
  /// What the programs of this shape make of it.
  net::Value answer(const plan::RequestShape& shape, const net::Value& input,
                    const Sequence& sequence = {}) {
    return run({input}, shape, sequence);
  }

  /// The next token of each text, from k candidates of each device, or where that is not certain
  /// from the logits that they kept.
  std::vector<Choice> choose(const net::Value& input, const Sequence& sequence,
                             const Sampling& sampling, std::int64_t k) {
    plan::RequestShape shape = shape_of(input, sequence);
    shape.best = k;
    const net::Value options = value_of(sampling, shape.batch);
    net::Value choices = run({input, options}, shape, sequence);
    if (needs_logits(choices)) {
      ++asked_for_kept;
      shape.from_kept = true;
      choices = run({options}, shape, sequence);
    }
    return choices_of(choices, static_cast<std::size_t>(shape.batch));
  }

  std::vector<std::int64_t> sent;  // bytes of the last request, by rank
  int asked_for_kept = 0;
  std::function<void(std::int32_t from, const net::Value&)> on_send;

 private:
  plan::RequestShape shape_of(const net::Value& input, const Sequence& sequence) const {
    plan::RequestShape shape;
    shape.batch = input.dims.at(0);
    if (plan_.teacher.is_text()) shape.tokens = input.dims.at(1);
    shape.continues = sequence.past > 0;
    return shape;
  }
  net::Value run(const std::vector<net::Value>& inputs, const plan::RequestShape& shape,
                 const Sequence& sequence) {
    std::vector<Engine*> engines;
    for (const auto& engine : engines_) engines.push_back(engine.get());
    sent.assign(engines.size(), 0);
    return play(engines, plan::compile(plan_, shape, element_), inputs, {}, sequence,
                [this](std::int32_t from, std::int32_t, const net::Value& value) {
                  sent.at(static_cast<std::size_t>(from)) += value.bytes();
                  if (on_send) on_send(from, value);
                });
  }

  plan::Plan plan_;
  Element element_;
  std::vector<std::unique_ptr<Engine>> engines_;
};

inline at::Tensor tensor_of(const net::Value& value) {
  void* data = const_cast<std::byte*>(value.data.data());
  return at::from_blob(data, value.dims, value.element == Element::f64 ? at::kDouble : at::kFloat)
      .to(at::kDouble);
}

template <class Number>
inline net::Value value_of(std::vector<std::int64_t> dims, const std::vector<Number>& numbers,
                           Element element) {
  net::Value value;
  value.element = element;
  value.dims = std::move(dims);
  value.data = net::Buffer::copy_of(numbers.data(), numbers.size() * sizeof(Number));
  return value;
}

/// Images, or texts of uneven length.
inline net::Value input_of(const ModelConfig& config, std::int64_t batch, std::int64_t tokens) {
  if (config.is_text()) {
    std::vector<std::int32_t> ids;
    for (std::int64_t row = 0; row < batch; ++row)
      for (std::int64_t i = 0; i < tokens; ++i)
        ids.push_back(i < tokens - row ? static_cast<std::int32_t>((5 * i + 3 * row + 1) % 31)
                                       : -1);
    return value_of({batch, tokens}, ids, Element::i32);
  }
  std::vector<std::uint8_t> pixels;
  const std::int64_t count = batch * config.channels * config.image_height * config.image_width;
  for (std::int64_t i = 0; i < count; ++i)
    pixels.push_back(static_cast<std::uint8_t>(i * 37 % 251));
  return value_of({batch, config.channels, config.image_height, config.image_width}, pixels,
                  Element::u8);
}

inline double difference(const net::Value& a, const net::Value& b) {
  const at::Tensor x = tensor_of(a), y = tensor_of(b);
  EXPECT_EQ(x.sizes(), y.sizes());
  return (x - y).abs().max().item<double>() / y.abs().max().item<double>();
}

}  // namespace cleave::infer
