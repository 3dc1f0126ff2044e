// PRISM against the whole model, Voltage, and what its formulas say, computed plainly.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/transformer.hpp"
#include "tests/infer/exact.hpp"
#include "tests/optimizer/examples.hpp"

namespace cleave::infer {
namespace {

using at::Tensor;
using model::Range;
using Content = plan::Segments::Content;

constexpr auto all_contents = {Content::means, Content::clusters};

/// S of every device, or as many as it has rows.
plan::Plan with_count(const ModelConfig& config, std::size_t devices, std::int64_t count,
                      Content content = Content::means) {
  plan::Plan plan = examples::prism_plan(config, devices);
  plan.segments->content = content;
  plan.segments->compression.clear();
  plan.segments->count = {count};
  return plan;
}

plan::Plan with_compression(const ModelConfig& config, std::size_t devices, std::int64_t hundredths,
                            Content content = Content::means) {
  plan::Plan plan = examples::prism_plan(config, devices);
  plan.segments->content = content;
  plan.segments->compression = {hundredths};
  return plan;
}

/// Texts of these lengths, padded to the longest.
net::Value texts(const std::vector<std::int64_t>& lengths) {
  const std::int64_t tokens = *std::max_element(lengths.begin(), lengths.end());
  std::vector<std::int32_t> ids;
  for (std::size_t text = 0; text < lengths.size(); ++text)
    for (std::int64_t i = 0; i < tokens; ++i)
      ids.push_back(i < lengths[text]
                        ? static_cast<std::int32_t>((5 * i + 3 * static_cast<int>(text) + 1) % 31)
                        : -1);
  return value_of({static_cast<std::int64_t>(lengths.size()), tokens}, ids, Element::i32);
}

// ---- what the formulas say, text by text ----

using Group = std::vector<std::int64_t>;  // rows that are one for the others

/// Consecutive rows, the larger segments first; those behind the end of the text are in none.
std::vector<Group> segments_of(Range rows, std::int64_t segments, std::int64_t end) {
  std::vector<Group> groups;
  std::int64_t row = rows.begin;
  for (std::int64_t s = 0; s < segments; ++s) {
    groups.emplace_back();
    const std::int64_t size = rows.size() / segments + (s < rows.size() % segments ? 1 : 0);
    for (std::int64_t i = 0; i < size; ++i, ++row)
      if (row < end) groups.back().push_back(row);
  }
  return groups;
}

Tensor mean_of(const Tensor& x, const Group& rows) {
  Tensor sum = at::zeros({x.size(1)}, x.options());
  for (const std::int64_t row : rows) sum = sum + x[row];
  return sum / static_cast<double>(rows.size());
}

/// Four steps of Lloyd's, from rows on that are far from each other.
std::vector<Group> clusters_of(const Tensor& x, std::vector<Group> groups) {
  Group rows;
  for (const Group& group : groups) rows.insert(rows.end(), group.begin(), group.end());
  if (rows.empty()) return groups;
  const auto between = [](const Tensor& a, const Tensor& b) {
    return (a - b).square().sum().item<double>();
  };
  std::vector<Tensor> centres = {x[rows[0]]};
  while (centres.size() < groups.size()) {
    std::int64_t farthest = rows[0];
    double most = -1;
    for (const std::int64_t row : rows) {
      double nearest = std::numeric_limits<double>::infinity();
      for (const Tensor& centre : centres) nearest = std::min(nearest, between(x[row], centre));
      if (nearest > most) {
        most = nearest;
        farthest = row;
      }
    }
    centres.push_back(x[farthest]);
  }
  for (int step = 0; step < 4; ++step) {
    for (Group& group : groups) group.clear();
    for (const std::int64_t row : rows) {
      std::size_t nearest = 0;
      double least = std::numeric_limits<double>::infinity();
      for (std::size_t c = 0; c < centres.size(); ++c) {
        const double distance = between(x[row], centres[c]);
        if (distance < least) {
          least = distance;
          nearest = c;
        }
      }
      groups[nearest].push_back(row);
    }
    for (std::size_t c = 0; c < centres.size(); ++c)
      if (!groups[c].empty()) centres[c] = mean_of(x, groups[c]);
  }
  return groups;
}

/// Pairs (i, i + K/2) of each head turned by position · base^(−2i/K). [N, H·K].
Tensor turned(const ModelConfig& config, const Tensor& x, const std::vector<double>& positions) {
  if (config.rotary_base == 0) return x;
  Tensor y = x.clone();
  const std::int64_t half = config.head_width / 2;
  for (std::int64_t row = 0; row < x.size(0); ++row)
    for (std::int64_t first = 0; first < x.size(1); first += config.head_width)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            positions[static_cast<std::size_t>(row)] *
            std::pow(config.rotary_base,
                     -2.0 * static_cast<double>(i) / static_cast<double>(config.head_width));
        const double a = x[row][first + i].item<double>(),
                     b = x[row][first + half + i].item<double>();
        y[row][first + i] = a * std::cos(angle) - b * std::sin(angle);
        y[row][first + half + i] = b * std::cos(angle) + a * std::sin(angle);
      }
  return y;
}

Tensor projected(const Transformer& model, int layer, model::Projection which, const Tensor& x) {
  const std::string name = model::projection_prefix(layer, which);
  return at::linear(x, model[name + ".weight"],
                    model.config.qkv_bias ? model[name + ".bias"] : Tensor());
}

/// The segments of a layer for each part of one text.
using Grouping = std::function<std::vector<Group>(int layer, std::size_t part, const Tensor& read)>;

/// What attention adds to the rows of one part: keys and values are its own rows, and for the
/// others their groups' means, *physically repeated* as often as they have rows. [N, D] -> [n, D].
Tensor plain_attention(const Transformer& model, int layer, const std::vector<Range>& parts,
                       std::size_t part, const Grouping& grouping, const Tensor& read) {
  const ModelConfig& config = model.config;
  const Range own = parts[part];
  std::vector<Tensor> rows;
  std::vector<double> positions;
  std::int64_t own_begin = 0;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    if (p == part) {
      own_begin = static_cast<std::int64_t>(rows.size());
      for (std::int64_t row = own.begin; row < own.end; ++row) {
        rows.push_back(read[row]);
        positions.push_back(static_cast<double>(row));
      }
      continue;
    }
    if (config.causal && p > part) continue;
    for (const Group& group : grouping(layer, p, read)) {
      double position = 0;
      for (const std::int64_t row : group) position += static_cast<double>(row);
      for (std::size_t i = 0; i < group.size(); ++i) {
        rows.push_back(mean_of(read, group));
        positions.push_back(position / static_cast<double>(group.size()));
      }
    }
  }
  const std::vector<double> of_queries(positions.begin() + own_begin,
                                       positions.begin() + own_begin + own.size());
  const Tensor keys_of = at::stack(rows);
  const Tensor q = turned(
      config,
      projected(model, layer, model::Projection::query, read.narrow(0, own.begin, own.size())),
      of_queries);
  const Tensor k =
      turned(config, projected(model, layer, model::Projection::key, keys_of), positions);
  const Tensor v = projected(model, layer, model::Projection::value, keys_of);
  std::vector<Tensor> heads;
  const std::int64_t width = config.head_width;
  for (std::int64_t head = 0; head * width < q.size(1); ++head) {
    const std::int64_t shared = head / config.group * width;
    Tensor scores = at::matmul(q.narrow(1, head * width, width), k.narrow(1, shared, width).t()) /
                    std::sqrt(static_cast<double>(width));
    if (config.causal)
      for (std::int64_t i = 0; i < own.size(); ++i)
        for (std::int64_t j = i + 1; j < own.size(); ++j)
          scores[i][own_begin + j] = -std::numeric_limits<double>::infinity();
    heads.push_back(at::matmul(at::softmax(scores, -1), v.narrow(1, shared, width)));
  }
  const std::string name = model::output_prefix(layer, model::Half::attention);
  return at::linear(at::cat(heads, 1), model[name + ".weight"],
                    config.output_bias ? model[name + ".bias"] : Tensor());
}

