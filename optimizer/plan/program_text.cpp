#include <algorithm>

#include "base/element.hpp"
#include "optimizer/plan/program.hpp"

namespace cleave::plan {
namespace {

/// What stands between the brackets.
class Arguments {
 public:
  explicit Arguments(const Program& program) : program_(program) {}
  const std::string& text() const { return text_; }

  void result(ValueId) {}
  void operand(ValueId value) { append(program_.values.at(static_cast<std::size_t>(value)).name); }
  void optional_operand(ValueId value) {
    if (value >= 0) operand(value);
  }
  void to(std::int32_t rank) { text_ += " -> " + std::to_string(rank); }
  void part(std::int32_t part) {
    if (part != teacher_part) number("part ", part);
  }
  void layer(std::int32_t layer) {
    if (layer >= 0) number("layer ", layer);
  }
  void range(std::string_view of, const model::Range& range) {
    if (range.size() == 0) return;
    append((of.empty() ? "" : std::string(of) + " ") + std::to_string(range.begin) + ":" +
           std::to_string(range.end));
  }
  template <class Name>
  void name(Name which) {
    append(std::string(model::name_of(which)));
  }
  template <class Number>
  void number(std::string_view word, Number number) {
    append(std::string(word) + std::to_string(number));
  }
  void flag(std::string_view word, bool set) {
    if (set) append(std::string(word));
  }

 private:
  void append(const std::string& argument) { text_ += (text_.empty() ? "" : ", ") + argument; }
  const Program& program_;
  std::string text_;
};

std::string dims_text(const std::vector<std::int64_t>& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims[i]);
  }
  return text + "]";
}

/// What is known of the values that the instruction writes.
std::string results_text(const Instruction& instruction, const Program& program) {
  std::string kinds;
  for_results(instruction, [&](ValueId written) {
    const ValueInfo& result = program.values.at(static_cast<std::size_t>(written));
    kinds += (kinds.empty() ? "  # " : ", ") + std::string(base::name_of(result.element)) + " " +
             dims_text(result.dims);
  });
  return kinds;
}

}  // namespace

std::string to_text(const Instruction& instruction, const Program& program) {
  Arguments arguments(program);
  std::visit([&arguments](const auto& i) { i.fields(i, arguments); }, instruction);
  std::string names;
  for_results(instruction, [&](ValueId written) {
    names +=
        (names.empty() ? "" : ", ") + program.values.at(static_cast<std::size_t>(written)).name;
  });
  return (names.empty() ? "" : names + " = ") + std::string(name_of(instruction)) + "(" +
         arguments.text() + ")";
}

std::string stretch_name(const Program& program, std::size_t first, std::size_t last) {
  struct Layers : AnyField {
    void layer(std::int32_t layer) {
      if (layer < 0) return;
      lowest = lowest < 0 ? layer : std::min(lowest, layer);
      highest = std::max(highest, layer);
    }
    std::int32_t lowest = -1, highest = -1;
  } layers;
  for (std::size_t i = first; i <= last; ++i)
    std::visit([&layers](const auto& instruction) { instruction.fields(instruction, layers); },
               program.instructions.at(i));
  if (layers.lowest < 0) return std::string(name_of(program.instructions.at(first)));
  if (layers.lowest == layers.highest) return "layer " + std::to_string(layers.lowest);
  return "layers " + std::to_string(layers.lowest) + "-" + std::to_string(layers.highest);
}

std::string to_text(const Program& program) {
  std::string text = "rank " + std::to_string(program.rank) + ":\n";
  for (const Instruction& instruction : program.instructions)
    text += "  " + to_text(instruction, program) + results_text(instruction, program) + "\n";
  return text;
}

}  // namespace cleave::plan
