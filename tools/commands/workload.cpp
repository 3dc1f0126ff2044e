#include "tools/commands/workload.hpp"

#include <algorithm>
#include <random>
#include <stdexcept>

#include "infer/generate.hpp"

namespace cleave::tools {
namespace {

net::Value noise_images(const model::ModelConfig& config, std::int64_t batch,
                        std::mt19937_64& random) {
  net::Value value;
  value.element = base::Element::u8;
  value.dims = {batch, config.channels, config.image_height, config.image_width};
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(value.count()));
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random() & 0xFF);
  value.data = net::Buffer::copy_of(bytes.data(), bytes.size());
  return value;
}

net::Value noise_texts(const model::ModelConfig& config, std::int64_t batch, std::int64_t tokens,
                       std::mt19937_64& random) {
  std::vector<infer::Text> texts(static_cast<std::size_t>(batch));
  for (auto& text : texts)
    for (std::int64_t i = 0; i < tokens; ++i)
      text.push_back(
          static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(config.vocabulary)));
  return infer::filled_up(texts);
}

}  // namespace

Workload::Workload(const model::ModelConfig& config, const plan::RequestShape& shape,
                   std::uint64_t seed)
    : shape_(shape), is_text_(config.is_text()) {
  std::mt19937_64 random(seed);
  if (!is_text_) {
    shape_.tokens = shape_.generate = 0;
    whole_ = noise_images(config, shape_.batch, random);
    return;
  }
  if (shape_.generate > 0 && config.task != model::Task::causal_lm)
    throw std::invalid_argument("[--generate] saw a model that does not generate, needs 0");
  if (shape_.tokens + shape_.generate > config.context)
    throw std::invalid_argument("[--tokens] saw " + std::to_string(shape_.tokens) + " and " +
                                std::to_string(shape_.generate) + " to generate, needs at most " +
                                std::to_string(config.context) + " together, " +
                                config.context_name());
  whole_ = noise_texts(config, shape_.batch, shape_.tokens, random);
  one_ = noise_texts(config, shape_.batch, 1, random);
}

Workload::Item Workload::next(Stream& stream, infer::Service& service) const {
  Item item;
  item.request.input = whole_;
  if (!generates()) return item;
  const std::int64_t capacity = shape_.tokens + shape_.generate;
  if (stream.past >= capacity) end(stream, service);
  item.counts = stream.sequence != 0;
  if (!item.counts) stream.sequence = service.new_sequence();
  item.request.sequence = {stream.sequence, stream.past, capacity};
  item.request.sampling.emplace();  // the most likely token, as a plan's price has it
  if (item.counts) item.request.input = one_;
  stream.past += item.request.input.dims[1];
  return item;
}

void Workload::end(Stream& stream, infer::Service& service) const {
  if (stream.sequence != 0) service.end_sequence(stream.sequence);
  stream = {};
}

const char* Workload::unit() const {
  return generates() ? "tokens" : is_text_ ? "texts" : "images";
}

plan::RequestShape shape_of(const Args& args, const plan::RequestShape& planned,
                            const model::ModelConfig& config) {
  plan::RequestShape shape = planned;
  if (args.given("batch")) shape.batch = args.integer("batch");
  // Tokens alone are a prompt, though the plan's are generated behind.
  if (args.given("generate") || args.given("tokens")) shape.generate = args.integer("generate");
  if (args.given("tokens"))
    shape.tokens = args.integer("tokens");
  else if (shape.tokens == 0)
    shape.tokens = std::min(args.integer("tokens"), config.usual_length() - shape.generate);
  return shape;
}

}  // namespace cleave::tools