/// One text or image in parts, x [1, N, D] as embedded -> what the model answers.
Tensor plain_answer(const Transformer& model, Tensor x, const std::vector<Range>& parts,
                    const Grouping& grouping) {
  const ModelConfig& config = model.config;
  const bool before = config.norm_placement == model::NormPlacement::before;
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    const auto normed = [&](model::NormOf which, const Tensor& y) {
      return model::norm(model, model::norm_prefix(layer, which), y);
    };
    const Tensor read = (before ? normed(model::NormOf::attention, x) : x)[0];
    std::vector<Tensor> added;
    for (std::size_t p = 0; p < parts.size(); ++p)
      if (parts[p].size() > 0)
        added.push_back(plain_attention(model, layer, parts, p, grouping, read));
    x = x + at::cat(added, 0).unsqueeze(0);
    if (!before) x = normed(model::NormOf::attention, x);
    const model::Range columns{0, config.layers[static_cast<std::size_t>(layer)].mlp_width};
    x = x + model::mlp_down(
                model, layer, columns,
                model::mlp_up(model, layer, columns, before ? normed(model::NormOf::mlp, x) : x),
                true);
    if (!before) x = normed(model::NormOf::mlp, x);
  }
  if (config.task == model::Task::causal_lm) x = x.narrow(1, x.size(1) - 1, 1);
  return model::classify(model, model::read_out(model, x, {}));
}

