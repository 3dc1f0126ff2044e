#include "optimizer/plan/builder.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "model/config/config.hpp"

namespace cleave::plan {
namespace {

/// What answers are shaped like, of features of T rows.
std::vector<std::int64_t> answer_dims(const model::ModelConfig& config, std::int64_t batch,
                                      std::int64_t rows) {
  if (config.task == model::Task::embedding) return {batch, config.width};
  if (config.reads_every_token()) return {batch, rows, config.classes};
  return {batch, config.classes};
}

}  // namespace

ValueId ProgramBuilder::value(std::string name, base::Element element,
                              std::vector<std::int64_t> dims) {
  program_.values.push_back({std::move(name), element, std::move(dims)});
  return static_cast<ValueId>(program_.values.size() - 1);
}

ValueId ProgramBuilder::computed(const char* letter, std::vector<std::int64_t> dims) {
  return value(letter + std::to_string(program_.values.size()), element_, std::move(dims));
}

ValueId ProgramBuilder::input(const model::ModelConfig& config, const RequestShape& shape) {
  Input input;
  input.result =
      config.is_text()
          ? value("x", base::Element::i32, {shape.batch, shape.tokens})
          : value("x", base::Element::u8,
                  {shape.batch, config.channels, config.image_height, config.image_width});
  program_.instructions.emplace_back(input);
  return input.result;
}

ValueId ProgramBuilder::sampling(std::int64_t batch) {
  Input input;
  input.result = value("sampling", base::Element::i64, {batch, sampling_columns});
  input.is_sampling = true;
  return append(input);
}

ValueId ProgramBuilder::lengths(ValueId ids, std::int32_t part) {
  Lengths i;
  i.result = value("lengths", base::Element::i32, {info(ids).dims.at(0)});
  i.ids = ids;
  i.part = part;
  return append(i);
}

ValueId ProgramBuilder::embed(const model::ModelConfig& config, std::int32_t part, ValueId given,
                              ValueId lengths, model::Range vocabulary, bool positions,
                              model::Range rows) {
  const auto& dims = info(given).dims;
  const std::int64_t tokens = config.is_text() ? dims.at(1) : config.num_tokens();
  Embed i;
  i.result = computed("x", {dims.at(0), rows.size() > 0 ? rows.size() : tokens, config.width});
  i.given = given;
  i.lengths = lengths;
  i.part = part;
  i.vocabulary = vocabulary;
  i.positions = positions;
  i.rows = rows;
  return append(i);
}

ValueId ProgramBuilder::norm(std::int32_t part, std::int32_t layer, model::NormOf which,
                             ValueId x) {
  Norm i;
  i.result = computed("h", info(x).dims);
  i.x = x;
  i.part = part;
  i.layer = layer;
  i.which = which;
  return append(i);
}

ValueId ProgramBuilder::project(const model::ModelConfig& config, std::int32_t part,
                                std::int32_t layer, model::Projection which, model::Range heads,
                                ValueId x) {
  const auto& dims = info(x).dims;
  const std::int64_t shared = which == model::Projection::query ? config.group : 1;
  const char* letter = which == model::Projection::query ? "q"
                       : which == model::Projection::key ? "k"
                                                         : "v";
  Project i;
  i.result = computed(letter, {dims.at(0), dims.at(1), heads.size() * shared * config.head_width});
  i.x = x;
  i.part = part;
  i.layer = layer;
  i.which = which;
  i.heads = heads;
  return append(i);
}

ValueId ProgramBuilder::attend(std::int32_t part, std::int32_t layer, model::Range heads,
                               model::Range texts, ValueId query, ValueId key, ValueId value,
                               ValueId lengths, model::Range rows, model::Range kept,
                               ValueId marks) {
  Attend i;
  i.result = computed("a", info(query).dims);
  i.query = query;
  i.key = key;
  i.value = value;
  i.lengths = lengths;
  i.part = part;
  i.layer = layer;
  i.heads = heads;
  i.texts = texts;
  i.rows = rows;
  i.kept = kept;
  i.marks = marks;
  return append(i);
}

ValueId ProgramBuilder::attend_inputs(std::int32_t part, std::int32_t layer, model::Range heads,
                                      ValueId query, ValueId x, ValueId lengths,
                                      model::Range rows) {
  AttendInputs i;
  i.result = computed("a", info(query).dims);
  i.query = query;
  i.x = x;
  i.lengths = lengths;
  i.part = part;
  i.layer = layer;
  i.heads = heads;
  i.rows = rows;
  return append(i);
}

ValueId ProgramBuilder::project_out(const model::ModelConfig& config, std::int32_t part,
                                    std::int32_t layer, model::Range heads, bool with_bias,
                                    ValueId context) {
  const auto& dims = info(context).dims;
  ProjectOut i;
  i.result = computed("p", {dims.at(0), dims.at(1), config.width});
  i.context = context;
  i.part = part;
  i.layer = layer;
  i.heads = heads;
  i.with_bias = with_bias;
  return append(i);
}

ValueId ProgramBuilder::mlp_up(std::int32_t part, std::int32_t layer, model::Range columns,
                               ValueId x) {
  const auto& dims = info(x).dims;
  MlpUp i;
  i.result = computed("u", {dims.at(0), dims.at(1), columns.size()});
  i.x = x;
  i.part = part;
  i.layer = layer;
  i.columns = columns;
  return append(i);
}

ValueId ProgramBuilder::mlp_down(const model::ModelConfig& config, std::int32_t part,
                                 std::int32_t layer, model::Range columns, bool with_bias,
                                 ValueId activations, ValueId after) {
  const auto& dims = info(activations).dims;
  MlpDown i;
  i.result = computed("m", {dims.at(0), dims.at(1), config.width});
  i.activations = activations;
  i.after = after;
  i.part = part;
  i.layer = layer;
  i.columns = columns;
  i.with_bias = with_bias;
  return append(i);
}

ValueId ProgramBuilder::add_bias(std::int32_t part, std::int32_t layer, model::Half half,
                                 ValueId x) {
  AddBias i;
  i.result = computed("b", info(x).dims);
  i.x = x;
  i.part = part;
  i.layer = layer;
  i.half = half;
  return append(i);
}

ValueId ProgramBuilder::add(ValueId a, ValueId b) {
  if (info(a).dims != info(b).dims)
    throw std::logic_error("[builder] add: saw operands of two shapes, needs one");
  Add i;
  i.result = computed("x", info(a).dims);
  i.a = a;
  i.b = b;
  return append(i);
}

ValueId ProgramBuilder::slice(ValueId x, std::int32_t axis, model::Range range) {
  auto dims = info(x).dims;
  auto& size = dims.at(static_cast<std::size_t>(axis));
  if (range.size() == size) return x;
  size = range.size();
  Slice i;
  i.result = value("s" + std::to_string(program_.values.size()), info(x).element, dims);
  i.x = x;
  i.axis = axis;
  i.range = range;
  return append(i);
}

ValueId ProgramBuilder::concat(std::vector<ValueId> pieces, std::int32_t axis) {
  if (pieces.size() == 1) return pieces.front();
  auto dims = info(pieces.at(0)).dims;
  auto& size = dims.at(static_cast<std::size_t>(axis));
  size = 0;
  for (const ValueId piece : pieces) size += info(piece).dims.at(static_cast<std::size_t>(axis));
  Concat i;
  i.result = value("c" + std::to_string(program_.values.size()), info(pieces.at(0)).element, dims);
  i.pieces = std::move(pieces);
  i.axis = axis;
  return append(i);
}

ValueId ProgramBuilder::cast(ValueId x, base::Element to) {
  if (info(x).element == to) return x;
  const auto dims = info(x).dims;
  Cast i;
  i.result = value("w" + std::to_string(program_.values.size()), to, dims);
  i.x = x;
  return append(i);
}

ValueId ProgramBuilder::read_out(const model::ModelConfig& config, std::int32_t part, ValueId x,
                                 ValueId lengths, model::Range rows) {
  const auto& dims = info(x).dims;
  ReadOut i;
  i.result = computed("f", {dims.at(0), feature_rows(config, dims.at(1)), config.width});
  i.x = x;
  i.lengths = lengths;
  i.part = part;
  i.rows = rows;
  return append(i);
}

ValueId ProgramBuilder::head(const model::ModelConfig& config, std::int32_t part,
                             model::Range vocabulary, ValueId feature) {
  const auto& dims = info(feature).dims;
  auto answer = answer_dims(config, dims.at(0), dims.at(1));
  if (config.reads_every_token()) answer.back() = vocabulary.size();
  Head i;
  i.result = computed("y", std::move(answer));
  i.feature = feature;
  i.part = part;
  i.vocabulary = vocabulary;
  return append(i);
}

ValueId ProgramBuilder::marks(std::int64_t batch, ValueId lengths, model::Range rows,
                              std::int64_t segments) {
  Marks i;
  i.result = computed("g", {batch, segments, 2});
  i.lengths = lengths;
  i.rows = rows;
  i.segments = segments;
  return append(i);
}

ValueId ProgramBuilder::segment_means(ValueId x, ValueId lengths, model::Range rows,
                                      std::int64_t segments) {
  if (segments == rows.size()) return x;
  SegmentMeans i;
  i.result = computed("z", {info(x).dims.at(0), segments, info(x).dims.at(2)});
  i.x = x;
  i.lengths = lengths;
  i.rows = rows;
  i.segments = segments;
  return append(i);
}

std::pair<ValueId, ValueId> ProgramBuilder::cluster(ValueId x, ValueId lengths, model::Range rows,
                                                    std::int64_t segments) {
  Cluster i;
  i.centres = computed("z", {info(x).dims.at(0), segments, info(x).dims.at(2)});
  i.marks = computed("g", {info(x).dims.at(0), segments, 2});
  i.x = x;
  i.lengths = lengths;
  i.rows = rows;
  i.segments = segments;
  program_.instructions.emplace_back(i);
  return {i.centres, i.marks};
}

ValueId ProgramBuilder::keep_ids(ValueId ids) {
  KeepIds i;
  i.result = value("kept", base::Element::i32, {info(ids).dims.at(0)});
  i.ids = ids;
  return append(i);
}

ValueId ProgramBuilder::best(ValueId logits, ValueId sampling, ValueId kept,
                             model::Range vocabulary, std::int64_t k) {
  Best i;
  i.k = std::min(k, vocabulary.size());
  i.result = value("t" + std::to_string(program_.values.size()), base::Element::f64,
                   {info(logits).dims.at(0), best_columns(i.k)});
  i.logits = logits;
  i.sampling = sampling;
  i.kept = kept;
  i.vocabulary = vocabulary;
  return append(i);
}

ValueId ProgramBuilder::sample(std::vector<ValueId> best, ValueId sampling) {
  SampleToken i;
  i.result = value("token", base::Element::f64, {info(sampling).dims.at(0), choice_columns});
  i.best = std::move(best);
  i.sampling = sampling;
  return append(i);
}

ValueId ProgramBuilder::kept_logits(std::int64_t batch, model::Range vocabulary) {
  KeptLogits i;
  i.result = computed("y", {batch, 1, vocabulary.size()});
  i.vocabulary = vocabulary;
  return append(i);
}

void ProgramBuilder::send(ValueId value, std::int32_t peer, std::uint32_t tag) {
  program_.instructions.emplace_back(Send{value, peer, tag});
}

ValueId ProgramBuilder::receive(std::string name, const ValueInfo& like, std::int32_t peer,
                                std::uint32_t tag, bool may_be_absent) {
  const ValueId result = value(std::move(name), like.element, like.dims);
  program_.instructions.emplace_back(Receive{result, peer, tag, may_be_absent});
  return result;
}

ValueId ProgramBuilder::fuse(const model::ModelConfig& teacher, std::vector<ValueId> features) {
  const auto dims = info(features.at(0)).dims;
  const ValueId result = value("y", element_, answer_dims(teacher, dims.at(0), dims.at(1)));
  program_.instructions.emplace_back(Fuse{result, std::move(features)});
  return result;
}

void ProgramBuilder::output(ValueId value) { program_.instructions.emplace_back(Output{value}); }

}  // namespace cleave::plan
