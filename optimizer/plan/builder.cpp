#include "optimizer/plan/builder.hpp"

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

ValueId ProgramBuilder::sub_model(std::int32_t part, const model::ModelConfig& config,
                                  ValueId given, bool with_head) {
  const std::int64_t batch = info(given).dims.at(0);
  const std::int64_t rows = feature_rows(config, info(given).dims.at(1));
  const ValueId result =
      with_head
          ? value("y", base::Element::f32, answer_dims(config, batch, rows))
          : value("f_" + std::to_string(part), base::Element::f32, {batch, rows, config.width});
  program_.instructions.emplace_back(SubModel{result, given, part, with_head});
  return result;
}

void ProgramBuilder::send(ValueId value, std::int32_t peer, std::uint32_t tag) {
  program_.instructions.emplace_back(Send{value, peer, tag});
}

ValueId ProgramBuilder::receive(const ValueInfo& like, std::int32_t peer, std::uint32_t tag,
                                bool may_be_absent) {
  const ValueId result = value(like.name, like.element, like.dims);
  program_.instructions.emplace_back(Receive{result, peer, tag, may_be_absent});
  return result;
}

ValueId ProgramBuilder::fuse(const model::ModelConfig& teacher, std::vector<ValueId> features) {
  const auto dims = info(features.at(0)).dims;
  const ValueId result =
      value("y", base::Element::f32, answer_dims(teacher, dims.at(0), dims.at(1)));
  program_.instructions.emplace_back(Fuse{result, std::move(features)});
  return result;
}

void ProgramBuilder::output(ValueId value) { program_.instructions.emplace_back(Output{value}); }

}  // namespace cleave::plan