/// Rows of each device that computes.
std::vector<Range> parts_of(const plan::Plan& plan, const plan::RequestShape& shape) {
  std::vector<Range> parts;
  for (const plan::Program& program : plan::compile(plan, shape))
    if (const auto* embed = plan::find_first<plan::Embed>(program)) parts.push_back(embed->rows);
  return parts;
}

/// The text's own rows of each part; its last rows belong to the last one, wherever they stand.
std::vector<Range> cut(std::vector<Range> parts, std::int64_t prompt, std::int64_t tokens) {
  for (Range& part : parts) part = {std::min(part.begin, prompt), std::min(part.end, prompt)};
  parts.back().end = tokens;
  return parts;
}

/// Of a plan whose rows are divided like that.
Grouping grouping_of(const plan::Plan& plan, const std::vector<Range>& parts, std::int64_t prompt) {
  return [plan, parts, prompt](int layer, std::size_t p, const Tensor& read) {
    const std::int64_t rows = parts[p].size();
    const std::int64_t segments = plan.segments->of(static_cast<std::size_t>(layer), rows);
    const auto groups = segments_of(parts[p], segments, prompt);
    const bool alike = plan.segments->content == Content::clusters && segments < rows;
    return alike ? clusters_of(read, groups) : groups;
  };
}

double distance(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>() / b.abs().max().item<double>();
}

/// Angles are computed in fp32.
double tolerance(const ModelConfig& config) { return config.rotary_base > 0 ? 1e-5 : 1e-11; }

class Prism : public testing::TestWithParam<std::pair<const std::string, ModelConfig>> {};

TEST_P(Prism, WithASegmentForEachRowAnswersAsTheWholeModelAndAsVoltage) {
  const ModelConfig& config = GetParam().second;
  const Transformer teacher = lively(config);
  for (const Element element : {Element::f32, Element::f64})
    for (const std::int64_t batch : {1, 3}) {
      const net::Value input = input_of(config, batch, 7);
      const std::vector<plan::RequestShape> shapes = {{batch, 7, 0}};
      const net::Value whole = Fleet(teacher, local(config), element, shapes).answer(input);
      for (std::size_t devices = 1; devices <= 5; ++devices)
        for (const Content content : all_contents) {
          const net::Value answer =
              Fleet(teacher, with_count(config, devices, 1000, content), element, shapes)
                  .answer(input);
          const net::Value voltage =
              Fleet(teacher, examples::voltage_plan(config, devices), element, shapes)
                  .answer(input);
          const double limit = element == Element::f64 ? 1e-11 : 1e-5;
          EXPECT_LE(difference(answer, whole), limit) << devices << ", batch " << batch;
          EXPECT_LE(difference(answer, voltage), element == Element::f64 ? 1e-11 : 1e-6)
              << devices << ", batch " << batch;
        }
    }
}

