#include "tools/commands/answers.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "tools/print.hpp"

namespace cleave::tools {

using model::Task;

Answers::Answers(const model::ModelConfig& config, const model::Tokenizer* tokenizer,
                 std::size_t top)
    : config_(config), tokenizer_(tokenizer), top_(top) {}

std::string Answers::line(const Question& question, const net::Value& output) {
  std::string text;
  const auto say = [&](const std::vector<Likely>& likely) {
    for (const auto& one : likely) text += label(one.index) + " " + percent(one.share, 1) + "  ";
  };
  const auto numbers = floats_of(output);
  if (config_.classes == 0) {
    for (std::size_t i = 0; i < std::min<std::size_t>(3, numbers.size()); ++i)
      text += format("%.4f ", static_cast<double>(numbers[i]));
    return text + "… (" + std::to_string(numbers.size()) + " numbers)  " +
           format("%.4f with the first", cosine_with_first(numbers));
  }
  if (config_.task == Task::classification) {
    if (config_.problem == model::Problem::regression) return line_of_values(numbers);
    say(likeliest(numbers.data(), numbers.size()));
    return text;
  }
  const auto row = static_cast<std::size_t>(config_.classes);
  for (const std::size_t at : masks_of(question)) {
    text += text.empty() ? "" : "| ";
    say(likeliest(numbers.data() + at * row, row));
  }
  return text;
}

nlohmann::json Answers::json(const Question& question, const net::Value& output) {
  const auto numbers = floats_of(output);
  if (config_.task == Task::embedding)
    return {{"embedding", numbers}, {"cosine_with_first", cosine_with_first(numbers)}};
  if (config_.classes == 0)
    return {{"features", numbers}, {"cosine_with_first", cosine_with_first(numbers)}};
  nlohmann::json list = nlohmann::json::array();
  if (config_.task == Task::classification && config_.problem == model::Problem::regression) {
    for (std::size_t i = 0; i < numbers.size(); ++i)
      list.push_back({{"class", i}, {"label", label(i)}, {"value", numbers[i]}});
    return {{"values", list}};
  }
  if (config_.task == Task::classification) {
    for (const auto& one : likeliest(numbers.data(), numbers.size()))
      list.push_back({{"class", one.index}, {"label", label(one.index)}, {"share", one.share}});
    return {{"classes", list}};
  }
  const auto row = static_cast<std::size_t>(config_.classes);
  for (const std::size_t at : masks_of(question)) {
    nlohmann::json tokens = nlohmann::json::array();
    for (const auto& one : likeliest(numbers.data() + at * row, row))
      tokens.push_back({{"id", one.index}, {"token", label(one.index)}, {"share", one.share}});
    list.push_back({{"position", at}, {"tokens", tokens}});
  }
  return {{"masks", list}};
}

model::TokenId Answers::mask_of(const model::Tokenizer& tokenizer) {
  if (const auto mask = tokenizer.mask()) return *mask;
  throw std::runtime_error("[tokenizer] saw no mask ([MASK], <mask>), needs one to fill in");
}

std::vector<std::size_t> Answers::masks_of(const Question& question) const {
  const model::TokenId mask = mask_of(*tokenizer_);
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < question.ids.size(); ++at)
    if (question.ids[at] == mask) places.push_back(at);
  return places;
}

std::vector<Answers::Likely> Answers::likeliest(const float* logits, std::size_t count) const {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0U);
  const auto shown = static_cast<std::ptrdiff_t>(std::min(count, top_));
  std::partial_sort(order.begin(), order.begin() + shown, order.end(), [&](auto a, auto b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  const float highest = *std::max_element(logits, logits + count);
  float sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += std::exp(logits[i] - highest);
  const auto share = [&](float logit) {
    if (config_.problem == model::Problem::multi_label) return 1 / (1 + std::exp(-logit));
    return std::exp(logit - highest) / sum;
  };
  std::vector<Likely> likely;
  for (std::ptrdiff_t i = 0; i < shown; ++i) {
    const std::size_t index = order[static_cast<std::size_t>(i)];
    likely.push_back({index, share(logits[index])});
  }
  return likely;
}

std::string Answers::line_of_values(const std::vector<float>& values) const {
  std::string text;
  for (std::size_t i = 0; i < values.size(); ++i)
    text += (values.size() == 1 && config_.labels.empty() ? "" : label(i) + " ") +
            format("%.4f  ", static_cast<double>(values[i]));
  return text;
}

std::string Answers::label(std::size_t index) const {
  if (config_.task != Task::classification)
    return tokenizer_->decode({static_cast<model::TokenId>(index)}, false);
  return index < config_.labels.size() ? config_.labels[index] : "class " + std::to_string(index);
}

double Answers::cosine_with_first(const std::vector<float>& embedding) {
  if (first_.empty()) first_ = embedding;
  double dot = 0, own = 0, other = 0;
  for (std::size_t i = 0; i < embedding.size(); ++i) {
    const double a = embedding[i], b = first_[i];
    dot += a * b;
    own += a * a;
    other += b * b;
  }
  return dot / std::sqrt(own * other);
}

std::vector<float> floats_of(const net::Value& value) {
  std::vector<float> numbers(static_cast<std::size_t>(value.count()));
  std::memcpy(numbers.data(), value.data.data(), numbers.size() * sizeof(float));
  return numbers;
}

}  // namespace cleave::tools