// softmax(q·kᵀ/√K + log g) is attention over rows that are repeated g times.
TEST_P(Prism, AnswersAsIfMeansWereRepeated) {
  ModelConfig config = GetParam().second;
  config.image_height = config.image_width = 4 * config.patch;
  config.processing.height = config.processing.width = config.image_height;
  const Transformer teacher = lively(config), model = in_doubles(teacher);
  const std::vector<std::int64_t> lengths = {11, 6, 2};
  const net::Value input = config.is_text() ? texts(lengths) : input_of(config, 2, 0);
  const std::int64_t tokens = config.is_text() ? 11 : config.num_tokens();
  const plan::RequestShape shape{input.dims[0], tokens, 0};
  for (const std::size_t devices : {2u, 5u})
    for (const std::int64_t hundredths : {150, 400})
      for (const Content content : all_contents) {
        const plan::Plan plan = with_compression(config, devices, hundredths, content);
        const net::Value answered = Fleet(teacher, plan, Element::f64, {shape}).answer(input);
        const Tensor answer = tensor_of(answered);
        const std::vector<Range> parts = parts_of(plan, shape);
        ASSERT_EQ(parts.size(), std::min<std::size_t>(4, devices));
        for (std::int64_t b = 0; b < input.dims[0]; ++b) {
          const std::int64_t length =
              config.is_text() ? lengths[static_cast<std::size_t>(b)] : tokens;
          const Tensor given = at::from_blob(const_cast<std::byte*>(input.data.data()), input.dims,
                                             config.is_text() ? at::kInt : at::kByte)[b]
                                   .unsqueeze(0);
          const Tensor x = model::embed(
              model, config.is_text() ? given.narrow(1, 0, length)
                                      : model::normalise_pixels(config, given).to(at::kDouble));
          const Tensor expected = plain_answer(model, x, cut(parts, length, length),
                                               grouping_of(plan, parts, length))[0];
          const bool every = config.task == model::Task::masked_lm;
          EXPECT_LE(distance(every ? answer[b].narrow(0, 0, length) : answer[b], expected),
                    tolerance(config))
              << devices << " devices, compression " << hundredths << ", text " << b;
        }
      }
}

TEST_P(Prism, ContinuesTextsAsTheWholeModelWithASegmentForEachRow) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "generates nothing";
  const Transformer teacher = lively(config);
  const std::vector<plan::RequestShape> shapes = {{3, 9, 0}, {3, 1, 0}};
  Fleet whole(teacher, local(config), Element::f64, shapes);
  for (const std::size_t devices : {2u, 3u, 5u}) {
    Fleet fleet(teacher, with_count(config, devices, 1000), Element::f64, shapes);
    Sequence sequence{9, 0, 15};
    net::Value input = texts({9, 4, 1});
    for (int step = 0; step < 6; ++step) {
      EXPECT_LE(difference(fleet.answer(input, sequence), whole.answer(input, sequence)), 1e-11)
          << devices << " devices, step " << step;
      sequence.past += input.dims.at(1);
      input = value_of({3, 1}, std::vector<std::int32_t>{step, 7 + step, 3 * step}, Element::i32);
    }
  }
}

TEST_P(Prism, ContinuesTextsWithSeveralTokensAsTheWholeModelWithASegmentForEachRow) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "generates nothing";
  const Transformer teacher = lively(config);
  const std::vector<plan::RequestShape> shapes = {
      {3, 6, 0}, {3, 1, 0}, examples::continuing(3, 3), examples::continuing(3, 4)};
  Fleet whole(teacher, local(config), Element::f64, shapes);
  for (const std::size_t devices : {2u, 3u, 5u}) {
    Fleet fleet(teacher, with_count(config, devices, 1000), Element::f64, shapes);
    Sequence sequence{9, 0, 15};
    for (const std::int64_t tokens : {6, 3, 1, 4, 1}) {
      const net::Value input = input_of(config, 3, tokens);
      EXPECT_LE(difference(fleet.answer(input, sequence), whole.answer(input, sequence)), 1e-11)
          << devices << " devices, " << tokens << " behind " << sequence.past;
      sequence.past += tokens;
    }
  }
}

// Several tokens at once are what they are one by one.
TEST_P(Prism, ContinuesTextsWithSeveralTokensBehindMeans) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "generates nothing";
  const Transformer teacher = lively(config);
  const std::vector<plan::RequestShape> shapes = {
      {3, 11, 0}, {3, 1, 0}, examples::continuing(3, 4)};
  for (const Content content : all_contents) {
    const plan::Plan plan = with_compression(config, 3, 200, content);
    Fleet at_once(teacher, plan, Element::f64, shapes),
        in_turn(teacher, plan, Element::f64, shapes);
    at_once.answer(texts({11, 6, 2}), {9, 0, 15});
    in_turn.answer(texts({11, 6, 2}), {9, 0, 15});
    const net::Value answer = at_once.answer(texts({4, 4, 4}), {9, 11, 15});
    net::Value last;
    const net::Value given = texts({4, 4, 4});
    const Tensor ids = at::from_blob(const_cast<std::byte*>(given.data.data()), {3, 4}, at::kInt);
    for (int token = 0; token < 4; ++token) {
      const Tensor column = ids.select(1, token).contiguous();
      const auto* id = column.data_ptr<std::int32_t>();
      last = in_turn.answer(value_of({3, 1}, std::vector<std::int32_t>(id, id + 3), Element::i32),
                            {9, 11 + token, 15});
    }
    EXPECT_LE(difference(answer, last), 1e-11);
  }
}

// What a token sees depends on nothing behind it: each is answered as the last of a shorter text.
TEST_P(Prism, AnswersForEveryTokenAsIfMeansWereRepeated) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "answers so always";
  const Transformer teacher = lively(config), model = in_doubles(teacher);
  const plan::RequestShape every_token = examples::every_token(1, 11);
  const net::Value given = texts({11});
  const Tensor ids = at::from_blob(const_cast<std::byte*>(given.data.data()), {1, 11}, at::kInt);
  for (const std::size_t devices : {1u, 2u, 5u})
    for (const Content content : all_contents) {
      const plan::Plan plan = with_compression(config, devices, 200, content);
      const std::vector<Range> parts = parts_of(plan, every_token);
      const net::Value answered =
          Fleet(teacher, plan, Element::f64, {every_token}).answer(every_token, given);
      const Tensor answer = tensor_of(answered);
      ASSERT_EQ(answer.size(1), 11);
      for (std::int64_t end = 1; end <= 11; ++end) {
        const Tensor expected =
            plain_answer(model, model::embed(model, ids.narrow(1, 0, end)), cut(parts, end, end),
                         grouping_of(plan, parts, end))[0];
        EXPECT_LE(distance(answer[0].narrow(0, end - 1, 1), expected), tolerance(config))
            << devices << " devices, token " << end - 1;
      }
    }
}

// New tokens belong to the last part, whose device goes on alone.
TEST_P(Prism, ContinuesTextsBehindMeans) {
  const ModelConfig& config = GetParam().second;
  if (!config.causal) GTEST_SKIP() << "generates nothing";
  const Transformer teacher = lively(config), model = in_doubles(teacher);
  const std::vector<std::int64_t> lengths = {11, 6, 2};
  for (const std::size_t devices : {2u, 5u})
    for (const Content content : all_contents) {
      const plan::Plan plan = with_compression(config, devices, 200, content);
      const plan::RequestShape prompt{3, 11, 0};
      Fleet fleet(teacher, plan, Element::f64, {prompt, {3, 1, 0}});
      const std::vector<Range> parts = parts_of(plan, prompt);
      const net::Value given = texts(lengths);
      std::vector<Tensor> ids;
      for (std::int64_t b = 0; b < 3; ++b)
        ids.push_back(at::from_blob(const_cast<std::byte*>(given.data.data()), {3, 11}, at::kInt)[b]
                          .narrow(0, 0, lengths[static_cast<std::size_t>(b)])
                          .clone());
      Sequence sequence{9, 0, 15};
      fleet.answer(given, sequence);
      for (int step = 0; step < 4; ++step) {
        sequence.past = 11 + step;
        const std::vector<std::int32_t> next = {step, 7 + step, 3 * step};
        const net::Value answered = fleet.answer(value_of({3, 1}, next, Element::i32), sequence);
        const Tensor answer = tensor_of(answered);
        for (std::size_t b = 0; b < 3; ++b) {
          ids[b] = at::cat({ids[b], at::tensor({next[b]}, at::kInt)});
          const Tensor expected = plain_answer(model, model::embed(model, ids[b].unsqueeze(0)),
                                               cut(parts, lengths[b], ids[b].size(0)),
                                               grouping_of(plan, parts, lengths[b]))[0];
          EXPECT_LE(distance(answer[static_cast<std::int64_t>(b)], expected), tolerance(config))
              << devices << " devices, step " << step << ", text " << b;
        }
        for (std::size_t rank = 0; rank + 1 < parts.size(); ++rank)
          EXPECT_EQ(fleet.sent[rank], 0) << "rank " << rank << " computes in a step";
      }
    }
}

TEST(PrismText, ThatIsAskedAgainGoesOnWhereItWas) {
  const ModelConfig config = of_texts(Family::llama);
  Fleet fleet(lively(config), with_compression(config, 3, 200), Element::f64,
              {{3, 11, 0}, {3, 1, 0}});
  const auto step = [&](std::int64_t past, std::int32_t id) {
    return fleet.answer(value_of({3, 1}, std::vector<std::int32_t>(3, id), Element::i32),
                        {9, past, 15});
  };
  fleet.answer(texts({11, 6, 2}), {9, 0, 15});
  const net::Value first = step(11, 4);
  step(12, 5);
  EXPECT_EQ(difference(step(11, 4), first), 0);
  EXPECT_GT(difference(step(11, 6), first), 0);
}

/// Bytes that each rank sends, of a token that is the only one to differ.
std::vector<std::vector<std::byte>> said_by(const Transformer& teacher, const plan::Plan& plan,
                                            std::int64_t changed) {
  std::vector<std::int32_t> ids(10, 3);
  if (changed >= 0) ids[static_cast<std::size_t>(changed)] = 4;
  Fleet fleet(teacher, plan, Element::f32, {{1, 10, 0}});
  std::vector<std::vector<std::byte>> said(plan.parts.size() + 1);
  fleet.on_send = [&](std::int32_t from, const net::Value& value) {
    auto& bytes = said[static_cast<std::size_t>(from)];
    bytes.insert(bytes.end(), value.data.data(), value.data.data() + value.data.size());
  };
  fleet.answer(value_of({1, 10}, ids, Element::i32));
  return said;
}

// Rows 6 : 2 : 2.
TEST(PrismText, ATokenOfALaterPartNeverChangesAnEarlierOne) {
  for (const Family family : {Family::gpt2, Family::llama})
    for (const Content content : all_contents) {
      const ModelConfig config = of_texts(family);
      const Transformer teacher = lively(config);
      const plan::Plan plan = with_compression(config, 3, 200, content);
      const auto before = said_by(teacher, plan, -1);
      const auto of_second = said_by(teacher, plan, 7), of_last = said_by(teacher, plan, 9);
      EXPECT_EQ(of_second[0], before[0]);
      EXPECT_NE(of_second[1], before[1]);
      EXPECT_NE(of_second[2], before[2]);
      EXPECT_EQ(of_last[0], before[0]);
      EXPECT_EQ(of_last[1], before[1]);
      EXPECT_NE(of_last[2], before[2]);
    }
}

// (P−1)·S_p·D numbers a block from each device, and at the end what its rows bring to the feature.
TEST(PrismExchange, IsWhatTheFormulaSays) {
  const std::int64_t batch = 2, layers = 5;
  const std::vector<std::int64_t> rows = {6, 2, 2};
  for (const std::int64_t segments : {1, 2, 4})
    for (const Content content : all_contents)
      for (const Family family : {Family::bert, Family::gpt2}) {
        const ModelConfig config = of_texts(family);
        Fleet fleet(lively(config), with_count(config, 3, segments, content), Element::f32,
                    {{batch, 10, 0}});
        fleet.answer(input_of(config, batch, 10));
        const std::size_t answers = config.causal ? 2 : 0;
        for (std::size_t p = 0; p < rows.size(); ++p) {
          const std::int64_t s = std::min(segments, rows[p]);
          const std::int64_t marks = content == Content::clusters && s < rows[p] ? 2 : 0;
          const std::int64_t others = config.causal ? 2 - static_cast<std::int64_t>(p) : 2;
          const std::int64_t answer = batch * (config.causal ? config.classes : config.width);
          EXPECT_EQ(fleet.sent[p], 4 * (layers * others * s * batch * (config.width + marks) +
                                        (p == answers ? answer : batch * config.width)))
              << model::name_of(family) << " rank " << p << ", S " << segments;
        }
      }
}

// A layer may have its own number.
TEST(PrismExchange, GoesByTheLayer) {
  const ModelConfig config = of_texts(Family::bert);
  plan::Plan plan = with_count(config, 2, 1);
  plan.segments->count = {1, 2, 3, 4, 1000};
  Fleet fleet(lively(config), plan, Element::f32, {{1, 16, 0}});
  fleet.answer(input_of(config, 1, 16));
  EXPECT_EQ(fleet.sent[1], 4 * config.width * (1 + 2 + 3 + 4 + 4 + 1)) << "of 4 rows";
}

INSTANTIATE_TEST_SUITE_P(Models, Prism, testing::ValuesIn(all_models()),
                         [](const auto& model) { return model.param.first; });

}  // namespace
}  // namespace cleave::infer
